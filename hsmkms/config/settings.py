"""Read the settings from one TOML file, strictly.

An unknown or misspelt setting is refused, so that no setting silently keeps its default. The file never holds a PIN,
only its source (``hsmkms/config/pins.py``). ``conf/hsmkms.toml`` describes every setting; ``init_text`` writes the same
text, so that an installation's own file has the same comments.
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from hsmkms import ownership
from hsmkms.config import softhsm, store_settings, token_tables
from hsmkms.config.limits import above_zero, between, broken, matching, off_or_between, one_of
from hsmkms.config.pins import PinSettings, read_pin, read_private_key, read_secret, terminal_prompt
from hsmkms.config.store_settings import PasswordSettings, StoreSettings
from hsmkms.config.token_tables import FURTHER_TOKENS
from hsmkms.config.token_uri import TokenUri, parse_uri
from hsmkms.errors import ConfigurationError
from hsmkms.model.audit import Durability
from hsmkms.model.quotas import QUOTA_CLASSES, QUOTA_NAMES
from hsmkms.model.shapes import ROTATION_PERIOD_DAYS
from hsmkms.secret import Secret

__all__ = [
    "AuditSettings",
    "BackupSettings",
    "ImportSettings",
    "PasswordSettings",
    "PermissionSettings",
    "PinSettings",
    "ReconcileSettings",
    "RotationSettings",
    "Secret",
    "ServeSettings",
    "Settings",
    "StoreSettings",
    "TokenSettings",
    "TokenUri",
    "check",
    "find",
    "load",
    "parse",
    "parse_uri",
    "read_pin",
    "read_private_key",
    "read_secret",
    "terminal_prompt",
]

FILE_NAME: Final = "hsmkms.toml"
CONFIG_VARIABLE: Final = "HSMKMS_CONFIG"
SYSTEM_FILE: Final = Path("/etc/hsmkms") / FILE_NAME

EVERY_SERVICE: Final = "*"

_PERIOD: Final = between(ROTATION_PERIOD_DAYS.lowest, ROTATION_PERIOD_DAYS.highest)
_THREADS: Final = between(1, 256)
_SERVICE: Final = matching(r"[A-Za-z0-9/_-]{1,100}|\*", "must be 1 to 100 letters, digits, '/', '_' or '-'")
_PADDING: Final = "\0 "
"""What pads a serial that was copied from a token's fields, and does not count."""
_VARIABLE: Final = re.compile(r"[^=\0]+")


class TokenSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to find and open a token. ``environment`` is set before the module is loaded.

    Several serials belong to the members of one HA group, which share their objects: each of them is the token. An
    empty serial is that of a token that reports none.
    """

    module: Path | None = None
    label: str | None = None
    serial: str | tuple[str, ...] | None = None
    uri: str | None = None
    pin: PinSettings = PinSettings()
    environment: dict[str, str] = {}
    init_reserved: str | None = None
    max_sessions: Annotated[int, between(1, 65_535)] = 16
    session_wait_seconds: Annotated[float, between(0, 3600)] = 5.0
    replication_seconds: Annotated[float, between(0, 3600)] = 5.0

    @property
    def serials(self) -> tuple[str, ...]:
        """The accepted serials of the token; none means any."""
        return (self.serial,) if isinstance(self.serial, str) else self.serial or ()


class ReconcileSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``grace_hours``: how long an object without a key is kept before it may be removed."""

    grace_hours: Annotated[float, between(0, 10 * 365 * 24)] = 24.0


class RotationSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rotation periods in days, and which rules of today's AWS apply."""

    period_days: Annotated[int, _PERIOD] = 365
    custom_period: bool = False
    managed_period_days: Annotated[int, _PERIOD] = 1095
    imported_on_demand: bool = False


class ImportSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``valid_to_within_days``: how far ahead ValidTo may lie. ``host_unwrap``: for development only.

    ``accept_crashes``: import though the module crashes where it cannot unwrap material.
    """

    valid_to_within_days: Annotated[int | None, between(1, 36_500)] = None
    host_unwrap: bool = False
    accept_crashes: bool = False


class PermissionSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``unknown_principals``: whether policies and grants may name users and roles that do not exist."""

    unknown_principals: Annotated[str, one_of(("refuse", "accept"))] = "refuse"


class ServeSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The endpoint: address, processes, threads, TLS, limits. ``quotas``: requests a second, by operation or class."""

    host: str = "127.0.0.1"
    port: Annotated[int, between(0, 65535)] = 8443
    workers: Annotated[int, _THREADS] = 2
    threads: Annotated[int, _THREADS] = 16
    certificate: Path | None = None
    private_key: Path | None = None
    plain_http: bool = False
    clock_skew_minutes: Annotated[int, between(1, 15)] = 5
    log_format: Annotated[str, one_of(("json", "text"))] = "json"
    log_requests: bool = True
    metrics_keys: Annotated[int, between(0, 1000)] = 0
    hang_seconds: Annotated[float, off_or_between(1, 3600)] = 10.0
    max_connections: Annotated[int, between(0, 1_000_000)] = 0
    request_memory_mib: Annotated[float, between(4.0, 65_536.0)] = 12.0
    quotas: Annotated[dict[str, float], between(0, 1_000_000)] = {}


class AuditSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The audit log: its durability, what happens when it cannot be written, its segments, and where seals go."""

    durability: Annotated[str, one_of(Durability)] = Durability.COMMIT
    interval_milliseconds: Annotated[int, between(1, 60_000)] = 200
    when_unwritable: Annotated[str, one_of(("refuse", "go-on"))] = "refuse"
    segment_mib: Annotated[float, above_zero(4096)] = 64.0
    seal_file: Path | None = None


class BackupSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The recipients that backups are encrypted to, and the signing key: in a file, or printed by a program."""

    recipients: tuple[str, ...] = ()
    signing_key: Path | None = None
    signing_command: tuple[str, ...] | None = None


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One installation: one account on one token or several, with one or more regions.

    As ``load`` returns it: paths are absolute, ``default_region`` is one of ``regions``, the modules are named, and
    each PIN has exactly one source. ``further_tokens``: all but the first of several ``[[token]]``.
    """

    account_id: Annotated[str, matching(r"[0-9]{12}", "must have 12 digits")]
    regions: Annotated[tuple[str, ...], matching(r"([a-z]+-){2,3}[0-9]+", "does not look like 'eu-central-1'")]
    token: TokenSettings
    further_tokens: tuple[TokenSettings, ...] = field(name=FURTHER_TOKENS, default=())
    data_dir: Path = Path()
    default_region: str = ""
    services: Annotated[tuple[str, ...], _SERVICE] = ()
    rotation: RotationSettings = RotationSettings()
    imports: ImportSettings = field(name="import", default=ImportSettings())
    permissions: PermissionSettings = PermissionSettings()
    serve: ServeSettings = ServeSettings()
    audit: AuditSettings = AuditSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    backup: BackupSettings = BackupSettings()
    store: StoreSettings = StoreSettings()

    @property
    def tokens(self) -> tuple[TokenSettings, ...]:
        """All tokens, in the order of the file, which has no meaning."""
        return self.token, *self.further_tokens


# -- finding and reading the file -------------------------------------------------------------------------------


def find(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """Find the configuration file: ``explicit``, else $HSMKMS_CONFIG, ./hsmkms.toml, the user's, the system's.

    A named file need not exist (``load`` checks that). Raises ConfigurationError if none is named and none exists.
    """
    if explicit is not None:
        return explicit
    if environ.get(CONFIG_VARIABLE):
        return Path(environ[CONFIG_VARIABLE])
    places = [Path(FILE_NAME), *_user_files(environ), SYSTEM_FILE]
    for place in places:
        # Not Path.is_file: that raises where a folder may not be read.
        if os.path.isfile(place):  # noqa: PTH113
            return place
    raise ConfigurationError(
        f"there is no configuration (looked for --config, ${CONFIG_VARIABLE}, {', '.join(map(str, places))}): "
        "run `hsmkms init --data-dir DIR`"
    )


def _user_files(environ: Mapping[str, str]) -> list[Path]:
    # XDG Base Directory Specification: a relative path there is ignored.
    base = environ.get("XDG_CONFIG_HOME", "")
    folder = base if base.startswith("/") else os.path.join(environ.get("HOME", ""), ".config")  # noqa: PTH118
    return [Path(folder) / "hsmkms" / FILE_NAME] if folder.startswith("/") else []


def load(path: Path) -> Settings:
    """Read and check a configuration file; relative paths in it are relative to its folder. Raises ConfigurationError.

    That includes a file that another user can change, or that names something another user can change: the module,
    the PIN command, the data folder.
    """
    ownership.check("the configuration", path)
    settings = _read(path)
    check_owners(settings)
    return settings


def _read(path: Path) -> Settings:
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise ConfigurationError(
            f"there is no configuration {path}: correct --config or ${CONFIG_VARIABLE}, or run "
            "`hsmkms init --data-dir DIR`; one that is lost comes back by `hsmkms restore FILE --data-dir DIR`"
        ) from exc
    except OSError as exc:
        raise ConfigurationError(f"the configuration {path} cannot be read: {exc.strerror}") from exc
    return parse(data, path)


def parse(data: bytes, path: Path) -> Settings:
    """Parse and check the content of a configuration file, as if it were at ``path``. Raises ConfigurationError."""
    try:
        settings = msgspec.convert(token_tables.decode(data), Settings, dec_hook=_decode_path)
        return _resolved(path.absolute().parent, settings)
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigurationError) as exc:
        raise ConfigurationError(f"the configuration {path} is wrong: {exc}") from exc
    except ValueError as exc:  # an integer with so many digits that Python neither reads nor shows it
        raise ConfigurationError(f"the configuration {path} is wrong: a number in it is too long") from exc


