"""Build a `Kms` from settings: the store, the tokens (tokens.py), and the services over both."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from hsmkms.config import settings as config
from hsmkms.config.settings import Secret, Settings, TokenSettings
from hsmkms.errors import (
    ConfigurationError,
    HsmKmsError,
    StoreError,
    TokenNotFoundError,
    TokenUnavailableError,
)
from hsmkms.hsm.unavailable import UnavailableDevice
from hsmkms.model.audit import Durability
from hsmkms.model.ids import KeyRef, unknown
from hsmkms.process import exclusive, uptime
from hsmkms.rules.audit.policy import AuditPolicy
from hsmkms.rules.audit.record import Occasion
from hsmkms.rules.importing import ImportPolicy
from hsmkms.rules.rotation import RotationPolicy
from hsmkms.service.audit import row_sealing, sealing
from hsmkms.service.audit.freshness import Freshness
from hsmkms.service.runtime import binding, node_registry, open_processes, seal_keys
from hsmkms.service.runtime.audit_log import AuditLog
from hsmkms.service.runtime.authoriser import PolicyAuthoriser
from hsmkms.service.runtime.clock import DriftWatch
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.encryption_counter import EncryptionCounter
from hsmkms.service.runtime.last_use import LastUses
from hsmkms.service.runtime.ports import Clock, Installation, never_drifted
from hsmkms.service.runtime.record_cache import RecordCache
from hsmkms.service.runtime.row_seals import RowSeals
from hsmkms.service.runtime.tokens import Tokens
from hsmkms.store import aliases, audit_files, installation, leases, moving, setup
from hsmkms.store.engine import Store
from hsmkms.store.installation import InstallationRow
from hsmkms.store.installation_lock import LeaseCheck
from hsmkms.store.nodes import Node
from hsmkms.store.sqlite import log_renewal
from hsmkms.wiring import tokens as token_wiring
from hsmkms.wiring.stores import open_store, require_files, target_of

Monotonic = Callable[[], float]

INIT_LOCK: Final = "init.lock"
INIT_LOCK_SECONDS: Final = 60.0


utc_now: Final[Clock] = partial(datetime.now, UTC)
"""Returns the wall clock time: the clock of every entry point."""


def boot_time() -> float:
    """Return the seconds since boot, including suspend (CLOCK_BOOTTIME): a clock that cannot be set."""
    return uptime()


def open_core(path: Path | None = None, clock: Clock = utc_now) -> Core:
    """Open the installation that a configuration file describes; see ``Kms.open``."""
    return core_of(load_settings(path), clock, boot_time if clock is utc_now else None)


def open_core_for_maintenance(path: Path | None = None) -> Core:
    """Open the installation even while the token is away: what needs it then raises ``TokenUnavailableError``."""
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
    settings: Settings,
    clock: Clock = utc_now,
    monotonic: Monotonic | None = None,
    pin: Secret | None = None,
    reread: Callable[[], Settings] | None = None,
    before_login: Callable[[], None] = token_wiring.at_once,
    accepting: TokenSettings | None = None,
    *,
    joining: bool = False,
) -> Core:
    """Open database and tokens, and prove that they belong together. Without the home token nothing is opened.

    ``monotonic`` (seconds, of a clock that cannot be set) is what ``clock`` is checked against; None: no check.
    ``pin``: a PIN that the caller has read already; otherwise it is read from its source. ``reread`` reads the settings
    again, for tokens that are added while this process runs. ``before_login`` is called when everything is ready for
    the first login; it may block. ``accepting``: a token of the settings that is accepted though it is a clone, since
    the operator is about to accept it. ``joining``: the data folder is registered as a node, if it is none yet.
    """
    store = open_store(settings, joining=joining)
    with ExitStack() as undo:
        undo.callback(store.close)
        row, token, device, witness = token_wiring.open_home(settings, store, pin, before_login, accepting)
        seek = partial(token_wiring.seek, reread or (lambda: settings), store, accepting=accepting)
        tokens = Tokens(store, token.id, device, seek)
        undo.callback(tokens.close)
        tokens.require(partial(binding.TokenIdentity, store, accepting=accepting is not None))
        core = assemble(settings, store, tokens, described(settings, row), clock, monotonic)
        undo.callback(end_use, core)
        core.witnesses[token.id] = witness
        tokens.attach_all(token_wiring.open_spare(settings, tokens))
        freshness = Freshness(core)
        core.seals.without_key = freshness.unsealed
        freshness.watch()
        row_sealing.seal_rows(core)
        if joining:
            node_registry.join(core)
        node_registry.require_proven(core)
        sealing.look_at_home(core)
        _rotate_after_lost_counts(core)
        undo.pop_all()
    return core


def end_use(core: Core) -> None:
    """Flush this process's audit records to disk, and close the resources that the parts of a core hold open."""
    with ExitStack() as rest:
        rest.callback(core.cache.close)
        if core.audit.used:
            core.audit.close()


