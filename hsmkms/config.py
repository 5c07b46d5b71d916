"""Settings: one TOML file, read strictly, and the sources that a PIN may come from.

A setting that is unknown or misspelt is refused, so that nothing is silently left at its default. A PIN never stands
in the file: the file says where it comes from.
"""

import getpass
import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct, field

from hsmkms.errors import ConfigurationError, PinError

FILE_NAME: Final = "hsmkms.toml"
CONFIG_VARIABLE: Final = "HSMKMS_CONFIG"
SYSTEM_FILE: Final = Path("/etc/hsmkms") / FILE_NAME
PIN_COMMAND_SECONDS: Final = 30
_REGION: Final = re.compile(r"([a-z]+-){2,3}\d+").fullmatch
_ACCOUNT: Final = re.compile(r"[0-9]{12}").fullmatch
_OTHERS_MAY: Final = stat.S_IRWXG | stat.S_IRWXO


class PinSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the PIN comes from: exactly one of these."""

    file: Path | None = None
    environment: str | None = None
    command: list[str] | None = None
    prompt: bool = False


class TokenSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which token, and how it is reached. ``environment`` is set before the module is loaded."""

    module: Path | None = None
    label: str | None = None
    serial: str | None = None
    uri: str | None = None
    pin: PinSettings = field(default_factory=PinSettings)
    environment: dict[str, str] = field(default_factory=dict)
    init_reserved: str | None = None
    max_sessions: int = 16
    session_wait_seconds: float = 5.0


class ReconcileSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``grace_hours``: how long an object without a key is kept before it may be removed."""

    grace_hours: float = 24.0


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One installation: one account on one token, with one or more regions."""

    account_id: str
    regions: list[str]
    token: TokenSettings
    data_dir: Path = Path()
    default_region: str = ""
    reconcile: ReconcileSettings = field(default_factory=ReconcileSettings)


class TokenUri(Struct, frozen=True, kw_only=True):
    """What an RFC 7512 ``pkcs11:`` URI says of a token, its module and its PIN's place."""

    label: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot_id: int | None = None
    module: Path | None = None
    pin_file: Path | None = None


# -- finding and reading the file -------------------------------------------------------------------------------


def find(explicit: Path | None, environment: Mapping[str, str]) -> Path:
    """The configuration file: the one named, else $HSMKMS_CONFIG, ./hsmkms.toml, the user's, the system's.

    Raises ConfigurationError if there is none.
    """
    if explicit is not None:
        return explicit
    named = environment.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    home = environment.get("XDG_CONFIG_HOME")
    user = Path(home) if home else Path.home() / ".config"
    places = (Path.cwd() / FILE_NAME, user / "hsmkms" / FILE_NAME, SYSTEM_FILE)
    for place in places:
        if place.is_file():
            return place
    raise ConfigurationError(
        f"there is no configuration (looked for {', '.join(map(str, places))}): "
        "run `hsmkms init --data-dir DIR`, or name one with --config FILE"
    )


def load(path: Path) -> Settings:
    """Read and check a configuration file; paths in it count from its folder. Raises ConfigurationError."""
    try:
        settings = msgspec.toml.decode(path.read_bytes(), type=Settings, dec_hook=_path)
    except OSError as exc:
        raise ConfigurationError(f"the configuration {path} cannot be read: {exc.strerror}") from exc
    except (msgspec.DecodeError, ValueError) as exc:
        raise ConfigurationError(f"the configuration {path} is wrong: {exc}") from exc
    return _checked(path, settings)


def _path(kind: type, value: Any) -> Any:  # noqa: ANN401 - msgspec's hook
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    raise NotImplementedError(f"no setting has the type {kind}")


def _checked(path: Path, settings: Settings) -> Settings:
    folder = path.absolute().parent
    token = settings.token
    default_region = settings.default_region or (settings.regions[0] if settings.regions else "")
    faults = {
        "account_id must have 12 digits": not _ACCOUNT(settings.account_id),
        "regions must name at least one region": not settings.regions,
        "default_region must be one of regions": bool(settings.regions) and default_region not in settings.regions,
        "regions look like us-east-1": not all(map(_REGION, settings.regions)),
        "token needs label, serial or uri": not (token.label or token.serial or token.uri),
        "token.uri goes without label and serial": bool(token.uri and (token.label or token.serial)),
        "token.max_sessions must be at least 1": token.max_sessions < 1,
        "token.session_wait_seconds must not be negative": token.session_wait_seconds < 0,
        "reconcile.grace_hours must not be negative": settings.reconcile.grace_hours < 0,
    }
    for sentence, wrong in faults.items():
        if wrong:
            raise ConfigurationError(f"the configuration {path} is wrong: {sentence}")
    return msgspec.structs.replace(
        settings,
        data_dir=folder / settings.data_dir,
        default_region=default_region,
        token=_resolved(path, folder, token),
    )