def check_owners(settings: Settings) -> None:
    """Refuse what is loaded, run or written if another user can change it; the PIN file is checked when it is read."""
    ownership.check("the data folder", settings.data_dir)
    ownership.check_user("the data folder", settings.data_dir)
    for token in settings.tokens:
        if token.module is not None:
            ownership.check_module(token.module, token.environment)
        softhsm.check_owner(token.environment, token.serials)
        _check_program("the PIN command", token.pin.command)
    _check_program("the signing command", settings.backup.signing_command)
    _check_program("the command for the database's password", settings.store.password.command)
    if settings.audit.seal_file is not None and not os.geteuid():  # through a link there root could overwrite any file
        ownership.check("audit.seal_file", settings.audit.seal_file)
    for name, file in {"certificate": settings.serve.certificate, "private_key": settings.serve.private_key}.items():
        if file is not None:
            ownership.check(f"serve.{name}", file)


def _check_program(what: str, command: tuple[str, ...] | None) -> None:
    program = shutil.which(command[0]) if command else None
    if program is not None:
        ownership.check(what, Path(program))


def _decode_path(kind: type, value: Any) -> Any:  # noqa: ANN401 - the signature of msgspec's hook
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(os.path.expanduser(value))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    raise ValueError(f"expected a path, got {value!r}")


def _resolved(folder: Path, settings: Settings) -> Settings:
    default_region = settings.default_region or next(iter(settings.regions), "")
    check(replace(settings, default_region=default_region))
    return replace(
        settings,
        data_dir=folder / settings.data_dir,
        default_region=default_region,
        token=_resolved_token(folder, settings.token),
        further_tokens=tuple(_resolved_token(folder, each) for each in settings.further_tokens),
        serve=_resolved_serve(folder, settings.serve),
        audit=_resolved_audit(folder, settings.audit),
        backup=_resolved_backup(folder, settings.backup),
        store=_resolved_store(folder, settings.store),
    )


def check(settings: Settings) -> None:
    """Raise ConfigurationError for invalid values or combinations; ``load`` calls this."""
    regions, services, backup = settings.regions, settings.services, settings.backup
    for sentence in broken(replace(settings, token=TokenSettings())):  # tokens are checked below, with their numbers
        raise ConfigurationError(sentence)
    faults = {
        "regions must name at least one": not regions,
        "regions must name each region once": len(set(regions)) < len(regions),
        f"default_region = {settings.default_region!r} must be one of regions": settings.default_region not in regions,
        **_token_faults(settings.tokens),
        "services must name each service once": len(set(services)) < len(services),
        "services: '*' stands for every name, so it stands alone": EVERY_SERVICE in services and len(services) > 1,
        **_serve_faults(settings.serve),
        **store_settings.faults(settings.store),
        "backup.signing_key and backup.signing_command: name one of them": None
        not in (backup.signing_key, backup.signing_command),
    }
    for sentence, wrong in faults.items():
        if wrong:
            raise ConfigurationError(sentence)