def core_without_token(settings: Settings, fault: HsmKmsError, clock: Clock = utc_now) -> Core:
    """Open an installation without its token, for work that needs only the database; ``fault`` says why it is away."""
    store = open_store(settings)
    try:
        row, token = binding.expected(store)
        away = UnavailableDevice(fault)
        tokens = Tokens(store, token.id, away, lambda _: away)
        return assemble(settings, store, tokens, described(settings, row), clock, None)
    except BaseException:
        store.close()
        raise


def names_home(settings: Settings) -> bool:
    """Return True if a token of the settings has the home's label or serial; see ``tokens.names_home``."""
    return token_wiring.names_home(settings)


def _rotate_after_lost_counts(core: Core) -> None:
    """Make generated keys rotate before their next encryption, if ``log.db`` is new and has no older counts."""
    if not log_renewal.is_unknown_before(core.store.log):
        return
    now = core.clock()
    with core.audit.acting("RenewLog", core.installation.default_region), core.store.atomic() as tx:
        installation.set_restored(tx, now)
    log_renewal.settle(core.store.log)
    core.installation = replace(core.installation, restored_at=now)


def renew_log(settings: Settings, clock: Clock = utc_now) -> Path | None:
    """Replace a damaged or lost ``log.db`` by a new one; return the path of the old one, if there is one.

    ConfigurationError if it is not damaged, or a process has the installation open.
    """
    require_files(settings, "renew-log")
    moving.require_unmarked(settings.data_dir)
    open_processes.require_none(settings.data_dir)
    if log_renewal.damage(settings.data_dir) is None:
        raise ConfigurationError("log.db is whole, so it was left as it is")
    return log_renewal.renew(settings.data_dir, clock())


def assemble(
    settings: Settings,
    store: Store,
    tokens: Tokens,
    installation: Installation,
    clock: Clock,
    monotonic: Monotonic | None,
) -> Core:
    """Put the parts of an open installation together; see ``core_of``."""
    rotation, imports = settings.rotation, settings.imports
    seals = RowSeals(store, partial(seal_keys.keys_from, tokens, installation))
    cache = RecordCache(store, seals.check, installation.account)
    occasion = Occasion(installation.account, _agent())
    policy = audit_policy(settings)
    audit = AuditLog(store, installation.id, occasion, policy, cache, clock)
    if store.target is not None:
        store.meta.companions.append(LeaseCheck(store))
    if policy.durability is not Durability.OFF:
        store.meta.companions.append(audit)
    store.meta.companions.append(seals)  # last, since the seals cover what other companions have written
    core = Core(
        installation=installation,
        store=store,
        tokens=tokens,
        witnesses={},
        cache=cache,
        audit=audit,
        seals=seals,
        write_audit_record=audit.record,
        authorise=PolicyAuthoriser(cache, installation.account),
        leases=EncryptionCounter(store),
        uses=LastUses(store),
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
        accept_unknown_principals=settings.permissions.unknown_principals == "accept",
        drifted=DriftWatch(clock, monotonic) if monotonic is not None else never_drifted,
    )
    cache.installation_changed = core.follow_installation
    cache.commits_in_doubt = core.leases.doubt
    return core


