"""Seal the rows of a database as it is opened, and announce its schema, so that older programs can verify them."""

import logging
from collections.abc import Callable
from typing import Final

from hsmkms.errors import DependencyTimeoutException, KMSInternalException, StoreError
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.runtime.core import Core
from hsmkms.store.schema import LOG_REVISIONS, META_REVISIONS

log = logging.getLogger("hsmkms.service")

_RENEWAL_TURNS: Final = 30
"""How often a transaction waits for the write lock before opening fails."""


def seal_rows(core: Core) -> None:
    """Seal the rows of a database that was never sealed, and seal again those that an earlier program has sealed.

    If its seals were removed, nothing is sealed: the newest seal of the audit log proves that there were seals. An
    empty database is sealed in any case. Rows are sealed again only if all of them match their seals, so that no edit
    is legitimised by it; that is one transaction, so after an interruption the next process does it.
    """
    region = core.installation.default_region

    def record_event() -> None:
        core.audit.event("SealStore", region, "", {})

    if core.seals.without_key() is not None:
        return  # an older copy of the token, which was reported already
    if core.seals.root() is not None:
        if not _renewed(core, record_event):
            log.error("the rows of the control-plane database are not all as they were sealed: `hsmkms verify-store`")
        else:
            _announce_quietly(core)
        return
    sealer = Sealer(core)
    last = sealer.last()
    # Where the folder with the audit log was lost, the note on the token proves that there were seals.
    were_sealed = last.seal.root_number > 0 if last is not None else sealer.notes.of_any_node()
    if were_sealed and not core.seals.empty():
        log.error("the seals of the control-plane database were removed, so nothing in it is used: restore a backup")
        return
    core.seals.seal_all(again=False, record=record_event)


def _renewed(core: Core, record: Callable[[], None]) -> bool:
    """Seal all rows in this program's form unless they are; False if they are not as they were sealed.

    Waits while another process does it: with many rows that takes longer than a transaction waits for the write lock.
    """
    for left in reversed(range(_RENEWAL_TURNS)):
        try:
            return core.seals.current() or core.seals.renew(record) or core.seals.current()
        except DependencyTimeoutException:
            if not left:
                raise
            log.warning("another process is writing to the control-plane database: waiting to see whether it seals it")
    return False


def _announce_quietly(core: Core) -> None:
    """Announce this program's schema; if former announcements were edited, only log it.

    Nothing else depends on them here, and the operator needs an open installation to verify and accept the rows.
    """
    try:
        announce_schema(core)
    except (StoreError, KMSInternalException) as exc:
        log.error("the schema of the control-plane database cannot be announced: %s", exc)  # noqa: TRY400 - as above


def announce_schema(core: Core, *, before_migration: bool = False) -> None:
    """Announce this program's schema in the database, unless that was done; see ``RowSeals.announce``."""
    region = core.installation.default_region

    def record_event() -> None:
        core.audit.event("AnnounceSchema", region, "", {"revisions": [META_REVISIONS[-1], LOG_REVISIONS[-1]]})

    core.seals.announce(record_event, before_migration=before_migration)