def _token_faults(tokens: tuple[TokenSettings, ...]) -> dict[str, bool]:
    named = {(each.label, each.serial, each.uri) for each in tokens}
    prompted = len(tokens) > 1 and any(each.pin.prompt for each in tokens)
    faults = {
        "a PIN can be asked for at a prompt where there is one [token] only; [[token]] need other sources": prompted,
        "two [[token]] have the same label, serial and uri: each must name a different token": len(named) < len(tokens),
    }
    for number, each in enumerate(tokens, 1):
        which = f" ([[token]] number {number}, label {each.label!r})" if len(tokens) > 1 else ""
        faults.update({f"{sentence}{which}": True for sentence, wrong in _faults_of_token(each).items() if wrong})
    return faults


def _faults_of_token(token: TokenSettings) -> dict[str, bool]:
    members = [each.rstrip(_PADDING) for each in token.serial] if isinstance(token.serial, tuple) else []
    return {
        "token.label must not be empty": token.label == "",
        "token.serial must name at least one member": token.serial == (),
        "token.serial must not name an empty one among several": not all(members),
        "token.serial must name each member once": len(set(members)) < len(members),
        "token.label, token.serial or token.uri must say which token": not (token.label or token.serial or token.uri),
        "token.environment has a name that cannot be one": not all(map(_VARIABLE.fullmatch, token.environment)),
        "token.uri goes without token.label and token.serial": bool(token.uri and (token.label or token.serial)),
        **dict.fromkeys(broken(token, "token"), True),
    }


def _resolved_serve(folder: Path, serve: ServeSettings) -> ServeSettings:
    files = {"certificate": serve.certificate, "private_key": serve.private_key}
    return replace(serve, **{name: folder / path for name, path in files.items() if path is not None})


def _resolved_audit(folder: Path, audit: AuditSettings) -> AuditSettings:
    return replace(audit, seal_file=folder / audit.seal_file) if audit.seal_file is not None else audit


def _resolved_backup(folder: Path, backup: BackupSettings) -> BackupSettings:
    recipients = tuple(
        each if each.startswith(("age1", "ssh-")) else str(folder / os.path.expanduser(each))  # noqa: PTH111 - see _decode_path
        for each in backup.recipients
    )
    key, command = backup.signing_key, backup.signing_command
    return replace(
        backup,
        recipients=recipients,
        signing_key=folder / key if key is not None else None,
        signing_command=_resolved_command("backup.signing_command", folder, command) if command is not None else None,
    )


def _resolved_store(folder: Path, store: StoreSettings) -> StoreSettings:
    file, command = store.password.file, store.password.command
    password = replace(
        store.password,
        file=folder / file if file is not None else None,
        command=_resolved_command("store.password.command", folder, command) if command is not None else None,
    )
    return replace(store, password=password)


def _serve_faults(serve: ServeSettings) -> dict[str, bool]:
    unknown = next((name for name in serve.quotas if name not in QUOTA_NAMES), None)
    return {
        "serve.certificate and serve.private_key go together": (serve.certificate is None)
        != (serve.private_key is None),
        f"serve.quotas: {unknown!r} is no operation of AWS KMS, and none of {', '.join(QUOTA_CLASSES)}": unknown
        is not None,
    }


def _resolved_token(folder: Path, token: TokenSettings) -> TokenSettings:
    """Return the token's settings with absolute paths, and with the module and PIN source of its URI."""
    uri = parse_uri(token.uri) if token.uri else TokenUri()
    modules = [path for path in (token.module, uri.module) if path is not None]
    if len(modules) != 1:
        raise ConfigurationError("the module must be named once: by token.module, or by module-path in token.uri")
    pins = [pin for pin in (token.pin, PinSettings(file=uri.pin_file)) if pin.named]
    if len(pins) != 1 or len(pins[0].named) != 1:
        raise ConfigurationError(
            "the PIN needs exactly one source: file, environment, command or prompt in [token.pin], "
            "or pin-source in token.uri"
        )
    return replace(token, module=folder / modules[0], pin=_resolved_pin(folder, pins[0]))


def _resolved_pin(folder: Path, pin: PinSettings) -> PinSettings:
    if pin.command is not None:
        return replace(pin, command=_resolved_command("token.pin.command", folder, pin.command))
    return replace(pin, file=folder / pin.file) if pin.file is not None else pin


def _resolved_command(name: str, folder: Path, command: tuple[str, ...]) -> tuple[str, ...]:
    if not command or not command[0]:
        raise ConfigurationError(f"{name} must name a program")
    program = command[0]
    return (str(folder / program) if "/" in program else program, *command[1:])
