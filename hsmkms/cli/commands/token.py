"""Commands about the token: token-info, token-check, attest, change-pin."""

import getpass
import secrets
import shlex
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hsmkms.cli.api import values
from hsmkms.cli.commands.check_report import check_new_file, report_text, shown_checks
from hsmkms.cli.commands.setup import PIN_BYTES
from hsmkms.cli.commands.token_options import (
    EnvironmentOption,
    LabelOption,
    ModuleOption,
    PinFileOption,
    ReservedOption,
    SerialsOption,
    TokenOptions,
    UriOption,
    module_environment,
    token_options,
)
from hsmkms.cli.files.private_files import write_private
from hsmkms.cli.options import Common, named, with_common
from hsmkms.cli.output import OutputFormat
from hsmkms.errors import PinError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hsmkms.config.settings import PinSettings, Secret, Settings
    from hsmkms.model.token_check import CheckReport

PANEL: Final = "Token"

TokenOption = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="Label or serial, if the configuration has several [[token]]."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("token-info", rich_help_panel=PANEL)(token_info)
    app.command("token-check", rich_help_panel=PANEL)(token_check)
    app.command("attest", rich_help_panel=PANEL)(attest)
    app.command("change-pin", rich_help_panel=PANEL)(change_pin)


@with_common("config", "output", "query")
def token_info(common: Common, *, token: TokenOption = None) -> None:
    """Show the token's profile, sessions, free memory, mechanisms and quirks, and the members of its HA group.

    Example: hsmkms token-info --query Profile
    """
    with common.open() as kms, _named_device(common, token) as device:
        info = kms.operator.token_info(device)
    profile = named(info.profile)
    common.show(
        {
            "Profile": {name: value for name, value in profile.items() if name not in ("Attributes", "Mechanisms")},
            "Limits": named(info.limits) if info.limits is not None else {},
            "Mechanisms": [named(each) for each in info.mechanisms],
        }
        | ({"Members": [named(each) for each in info.members]} if info.members else {})
    )


@with_common("config", "output", "query")
def token_check(
    common: Common,
    *,
    token: TokenOption = None,
    module: ModuleOption = None,
    token_label: LabelOption = None,
    token_serial: SerialsOption = None,
    uri: UriOption = None,
    pin_file: PinFileOption = None,
    environment: EnvironmentOption = None,
    init_reserved: ReservedOption = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write all of it to a new file, to send with a bug report."),
    ] = None,
) -> None:
    """Test everything that hsmkms needs on the token; status 1 if something fails.

    Without --module it is the token of the installation. With --module none is needed: the module runs in a process of
    its own, so that it may crash, and nothing is left on the token. Without a PIN only what needs no login is tested.

    Example: hsmkms token-check --module /opt/vendor/libpkcs11.so --token-label production --pin-file pin
    """
    if report is not None:
        check_new_file(report)
    options = token_options(
        module=module,
        label=token_label,
        serials=token_serial,
        uri=uri,
        pin_file=pin_file,
        environment=environment,
        init_reserved=init_reserved,
    )
    if options == TokenOptions():
        with common.open() as kms, _named_device(common, token) as device:
            result = kms.operator.token_check(device)
    elif token is not None:
        raise typer.BadParameter("--token is for a token of the configuration: it goes without these options")
    else:
        result = _check_without_installation(options)
    if report is not None:
        write_private(report, report_text(result))
    common.show(shown_checks(result, for_people=common.query is None and common.format is OutputFormat.TABLE))
    if not result.passed:
        sys.exit(1)


@with_common("config", "region", "output", "query")
def attest(common: Common, key_id: Annotated[str, typer.Option("--key-id", help=values.KEY_HELP)]) -> None:
    """Read a key's backing keys back from the token, with their present attributes; status 1 if one has changed.

    Example: hsmkms attest --key-id alias/photos
    """
    with common.open() as kms:
        attestations = kms.operator.attest(values.key_name(key_id), common.region)
    common.show({"BackingKeys": [named(each) for each in attestations]})
    if not all(each.as_made for each in attestations):
        sys.exit(1)


