"""Building a `Kms` from settings: the only place where store, device and service meet."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from hsmkms import config
from hsmkms.config import Secret, Settings
from hsmkms.errors import (
    ConfigurationError,
    HsmKmsError,
    StoreError,
    TokenNotFoundError,
    TokenUnavailableError,
)
from hsmkms.hsm import module as modules
from hsmkms.hsm import softhsm
from hsmkms.hsm.away import AwayDevice
from hsmkms.hsm.choice import TokenChoice, choose
from hsmkms.hsm.device import Device, DeviceSettings
from hsmkms.hsm.login import LoginGate, check_counters
from hsmkms.hsm.softhsm import SoftToken
from hsmkms.process import exclusive, uptime
from hsmkms.rules.audit_policy import AuditPolicy, Durability
from hsmkms.rules.audit_record import Occasion
from hsmkms.rules.importing import ImportPolicy
from hsmkms.rules.rotation import RotationPolicy
from hsmkms.service import backup_keys, binding, restoring, row_seals, sealing
from hsmkms.service.access import Access
from hsmkms.service.audit import FOLDER as AUDIT_FOLDER
from hsmkms.service.audit import AuditBook
from hsmkms.service.backup_keys import Header
from hsmkms.service.cache import RecordCache
from hsmkms.service.clock import DriftWatch
from hsmkms.service.core import Checkpoint, Clock, Core, Installation, never_drifted, no_checkpoint
from hsmkms.service.leases import LeaseBook
from hsmkms.service.restoring import Restored
from hsmkms.service.row_seals import SealBook
from hsmkms.service.usage import UsageBook
from hsmkms.store import files, leases, migrate
from hsmkms.store.engine import Store
from hsmkms.store.installation import InstallationRow, TokenRow

Monotonic = Callable[[], float]

INIT_LOCK: Final = "init.lock"
INIT_LOCK_SECONDS: Final = 60.0


def utc_now() -> datetime:
    """The clock of every entry point."""
    return datetime.now(UTC)


def boot_time() -> float:
    """Seconds since the machine was started, also of those in which it slept: a clock that nobody can set."""
    return uptime()


def open_core(path: Path | None = None, clock: Clock = utc_now) -> Core:
    """Open the installation that a configuration file describes; see ``Kms.open``."""
    return core_of(load_settings(path), clock, boot_time if clock is utc_now else None)


def open_core_for_maintenance(path: Path | None = None) -> Core:
    """The same, also while the token is away: then everything that needs it is refused by ``TokenUnavailableError``."""
    settings = load_settings(path)
    try:
        return core_of(settings, monotonic=boot_time)
    except (TokenUnavailableError, TokenNotFoundError) as exc:
        return core_without_token(settings, TokenUnavailableError(str(exc)))


def load_settings(path: Path | None = None) -> Settings:
    """Find and read the configuration as every entry point does."""
    return config.load(configuration_file(path))


def configuration_file(path: Path | None = None) -> Path:
    """Find the configuration as every entry point does."""
    return config.find(path, os.environ)


def core_of(
    settings: Settings, clock: Clock = utc_now, monotonic: Monotonic | None = None, pin: Secret | None = None
) -> Core:
    """Open database and token, and prove that they belong together.

    ``monotonic`` (seconds, not to be set by anybody) is what the clock is watched with; without one it is not.
    ``pin`` is for who has asked for it already; otherwise it is read from its source.
    """
    store = Store.open(settings.data_dir)
    try:
        device = open_device(settings, pin=pin)
    except BaseException:
        store.close()
        raise
    try:
        core = _core(settings, store, device, _installation(settings, store, device), clock, monotonic)
        sealing.seal_rows(core)
    except BaseException:
        device.close()
        store.close()
        raise
    return core


def core_without_token(settings: Settings, fault: HsmKmsError, clock: Clock = utc_now) -> Core:
    """An installation whose token cannot be reached, for what needs the database alone; ``fault`` says why."""
    store = Store.open(settings.data_dir)
    try:
        installation = _described(settings, *binding.told(store), mac_key=b"")
        return _core(settings, store, AwayDevice(fault), installation, clock, None)
    except BaseException:
        store.close()
        raise


def _core(
    settings: Settings,
    store: Store,
    device: Device,
    installation: Installation,
    clock: Clock,
    monotonic: Monotonic | None,
) -> Core:
    rotation, imports = settings.rotation, settings.imports
    seals = SealBook(store, lambda conn: row_seals.keys_from(device, installation, conn))
    cache = RecordCache(store, seals.check)
    occasion = Occasion(installation.account, _agent())
    audit = AuditBook(store, installation.id, occasion, audit_policy(settings), lambda: cache.epoch, clock)
    store.meta.companions.append(seals)  # after the audit log: it seals what that has written
    return Core(
        installation=installation,
        store=store,
        device=device,
        cache=cache,
        audit=audit,
        seals=seals,
        record=audit.record,
        authorise=Access(cache, installation.account),
        leases=LeaseBook(store),
        uses=UsageBook(store),
        clock=clock,
        rotation=RotationPolicy(
            period_days=rotation.period_days,
            custom_period=rotation.custom_period,
            managed_period_days=rotation.managed_period_days,
            imported_on_demand=rotation.imported_on_demand,
        ),
        imports=ImportPolicy(valid_to_within_days=imports.valid_to_within_days),
        services=settings.services,
        grace_hours=settings.reconcile.grace_hours,
        drifted=DriftWatch(clock, monotonic) if monotonic is not None else never_drifted,
    )


def audit_folder(settings: Settings) -> Path:
    """Where the files of the audit log are."""
    return settings.data_dir / AUDIT_FOLDER


def audit_policy(settings: Settings) -> AuditPolicy:
    """What the settings say of the audit log."""
    audit = settings.audit
    return AuditPolicy(
        durability=Durability(audit.durability),
        interval_seconds=audit.interval_milliseconds / 1000,
        refuse=audit.when_unwritable == "refuse",
        segment_bytes=int(audit.segment_mib * 1024 * 1024),
        seal_file=str(audit.seal_file) if audit.seal_file is not None else None,
    )


def _agent() -> str:
    """How calls of this process that come from nobody else are named in the audit log."""
    return f"hsmkms (uid {os.getuid()}, pid {os.getpid()})"


def open_device(settings: Settings, *, accept_final_try: bool = False, pin: Secret | None = None) -> Device:
    """Open the token of the settings, without the database."""
    return Device.open(
        device_settings(settings),
        pin.reveal if pin is not None else _reader(settings),
        accept_final_try=accept_final_try,
    )


def _reader(settings: Settings) -> Callable[[], str]:
    """Reads the PIN at each login, since it may be changed; from a person at the terminal only once."""

    def read() -> str:
        return config.read_pin(settings.token.pin, interactive=config.terminal_prompt())

    return cache(read) if settings.token.pin.prompt else read


def device_settings(settings: Settings) -> DeviceSettings:
    """What the token's layer has to know of the settings."""
    token = settings.token
    if token.module is None:
        raise ConfigurationError("token.module is missing")
    uri = config.parse_uri(token.uri) if token.uri else config.TokenUri(label=token.label, serial=token.serial)
    return DeviceSettings(
        module=token.module,
        choice=TokenChoice(
            label=uri.label, serial=uri.serial, manufacturer=uri.manufacturer, model=uri.model, slot_id=uri.slot_id
        ),
        state_dir=settings.data_dir,
        environment=token.environment,
        init_reserved=token.init_reserved,
        max_sessions=token.max_sessions,
        session_wait_seconds=token.session_wait_seconds,
        host_unwrap=settings.imports.host_unwrap,
    )