def audit_folder(settings: Settings) -> Path:
    """Return the folder of the audit log's files."""
    return settings.data_dir / audit_files.FOLDER


def target_of_alias(settings: Settings, alias: KeyRef) -> str:
    """Return the id of an alias's key, from the database alone. Raises NotFoundException, StoreError."""
    store = open_store(settings)
    try:
        with store.reading() as conn:
            record = aliases.fetch(conn, alias.region, alias.name)
    finally:
        store.close()
    if record is None:
        raise unknown(alias, settings.account_id)
    return record.target_key_id


def audit_policy(settings: Settings) -> AuditPolicy:
    """Convert the settings of the audit log."""
    audit = settings.audit
    return AuditPolicy(
        durability=Durability(audit.durability),
        interval_seconds=audit.interval_milliseconds / 1000,
        refuse=audit.when_unwritable == "refuse",
        segment_bytes=int(audit.segment_mib * 1024 * 1024),
        seal_file=str(audit.seal_file) if audit.seal_file is not None else None,
    )


def _agent() -> str:
    """Return the user agent under which this process's own calls appear in the audit log."""
    return f"hsmkms (uid {os.getuid()}, pid {os.getpid()})"


def initialise(settings: Settings, clock: Clock = utc_now, *, try_refused_material: bool = False) -> InstallationRow:
    """Create the databases and the installation's own key on the token; resume an interrupted attempt.

    ``try_refused_material``: also record whether the module survives material that it cannot unwrap, which takes a
    second or two; otherwise the first import does. The configuration file must exist. Concurrent calls create one
    installation. Raises SetupError or TokenError.
    """
    with exclusive(settings.data_dir / INIT_LOCK, INIT_LOCK_SECONDS):
        return _initialise(settings, clock, try_refused_material=try_refused_material)


def _initialise(settings: Settings, clock: Clock, *, try_refused_material: bool) -> InstallationRow:
    target = target_of(settings)
    setup.require_registered(settings.data_dir, target)  # before the PIN is sent
    device = token_wiring.open_device(settings)
    try:
        if not setup.exists(settings.data_dir, target):
            if target is None and leases.counted(settings.data_dir):
                raise StoreError(
                    f"{settings.data_dir} has a log.db with counts of encryptions but no meta.db: restore that one. "
                    "To give up its keys and start again, choose another --data-dir"
                )
            setup.create(settings.data_dir, target)
        store = open_store(settings)
        try:
            row = binding.initialise(store, device, settings.account_id, clock)
        finally:
            store.close()
        if try_refused_material:
            device.imports.try_refused_material()
        return row
    finally:
        device.close()


def begun_with(settings: Settings) -> tuple[str | None, str | None]:
    """Return the account and the token serial with which ``initialise`` began; None for what is not decided yet."""
    if not setup.exists(settings.data_dir, target_of(settings)):
        return None, None
    store = open_store(settings)
    try:
        return binding.begun_with(store)
    finally:
        store.close()


def registered_nodes(settings: Settings) -> list[Node]:
    """Return the nodes of the databases; none if there are no databases yet, or if they are files."""
    return setup.registered_nodes(target_of(settings))


def is_begun(settings: Settings) -> bool:
    """Return True if the databases are there."""
    return setup.exists(settings.data_dir, target_of(settings))


def database_names(settings: Settings) -> list[str]:
    """Return the databases' names for people."""
    return setup.names(settings.data_dir, target_of(settings))


def is_initialised(settings: Settings) -> bool:
    """Return True if ``initialise`` has been completed for these settings."""
    store = open_store(settings)
    try:
        return binding.is_bound(store)
    finally:
        store.close()


def described(settings: Settings, row: InstallationRow) -> Installation:
    """Return what the service knows of the installation."""
    return Installation(
        id=row.id,
        account=row.account,
        regions=tuple(settings.regions),
        default_region=settings.default_region,
        restored_at=row.restored_at,
    )
