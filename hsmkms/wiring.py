"""Building a `Kms` from settings: the only place where store, device and service meet."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hsmkms import config
from hsmkms.config import Settings
from hsmkms.errors import ConfigurationError, StoreError
from hsmkms.hsm import module as modules
from hsmkms.hsm import softhsm
from hsmkms.hsm.choice import TokenChoice, choose
from hsmkms.hsm.device import Device, DeviceSettings
from hsmkms.hsm.login import LoginGate
from hsmkms.hsm.softhsm import SoftToken
from hsmkms.process import exclusive
from hsmkms.service import binding
from hsmkms.service.cache import RecordCache
from hsmkms.service.core import Clock, Core, Installation
from hsmkms.service.leases import LeaseBook
from hsmkms.store import files, leases, migrate
from hsmkms.store.engine import Store
from hsmkms.store.installation import InstallationRow

INIT_LOCK: Final = "init.lock"
INIT_LOCK_SECONDS: Final = 60.0


def utc_now() -> datetime:
    """The clock of every entry point."""
    return datetime.now(UTC)


def open_core(path: Path | None = None, clock: Clock = utc_now) -> Core:
    """Open the installation that a configuration file describes; see ``Kms.open``."""
    return core_of(load_settings(path), clock)


def load_settings(path: Path | None = None) -> Settings:
    """Find and read the configuration as every entry point does."""
    return config.load(config.find(path, os.environ))


def core_of(settings: Settings, clock: Clock = utc_now) -> Core:
    """Open database and token, and prove that they belong together."""
    store = Store.open(settings.data_dir)
    try:
        device = open_device(settings)
    except BaseException:
        store.close()
        raise
    try:
        return Core(
            installation=_installation(settings, store, device),
            store=store,
            device=device,
            cache=RecordCache(store),
            leases=LeaseBook(store),
            clock=clock,
            grace_hours=settings.reconcile.grace_hours,
        )
    except BaseException:
        device.close()
        store.close()
        raise


def open_device(settings: Settings, *, accept_final_try: bool = False) -> Device:
    """Open the token of the settings, without the database."""
    return Device.open(
        device_settings(settings),
        lambda: config.read_pin(settings.token.pin, interactive=config.terminal_prompt()),
        accept_final_try=accept_final_try,
    )


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
    return Installation(
        id=row.id,
        account=row.account,
        regions=tuple(settings.regions),
        default_region=settings.default_region,
        token_id=token.id,
        mac_key=mac_key,
    )
