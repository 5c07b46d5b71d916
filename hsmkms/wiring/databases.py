"""Migrate and check the databases of an installation."""

import logging
from contextlib import ExitStack
from functools import partial

from hsmkms.config.settings import Settings
from hsmkms.errors import ConfigurationError, HsmKmsError, KMSInternalException, SetupError, TokenError
from hsmkms.service.audit import row_sealing
from hsmkms.service.runtime import open_processes
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.tokens import Tokens
from hsmkms.store import announcements, files, node_id, presence, setup
from hsmkms.store.presence import Process
from hsmkms.store.schema import META_REVISIONS
from hsmkms.store.sqlite import connections
from hsmkms.wiring import core
from hsmkms.wiring import tokens as token_wiring
from hsmkms.wiring.stores import open_store, target_of

log = logging.getLogger("hsmkms.service")


def migrate_databases(settings: Settings) -> tuple[list[str], dict[str, str]]:
    """Migrate both databases to this program's revision; return the applied revisions and the current ones.

    The token is needed to announce the migration to running processes, and afterwards to seal the rows. Without it
    nothing is migrated while any process has the installation open; the rows are sealed when it is next opened. (From
    schemas before meta_0009 nothing is announced: their programs know no announcements.)
    """
    target = target_of(settings)
    if setup.must_announce(settings.data_dir, target):
        _announce(settings)
    applied = setup.upgrade(settings.data_dir, target)
    _warn_of_older_programs(settings)
    if applied or not _is_sealed(settings):  # or an earlier attempt was interrupted
        try:
            close(core.core_of(settings))
        except HsmKmsError as exc:
            log.warning("the rows will be sealed when the installation is next opened, since it cannot be now: %s", exc)
    return applied, setup.current(settings.data_dir, target)


def _is_sealed(settings: Settings) -> bool:
    """Return True if this program's schema is announced in meta.db, which comes with the seals in its form."""
    store = open_store(settings)
    try:
        with store.reading() as conn:
            return announcements.stored(conn, announcements.of_this_program(conn))
    finally:
        store.close()


def close(opened: Core) -> None:
    """Close a core that was opened for one act."""
    with ExitStack() as rest:
        rest.callback(opened.store.close)
        rest.callback(opened.tokens.close)
        rest.callback(core.end_use, opened)


def _announce(settings: Settings) -> None:
    """Announce this program's schema in databases of an older one, so that running processes take it for no tampering.

    Without the token, or if former announcements were edited: ConfigurationError if any process has the installation
    open, else a warning.
    """
    with ExitStack() as opened:
        store = open_store(settings, older=True)
        opened.callback(store.close)
        try:
            row, token, device, _ = token_wiring.open_home(settings, store, None)
        except (TokenError, SetupError) as exc:
            _migrate_unannounced(settings, f"for which the token is missing ({exc}). Make it available", exc)
            return
        seek = partial(token_wiring.seek, lambda: settings, store)
        tokens = Tokens(store, token.id, device, seek)
        opened.callback(tokens.close)
        parts = core.assemble(settings, store, tokens, core.described(settings, row), core.utc_now, None)
        opened.callback(core.end_use, parts)
        try:
            row_sealing.announce_schema(parts, before_migration=True)
        except KMSInternalException as exc:
            reason = "but former announcements were edited. See `hsmkms verify-store` of the version that runs"
            _migrate_unannounced(settings, reason, exc)


def _migrate_unannounced(settings: Settings, reason: str, error: HsmKmsError) -> None:
    """Raise ConfigurationError if any process has the installation open, else log a warning."""
    others = [f"pid {each}" for each in open_processes.living(settings.data_dir)]
    others += [f"node {each}" for each in presence.nodes_of(running_elsewhere(settings))]
    if others:
        raise ConfigurationError(
            f"nothing was migrated: running processes ({', '.join(others)}) take a migration for "
            f"tampering unless it is announced, {reason}, or stop them first"
        ) from error
    log.warning("the migration is not announced: %s", error)


def running_elsewhere(settings: Settings) -> list[Process]:
    """Return the servers' workers that run on other nodes."""
    if settings.store.url is None:
        return []
    store = open_store(settings, older=True)
    try:
        return presence.fresh(store, besides=node_id.read(settings.data_dir))
    finally:
        store.close()


def _warn_of_older_programs(settings: Settings) -> None:
    older = [each for each in running_elsewhere(settings) if each.revision != META_REVISIONS[-1]]
    if older:
        names = ", ".join(presence.nodes_of(older))
        log.warning("servers of another version of hsmkms run on the nodes %s: upgrade these next", names)


def check_databases(settings: Settings) -> None:
    """Check every page of both databases, if they are files. Raises StoreError if one is damaged."""
    if settings.store.url is not None:
        return
    for database in files.DATABASES:
        connections.check_pages(settings.data_dir / database.name)


def database_revisions(settings: Settings) -> dict[str, str]:
    """Return both databases' revisions; raises StoreError or MigrationError unless this program supports them."""
    open_store(settings).close()
    return setup.current(settings.data_dir, target_of(settings))