@with_common("config", "output", "query")
def change_pin(
    common: Common,
    *,
    new_pin_file: Annotated[
        Path | None, typer.Option("--new-pin-file", metavar="FILE", help="The new PIN, in a file of mode 0600.")
    ] = None,
    new_pin_environment: Annotated[
        str | None,
        typer.Option("--new-pin-environment", metavar="NAME", help="The new PIN, in this environment variable."),
    ] = None,
    new_pin_command: Annotated[
        str | None, typer.Option("--new-pin-command", metavar="COMMAND", help="The new PIN, printed by a program.")
    ] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Generate a random PIN.")] = False,
    token: TokenOption = None,
) -> None:
    """Change the token's user PIN, and the file that it is read from, without interrupting service.

    Without an option the new PIN is asked for at the terminal. After an interrupted change, the command only finishes
    that one. StaleNodes: other nodes of the installation, which do not send their PIN until you have brought the new
    one to its source there and run doctor --retry-pin.

    Example: hsmkms change-pin --generate
    """
    from hsmkms import Kms  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.config import settings as configuration  # noqa: PLC0415 - see above
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.wiring import pin_change  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - help must not pay for the database and the token

    settings = wiring.load_settings(common.config)
    which = token_wiring.named_token(settings, token)
    finished = pin_change.finish(settings, which)
    if finished is not None:
        outcome = "the new PIN holds" if finished else "the old PIN holds"
        told = f"an interrupted change was finished: {outcome}"
        common.show({"PinFile": str(which.pin.file), "Outcome": told} | _stale(settings))
        return
    pin_change.pin_file(which)
    source = configuration.PinSettings(
        file=new_pin_file,
        environment=new_pin_environment,
        command=tuple(shlex.split(new_pin_command)) if new_pin_command is not None else None,
    )
    new = _new_pin(source, generate=generate)
    core = wiring.core_of(settings)
    with Kms(core):
        file = pin_change.change_pin(core, settings, which, new)
    common.show({"PinFile": str(file), "Outcome": "changed"} | _stale(settings))


def _stale(settings: "Settings") -> dict[str, list[str]]:
    """Return the nodes to which the new PIN must be brought, if there can be several."""
    from hsmkms.wiring import shared_marks  # noqa: PLC0415 - see change_pin

    if settings.store.url is None:
        return {}
    return {"StaleNodes": shared_marks.stale_nodes(settings)}


def _check_without_installation(options: TokenOptions) -> "CheckReport":
    """Check the token that the options name; at a terminal a person is asked for the PIN if no file has it."""
    from hsmkms.config import settings as config  # noqa: PLC0415 - see change_pin
    from hsmkms.wiring import new_tokens  # noqa: PLC0415 - see change_pin

    if options.module is None:
        raise typer.BadParameter("missing --module, the PKCS#11 module of the token")
    if options.pin_file is not None:
        pin: config.Secret | None = config.Secret(config.read_pin(config.PinSettings(file=options.pin_file)))
    elif sys.stdin.isatty():
        pin = config.Secret(config.read_pin(config.PinSettings(prompt=True)))
    else:
        pin = None
    token = config.TokenSettings(
        module=options.module,
        label=options.label,
        serial=options.serials,
        uri=options.uri,
        environment=module_environment() | options.environment,
        init_reserved=options.init_reserved,
    )
    return new_tokens.check_token(token, pin)


@contextmanager
def _named_device(common: Common, name: str | None) -> "Iterator[Any]":
    """The token that was named, opened; None, for the home, where none was."""
    if name is None:
        yield None
        return
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see change_pin
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see change_pin

    settings = wiring.load_settings(common.config)
    with closing(token_wiring.open_named(settings, token_wiring.named_token(settings, name))) as device:
        yield device


def _new_pin(source: "PinSettings", *, generate: bool) -> "Secret":
    from hsmkms.config.settings import Secret, read_pin  # noqa: PLC0415 - see change_pin

    if len(source.named) + generate > 1:
        raise typer.BadParameter("give one source of the new PIN")
    if generate:
        return Secret(secrets.token_urlsafe(PIN_BYTES))
    if source.named:
        return Secret(read_pin(source))
    if not sys.stdin.isatty():
        raise typer.BadParameter("missing --new-pin-file, --new-pin-environment, --new-pin-command or --generate")
    first, again = (Secret(getpass.getpass(prompt)) for prompt in ("New PIN of the token: ", "The same again: "))
    if first.reveal() != again.reveal():
        raise PinError("the two are not the same: nothing was changed")
    return first