def initialise(settings: Settings, clock: Clock = utc_now) -> InstallationRow:
    """Make the databases and the installation's own key on the token; an interrupted attempt is carried on.

    The configuration file must be there. Several at once make one. Raises SetupError or TokenError.
    """
    with exclusive(settings.data_dir / INIT_LOCK, INIT_LOCK_SECONDS):
        return _initialise(settings, clock)


def _initialise(settings: Settings, clock: Clock) -> InstallationRow:
    device = open_device(settings)
    try:
        if not files.exists(settings.data_dir):
            if leases.counted(settings.data_dir):
                raise StoreError(
                    f"{settings.data_dir} has a log.db with counts of encryptions but no meta.db: restore that one. "
                    "To give its keys up and begin afresh, choose another --data-dir"
                )
            migrate.create(settings.data_dir)
        store = Store.open(settings.data_dir)
        try:
            return binding.initialise(store, device, settings.account_id, clock)
        finally:
            store.close()
    finally:
        device.close()


def is_initialised(settings: Settings) -> bool:
    """True if ``initialise`` has been completed for these settings."""
    store = Store.open(settings.data_dir)
    try:
        return binding.is_bound(store)
    finally:
        store.close()


def migrate_databases(settings: Settings) -> tuple[list[str], dict[str, str]]:
    """Bring both databases to this program's revision; returns what was applied, and where they are now."""
    applied = migrate.upgrade(settings.data_dir)
    return applied, migrate.current(settings.data_dir)


