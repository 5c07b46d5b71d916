"""The command that serves the endpoint."""

from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from msgspec.structs import replace

from hsmkms.cli.options import Common, with_common

PANEL: Final = "Endpoint"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", rich_help_panel=PANEL)(serve)


@with_common("config")
def serve(
    common: Common,
    *,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on.", show_default=False)] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Number of worker processes.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads per process, for slow operations.", show_default=False)
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="A certificate chain for TLS (PEM).", show_default=False)
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option("--private-key", help="The private key of --certificate (PEM).", show_default=False)
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Serve without TLS on an address that is not loopback.")
    ] = False,
    dev: Annotated[
        bool, typer.Option("--dev", help="Serve a temporary installation on SoftHSM for tests; prints credentials.")
    ] = False,
    log_requests: Annotated[
        bool | None,
        typer.Option("--log-requests/--no-log-requests", help="Log a line for each request.", show_default=False),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Share the port with a running server of this installation, to replace it.")
    ] = False,
    until_stdin_ends: Annotated[
        bool, typer.Option("--until-stdin-ends", help="With --dev: stop when standard input is closed.")
    ] = False,
    account_id: Annotated[
        str | None, typer.Option("--account-id", help="With --dev: account id of 12 digits.", show_default=False)
    ] = None,
) -> None:
    """Serve the API of AWS KMS over HTTP until stopped. Settings are in [serve] of the configuration.

    A port that something listens on already is refused. To replace a running server of this installation without
    downtime, start the new one with --join, and stop the old one once the new one prints that it is listening.

    --dev needs nothing: token, keys and databases are created for this run and deleted afterwards.

    Example: hsmkms serve --port 8443 --workers 4
    """
    from hsmkms.config.settings import ServeSettings, check  # noqa: PLC0415
    from hsmkms.server import server  # noqa: PLC0415
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for any of this

    options = {
        "host": host,
        "port": port,
        "workers": workers,
        "threads": threads,
        "certificate": certificate and certificate.absolute(),
        "private_key": private_key and private_key.absolute(),
        "plain_http": plain_http or None,
        "log_requests": log_requests,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if dev:
        from hsmkms.server import dev as development  # noqa: PLC0415

        development.serve(
            replace(ServeSettings(port=0, workers=1, threads=8, log_requests=False), **given),
            account_id,
            until_stdin_ends=until_stdin_ends,
        )
        return
    with server.refusing():
        settings = wiring.load_settings(common.config)
        settings = replace(settings, serve=replace(settings.serve, **given))
        check(settings)
    server.serve(settings, reread=partial(wiring.load_settings, common.config), join=join)
