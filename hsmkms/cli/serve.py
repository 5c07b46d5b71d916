"""The command that serves the endpoint."""

from typing import Annotated, Final

import typer
from msgspec.structs import replace

from hsmkms.cli.invocation import Common, ConfigOption, outer_options

PANEL: Final = "Endpoint"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", rich_help_panel=PANEL)(serve)


def serve(
    context: typer.Context,
    *,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on.", show_default=False)] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes.", show_default=False)] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads of each process, for what is slow.", show_default=False)
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Serve without TLS on an address that is not loopback.")
    ] = False,
    dev: Annotated[
        bool, typer.Option("--dev", help="A throw-away installation on SoftHSM for tests; prints credentials.")
    ] = False,
    account_id: Annotated[
        str | None, typer.Option("--account-id", help="With --dev: 12 digits.", show_default=False)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Serve the API of AWS KMS over HTTP until told to stop. Settings are in [serve] of the configuration.

    With --dev nothing must exist: token, keys and databases are made for this run and are gone afterwards.

    Example: hsmkms serve --port 8443 --workers 4
    """
    from hsmkms import wiring  # noqa: PLC0415 - help must not pay for any of this
    from hsmkms.config import check  # noqa: PLC0415
    from hsmkms.http import server  # noqa: PLC0415

    if dev:
        from hsmkms.http import dev as development  # noqa: PLC0415

        development.serve(port, account_id, workers or 1)
        return
    common = Common(config=config).over(outer_options(context))
    given = {"host": host, "port": port, "workers": workers, "threads": threads, "plain_http": plain_http or None}
    with server.refusing():
        settings = wiring.load_settings(common.config)
        wanted = replace(settings.serve, **{name: value for name, value in given.items() if value is not None})
        settings = replace(settings, serve=wanted)
        check(settings)
    server.serve(settings)