def _resolved(path: Path, folder: Path, token: TokenSettings) -> TokenSettings:
    """The token's settings with absolute paths, and with what its URI says of module and PIN."""
    uri = parse_uri(token.uri) if token.uri else TokenUri()
    module = token.module or uri.module
    if module is None:
        raise ConfigurationError(f"the configuration {path} is wrong: token.module is missing")
    pin = token.pin
    if uri.pin_file is not None and pin == PinSettings():
        pin = PinSettings(file=uri.pin_file)
    sources = sum((pin.file is not None, pin.environment is not None, pin.command is not None, pin.prompt))
    if sources != 1:
        raise ConfigurationError(
            f"the configuration {path} is wrong: token.pin needs exactly one of file, environment, command and prompt"
        )
    if pin.file is not None:
        pin = msgspec.structs.replace(pin, file=folder / pin.file)
    return msgspec.structs.replace(token, module=folder / module, pin=pin)


# -- RFC 7512 ---------------------------------------------------------------------------------------------------

_URI_PATH: Final = {
    "token": "label",
    "serial": "serial",
    "manufacturer": "manufacturer",
    "model": "model",
    "slot-id": "slot_id",
}


def parse_uri(uri: str) -> TokenUri:
    """Read a ``pkcs11:`` URI that names a token. Raises ConfigurationError; a PIN in the URI is refused."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower() != "pkcs11":
        raise ConfigurationError(f"token.uri must begin with pkcs11:, not {scheme!r}")
    path, _, query = rest.partition("?")
    told: dict[str, Any] = {}
    for name, value in _attributes(path, ";"):
        if name not in _URI_PATH:
            raise ConfigurationError(f"token.uri has the attribute {name!r}; known: {', '.join(_URI_PATH)}")
        told[_URI_PATH[name]] = value
    for name, value in _attributes(query, "&"):
        if name == "module-path":
            told["module"] = Path(value)
        elif name == "pin-source":
            told["pin_file"] = Path(unquote(urlsplit(value).path)) if value.startswith("file:") else Path(value)
        elif name == "pin-value":
            raise ConfigurationError("token.uri holds a PIN (pin-value): keep it in a file and name it in token.pin")
        else:
            raise ConfigurationError(f"token.uri has the query {name!r}; known: module-path, pin-source")
    return msgspec.convert(told, TokenUri, strict=False, dec_hook=_path)


def _attributes(text: str, separator: str) -> list[tuple[str, str]]:
    parts = [part.partition("=") for part in text.split(separator) if part]
    return [(name, unquote(value)) for name, _, value in parts]


# -- the PIN ----------------------------------------------------------------------------------------------------


def read_pin(pin: PinSettings) -> str:
    """Fetch the PIN from its one source. Raises PinError, which never holds anything of the PIN."""
    if pin.file is not None:
        return _pin_of_file(pin.file)
    if pin.environment is not None:
        return _pin_of_environment(pin.environment)
    if pin.command is not None:
        return _pin_of_command(pin.command)
    return _pin_of_person()


def _pin_of_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            told = os.fstat(file.fileno())
            if told.st_mode & _OTHERS_MAY:
                raise PinError(f"the PIN file {path} is open to other users: run `chmod 600 {path}`")
            if told.st_uid not in (os.geteuid(), 0):
                raise PinError(f"the PIN file {path} belongs to somebody else: run `chown {os.geteuid()} {path}`")
            return _not_empty(file.read(), f"the PIN file {path}")
    except OSError as exc:
        raise PinError(f"the PIN file {path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise PinError(f"the PIN file {path} is not UTF-8 text") from None  # the cause would show the bytes


def _pin_of_environment(name: str) -> str:
    if name not in os.environ:
        raise PinError(f"the environment variable {name} (token.pin.environment) is not set")
    return _not_empty(os.environ[name], f"the environment variable {name}")


def _pin_of_command(command: list[str]) -> str:
    shown = command[0] if command else "(empty)"
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=PIN_COMMAND_SECONDS, check=False
        )
    except (OSError, IndexError, subprocess.TimeoutExpired) as exc:
        raise PinError(
            f"the PIN command {shown} did not run ({type(exc).__name__}): correct token.pin.command"
        ) from None
    if done.returncode:
        raise PinError(f"the PIN command {shown} ended with status {done.returncode}")
    return _not_empty(done.stdout.decode("utf-8", "replace").split("\n", 1)[0], f"the PIN command {shown}")


def _pin_of_person() -> str:
    if not sys.stdin.isatty():
        raise PinError("token.pin.prompt needs a terminal: use a file, an environment variable or a command")
    return _not_empty(getpass.getpass("PIN of the token: "), "the answer")


def _not_empty(text: str, source: str) -> str:
    pin = text.removesuffix("\n").removesuffix("\r")
    if not pin:
        raise PinError(f"{source} holds no PIN")
    return pin