def check_databases(settings: Settings) -> None:
    """Let SQLite look at every page of both databases. Raises StoreError if one is damaged."""
    for database in files.DATABASES:
        files.check_pages(settings.data_dir / database.name)


def wrong_pins_given(settings: Settings) -> bool:
    """True if somebody gave a wrong PIN since the last login. Raises PinError if no PIN would be sent to the token."""
    told = device_settings(settings)
    module = modules.acquire(told.module, environment=told.environment, reserved=told.init_reserved)
    try:
        return check_counters(choose(module, told.choice), LoginGate(settings.data_dir))
    finally:
        module.release()


def database_revisions(settings: Settings) -> dict[str, str]:
    """The revisions of both databases; raises StoreError or MigrationError unless this program can work with them."""
    Store.open(settings.data_dir).close()
    return migrate.current(settings.data_dir)


def make_softhsm_token(
    module: Path | None, folder: Path, *, label: str, user_pin: str, so_pin: str
) -> tuple[Path, SoftToken]:
    """Make a SoftHSM token in a folder of its own; returns the module that was used, and the token."""
    used = module or softhsm.find_module()
    return used, softhsm.create(used, folder, label=label, user_pin=user_pin, so_pin=so_pin)


def serial_of(module: Path, environment: dict[str, str], label: str, serial: str | None) -> str:
    """The serial of the one token that fits; raises TokenNotFoundError for none or several."""
    loaded = modules.acquire(module, environment=environment)
    try:
        return choose(loaded, TokenChoice(label=label, serial=serial)).serial.decode("utf-8", "replace")
    finally:
        loaded.release()


def restore(
    settings: Settings,
    file: Path,
    private_key: bytes | None,
    *,
    accept_rollback: bool,
    reached: Checkpoint = no_checkpoint,
) -> Restored:
    """Restore a backup into the data folder of the settings; see ``service/restoring.py``.

    ``private_key``: PKCS #8 in DER, of whom the backup is sealed to; None where the token opens it.
    """
    files.make_folder(settings.data_dir)
    device = open_device(settings)
    try:
        return restoring.restore(
            file,
            settings.data_dir,
            opener(private_key, device),
            lambda folder: core_of(replace(settings, data_dir=folder)),
            accept_rollback=accept_rollback,
            reached=reached,
        )
    finally:
        device.close()


def opener(private_key: bytes | None, device: Device | None = None) -> restoring.Unseal:
    """What opens a backup: a private key, or the token."""

    def unseal(header: Header) -> bytes:
        if header.method != backup_keys.BY_TOKEN:
            if private_key is None:
                raise ConfigurationError(
                    f"the backup is sealed to a public key ({header.recipient}): give its --private-key"
                )
            return backup_keys.open_with_private_key(header, private_key)
        if device is None:
            raise ConfigurationError("the backup is sealed by its token: give the --config that says which that is")
        return backup_keys.open_with_token(header, device)

    return unseal


def configuration_in(file: Path, private_key: bytes | None) -> bytes:
    """The configuration that a backup holds, for who has none any more. Raises ConfigurationError if it has none."""
    found = restoring.configuration_of(file, opener(private_key))
    if found is None:
        raise ConfigurationError("the backup holds no configuration: give one with --config")
    return found


def retry_pin(settings: Settings) -> bool:
    """Forget an earlier refusal of the PIN and try it once; True if there was one. Raises PinError if it is refused."""
    had_mark = LoginGate(settings.data_dir).remove_mark()
    open_device(settings, accept_final_try=True).close()
    return had_mark


def _installation(settings: Settings, store: Store, device: Device) -> Installation:
    row, token, mac_key = binding.prove(store, device)
    if row.account != settings.account_id:
        raise ConfigurationError(
            f"account_id is {settings.account_id}, but this installation was made for {row.account}: correct it"
        )
    return _described(settings, row, token, mac_key)


def _described(settings: Settings, row: InstallationRow, token: TokenRow, mac_key: bytes) -> Installation:
    return Installation(
        id=row.id,
        account=row.account,
        regions=tuple(settings.regions),
        default_region=settings.default_region,
        token_id=token.id,
        mac_key=mac_key,
        restored_at=row.restored_at,
    )
