"""Settings: one TOML file, read strictly.

A setting that is unknown or misspelt is refused, so that nothing is silently left at its default. A PIN never stands
in the file: the file says where it comes from (``hsmkms/config/pins.py``). ``conf/hsmkms.toml`` describes every
setting; it is what ``init_text`` writes, so that an installation's own file can carry the same comments.
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from hsmkms import ownership
from hsmkms.config import token_tables
from hsmkms.config.pins import PinSettings, read_pin, read_private_key, read_secret, terminal_prompt
from hsmkms.config.token_tables import FURTHER_TOKENS
from hsmkms.config.token_uri import TokenUri, parse_uri
from hsmkms.errors import ConfigurationError
from hsmkms.model.quotas import QUOTA_CLASSES, QUOTA_NAMES
from hsmkms.secret import Secret

__all__ = [
    "AuditSettings",
    "BackupSettings",
    "ImportSettings",
    "PermissionSettings",
    "PinSettings",
    "ReconcileSettings",
    "RotationSettings",
    "Secret",
    "ServeSettings",
    "Settings",
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

MAX_WAIT_SECONDS: Final = 3600
MAX_PORT: Final = 65535
MAX_WORKERS: Final = 256
MAX_HANG_SECONDS: Final = 3600
MAX_SKEW_MINUTES: Final = 15
MAX_CONNECTIONS: Final = 1_000_000
LEAST_MEMORY: Final = 4.0
MOST_MEMORY: Final = 65_536.0
MAX_INTERVAL: Final = 60_000
MAX_SEGMENT: Final = 4096.0
MAX_GRACE_HOURS: Final = 10 * 365 * 24

_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_REGION: Final = re.compile(r"([a-z]+-){2,3}[0-9]+")
_SERVICE: Final = re.compile(r"[A-Za-z0-9/_-]{1,100}")
EVERY_SERVICE: Final = "*"
_PERIODS: Final = range(90, 2561)
_PERIOD: Final = "from 90 to 2560"
_VARIABLE: Final = re.compile(r"[^=\0]+")


class TokenSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which token, and how it is reached. ``environment`` is set before the module is loaded.

    Several serials are those of the members of one HA group, which share their objects: any of them is the token.
    """

    module: Path | None = None
    label: str | None = None
    serial: str | tuple[str, ...] | None = None
    uri: str | None = None
    pin: PinSettings = PinSettings()
    environment: dict[str, str] = {}
    init_reserved: str | None = None
    max_sessions: int = 16
    session_wait_seconds: float = 5.0

    @property
    def serials(self) -> tuple[str, ...]:
        """The serials that the token may have; none means any."""
        return (self.serial,) if isinstance(self.serial, str) else self.serial or ()


class ReconcileSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``grace_hours``: how long an object without a key is kept before it may be removed."""

    grace_hours: float = 24.0


class RotationSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often keys rotate, in days, and which of today's AWS rules hold."""

    period_days: int = 365
    custom_period: bool = False
    managed_period_days: int = 1095
    imported_on_demand: bool = False


class ImportSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``valid_to_within_days``: how far ahead ValidTo may lie. ``host_unwrap``: for development only."""

    valid_to_within_days: int | None = None
    host_unwrap: bool = False


class PermissionSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``unknown_principals``: whether policies and grants may name users and roles who are not there."""

    unknown_principals: str = "refuse"


class ServeSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The endpoint: address, processes and threads, TLS, limits. ``quotas``: a second, by operation or class."""

    host: str = "127.0.0.1"
    port: int = 8443
    workers: int = 2
    threads: int = 16
    certificate: Path | None = None
    private_key: Path | None = None
    plain_http: bool = False
    clock_skew_minutes: int = 5
    log_format: str = "json"
    log_requests: bool = True
    hang_seconds: float = 10.0
    max_connections: int = 0
    request_memory_mib: float = 12.0
    quotas: dict[str, float] = {}


class AuditSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The audit log: when a record is safe, what happens when it cannot be, and how its files are cut and sealed."""

    durability: str = "commit"
    interval_milliseconds: int = 200
    when_unwritable: str = "refuse"
    segment_mib: float = 64.0
    seal_file: Path | None = None


class BackupSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom backups are sealed to, and the key that signs them: from a file, or printed by a program."""

    recipients: tuple[str, ...] = ()
    signing_key: Path | None = None
    signing_command: tuple[str, ...] | None = None


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One installation: one account on one token or several, with one or more regions.

    As ``load`` returns it: paths are absolute, ``default_region`` is one of ``regions``, the modules are named, and
    each PIN has exactly one source. ``further_tokens``: all but the first of several ``[[token]]``.
    """

    account_id: str
    regions: tuple[str, ...]
    token: TokenSettings
    further_tokens: tuple[TokenSettings, ...] = field(name=FURTHER_TOKENS, default=())
    data_dir: Path = Path()
    default_region: str = ""
    services: tuple[str, ...] = ()
    rotation: RotationSettings = RotationSettings()
    imports: ImportSettings = field(name="import", default=ImportSettings())
    permissions: PermissionSettings = PermissionSettings()
    serve: ServeSettings = ServeSettings()
    audit: AuditSettings = AuditSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    backup: BackupSettings = BackupSettings()

    @property
    def tokens(self) -> tuple[TokenSettings, ...]:
        """Every token, in the order of the file, which says nothing about them."""
        return self.token, *self.further_tokens


# -- finding and reading the file -------------------------------------------------------------------------------


def find(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """The configuration file: the one named, else $HSMKMS_CONFIG, ./hsmkms.toml, the user's, the system's.

    A named file need not exist (``load`` says so). Raises ConfigurationError if none is named and none is found.
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
    # XDG Base Directory Specification: a relative path there counts as none.
    told = environ.get("XDG_CONFIG_HOME", "")
    folder = told if told.startswith("/") else os.path.join(environ.get("HOME", ""), ".config")  # noqa: PTH118
    return [Path(folder) / "hsmkms" / FILE_NAME] if folder.startswith("/") else []


def load(path: Path) -> Settings:
    """Read and check a configuration file; relative paths in it count from its folder. Raises ConfigurationError.

    Also if another user can change the file, or what it names: the module, the PIN's command, the data folder.
    """
    ownership.check("the configuration", path)
    settings = _read(path)
    check_owners(settings)
    return settings


def _read(path: Path) -> Settings:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"the configuration {path} cannot be read: {exc.strerror}") from exc
    return parse(data, path)


def parse(data: bytes, path: Path) -> Settings:
    """The settings in a file's content, as if it lay at ``path``. Raises ConfigurationError."""
    try:
        settings = msgspec.convert(token_tables.decode(data), Settings, dec_hook=_decode_path)
        return _resolved(path.absolute().parent, settings)
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigurationError) as exc:
        raise ConfigurationError(f"the configuration {path} is wrong: {exc}") from exc


def check_owners(settings: Settings) -> None:
    """Refuse what is loaded, run or written and another user can change; the PIN file is looked at when it is read."""
    ownership.check("the data folder", settings.data_dir)
    for token in settings.tokens:
        if token.module is not None:
            ownership.check_module(token.module, token.environment)
        _check_program("the PIN command", token.pin.command)
    _check_program("the signing command", settings.backup.signing_command)
    if settings.audit.seal_file is not None and not os.geteuid():  # a link there would lead root to any file
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
    )


def check(settings: Settings) -> None:
    """Raise ConfigurationError for what no file may say; ``load`` does this by itself."""
    regions, grace = settings.regions, settings.reconcile.grace_hours
    rotation, within = settings.rotation, settings.imports.valid_to_within_days
    services, unknown = settings.services, settings.permissions.unknown_principals
    bad_service = next((name for name in services if not _SERVICE.fullmatch(name) and name != EVERY_SERVICE), None)
    bad_region = next((region for region in regions if not _REGION.fullmatch(region)), None)
    faults = {
        f"account_id = {settings.account_id!r} must have 12 digits": not _ACCOUNT.fullmatch(settings.account_id),
        "regions must name at least one": not regions,
        f"regions: {bad_region!r} does not look like 'eu-central-1'": bad_region is not None,
        "regions must name each region once": len(set(regions)) < len(regions),
        f"default_region = {settings.default_region!r} must be one of regions": settings.default_region not in regions,
        **_token_faults(settings.tokens),
        f"services: {bad_service!r} must be 1 to 100 letters, digits, '/', '_' or '-'": bad_service is not None,
        "services must name each service once": len(set(services)) < len(services),
        "services: '*' stands for every name, so it stands alone": EVERY_SERVICE in services and len(services) > 1,
        f"rotation.period_days = {rotation.period_days} must be {_PERIOD}": rotation.period_days not in _PERIODS,
        f"rotation.managed_period_days = {rotation.managed_period_days} must be {_PERIOD}": rotation.managed_period_days
        not in _PERIODS,
        f"import.valid_to_within_days = {within} must be at least 1": within is not None and within < 1,
        f"permissions.unknown_principals = {unknown!r} must be refuse or accept": unknown not in ("refuse", "accept"),
        **_serve_faults(settings.serve),
        **_audit_faults(settings.audit),
        "backup.signing_key and backup.signing_command: name one of them": None
        not in (settings.backup.signing_key, settings.backup.signing_command),
        f"reconcile.grace_hours = {grace} must be from 0 to {MAX_GRACE_HOURS}": not 0 <= grace <= MAX_GRACE_HOURS,
    }
    for sentence, wrong in faults.items():
        if wrong:
            raise ConfigurationError(sentence)


