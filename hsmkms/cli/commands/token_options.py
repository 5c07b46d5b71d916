"""Options that name a token before there is a configuration; init and token-check share them."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer
from msgspec import Struct

from hsmkms.errors import PinError

MODULE_VARIABLES: Final = ("SOFTHSM2_CONF", "NSS_LIB_PARAMS")
"""Variables that a module may need: init copies those that are set to the configuration, so no export is needed."""

ModuleOption = Annotated[Path | None, typer.Option("--module", metavar="SO", help="The PKCS#11 module.")]
LabelOption = Annotated[str | None, typer.Option("--token-label", metavar="LABEL", help="Label of the token.")]
SerialsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--token-serial", metavar="SERIAL", help="Serial of the token; repeat for the members of an HA group."
    ),
]
UriOption = Annotated[
    str | None,
    typer.Option(
        "--uri", metavar="URI", help="RFC 7512 URI of the token, as p11tool prints it, instead of label and serial."
    ),
]
PinFileOption = Annotated[
    Path | None,
    # Not readable: systemd may hand its content over as a credential.
    typer.Option("--pin-file", metavar="FILE", help="File with the user PIN, mode 0600.", readable=False),
]
EnvironmentOption = Annotated[
    list[str] | None,
    typer.Option("--environment", metavar="NAME=VALUE", help="Variable that the module reads; repeat for more."),
]
ReservedOption = Annotated[
    str | None,
    typer.Option("--init-reserved", metavar="TEXT", help="pReserved of C_Initialize: parameters for NSS, say."),
]


class TokenOptions(Struct, frozen=True, kw_only=True):
    """The options as they were given; None, or an empty ``environment``, for what was not. ``uri`` has no query."""

    module: Path | None = None
    label: str | None = None
    serials: tuple[str, ...] | None = None
    uri: str | None = None
    pin_file: Path | None = None
    environment: dict[str, str] = {}
    init_reserved: str | None = None


def token_options(
    *,
    module: Path | None,
    label: str | None,
    serials: list[str] | None,
    uri: str | None,
    pin_file: Path | None,
    environment: list[str] | None,
    init_reserved: str | None,
) -> TokenOptions:
    """Check the options against each other; take module and PIN file from the URI if it names them."""
    if uri is not None:
        if label is not None or serials:
            raise typer.BadParameter("--uri goes without --token-label and --token-serial")
        from hsmkms.config.token_uri import parse_uri  # noqa: PLC0415 - only if there is a URI

        parsed = parse_uri(uri, "--uri")
        module = _either("--module", module, "module-path", parsed.module)
        pin_file = _either("--pin-file", pin_file, "pin-source", parsed.pin_file)
    return TokenOptions(
        module=absolute(module) if module is not None else None,
        label=label,
        serials=tuple(serials) if serials else None,
        uri=uri.partition("?")[0] if uri is not None else None,
        pin_file=absolute(pin_file) if pin_file is not None else None,
        environment=dict(map(_variable, environment or ())),
        init_reserved=init_reserved,
    )


def _either(option: str, given: Path | None, attribute: str, in_uri: Path | None) -> Path | None:
    if given is not None and in_uri is not None:
        raise typer.BadParameter(f"{option} goes without {attribute} in --uri: name it once")
    return given if given is not None else in_uri


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"--environment takes NAME=VALUE, not {text!r}")
    return name, value


def module_environment() -> dict[str, str]:
    """Return those of ``MODULE_VARIABLES`` that this process has, with their values."""
    return {name: os.environ[name] for name in MODULE_VARIABLES if name in os.environ}


def absolute(path: Path) -> Path:
    """Return a path that a person gave, absolute and with ~ expanded."""
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - Path.expanduser raises for unknown users


def existing_pin_file(path: Path) -> Path:
    """Return the PIN file that was named. PinError if there is none."""
    file = absolute(path)
    if not file.is_file():
        raise PinError(f"there is no PIN file {file}: write the user PIN into it and run `chmod 600 {file}`")
    return file