def _token_faults(tokens: tuple[TokenSettings, ...]) -> dict[str, bool]:
    named = {(each.label, each.serial, each.uri) for each in tokens}
    prompted = len(tokens) > 1 and any(each.pin.prompt for each in tokens)
    faults = {
        "a PIN can be asked for at a prompt where there is one [token] only; [[token]] need other sources": prompted,
        "two [[token]] have the same label, serial and uri: each must be another one": len(named) < len(tokens),
    }
    for number, each in enumerate(tokens, 1):
        which = f" ([[token]] number {number}, label {each.label!r})" if len(tokens) > 1 else ""
        faults.update({f"{sentence}{which}": True for sentence, wrong in _faults_of_token(each).items() if wrong})
    return faults


def _faults_of_token(token: TokenSettings) -> dict[str, bool]:
    wait = token.session_wait_seconds
    return {
        "token.label must not be empty": token.label == "",
        "token.serial must not be empty": token.serial is not None and not (token.serial and all(token.serial)),
        "token.serial must name each member once": isinstance(token.serial, tuple)
        and len(set(token.serial)) < len(token.serial),
        "token.label, token.serial or token.uri must say which token": not (token.label or token.serial or token.uri),
        "token.environment has a name that cannot be one": not all(map(_VARIABLE.fullmatch, token.environment)),
        "token.uri goes without token.label and token.serial": bool(token.uri and (token.label or token.serial)),
        f"token.max_sessions = {token.max_sessions} must be at least 1": token.max_sessions < 1,
        f"token.session_wait_seconds = {wait} must be from 0 to {MAX_WAIT_SECONDS}": not 0 <= wait <= MAX_WAIT_SECONDS,
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


def _audit_faults(audit: AuditSettings) -> dict[str, bool]:
    waits, size = audit.interval_milliseconds, audit.segment_mib
    return {
        f"audit.durability = {audit.durability!r} must be commit, interval or off": audit.durability
        not in ("commit", "interval", "off"),
        f"audit.interval_milliseconds = {waits} must be from 1 to 60000": not 1 <= waits <= MAX_INTERVAL,
        f"audit.when_unwritable = {audit.when_unwritable!r} must be refuse or go-on": audit.when_unwritable
        not in ("refuse", "go-on"),
        f"audit.segment_mib = {size} must be more than 0, and 4096 at most": not 0 < size <= MAX_SEGMENT,
    }


def _serve_faults(serve: ServeSettings) -> dict[str, bool]:
    memory = serve.request_memory_mib
    unknown = next((name for name in serve.quotas if name not in QUOTA_NAMES), None)
    return {
        f"serve.port = {serve.port} must be from 0 to 65535": not 0 <= serve.port <= MAX_PORT,
        f"serve.workers = {serve.workers} must be from 1 to 256": not 1 <= serve.workers <= MAX_WORKERS,
        f"serve.threads = {serve.threads} must be from 1 to 256": not 1 <= serve.threads <= MAX_WORKERS,
        "serve.certificate and serve.private_key go together": (serve.certificate is None)
        != (serve.private_key is None),
        f"serve.clock_skew_minutes = {serve.clock_skew_minutes} must be from 1 to 15": not 1
        <= serve.clock_skew_minutes
        <= MAX_SKEW_MINUTES,
        f"serve.hang_seconds = {serve.hang_seconds} must be 0 or from 1 to 3600": serve.hang_seconds != 0
        and not 1 <= serve.hang_seconds <= MAX_HANG_SECONDS,
        f"serve.max_connections = {serve.max_connections} must be from 0 to {MAX_CONNECTIONS}": not 0
        <= serve.max_connections
        <= MAX_CONNECTIONS,
        f"serve.request_memory_mib = {memory} must be from {LEAST_MEMORY} to {MOST_MEMORY}": not LEAST_MEMORY
        <= memory
        <= MOST_MEMORY,
        f"serve.log_format = {serve.log_format!r} must be json or text": serve.log_format not in ("json", "text"),
        f"serve.quotas: {unknown!r} is no operation of AWS KMS, and none of {', '.join(QUOTA_CLASSES)}": unknown
        is not None,
    }


def _resolved_token(folder: Path, token: TokenSettings) -> TokenSettings:
    """The token's settings with absolute paths, and with what its URI says of module and PIN."""
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
