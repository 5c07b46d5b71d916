"""Share the marks of refused PINs among the nodes of an installation, by its database.

While the database is away, or not made yet, only the marks in the data folder count; what was not published is then.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from hsmkms.config.settings import Settings
from hsmkms.errors import HsmKmsError
from hsmkms.hsm.session.pin_marks import PinMark
from hsmkms.store import node_id, pin_notices, setup
from hsmkms.store.engine import Connection, Store
from hsmkms.store.pin_notices import PinNotice
from hsmkms.wiring.stores import target_of

log = logging.getLogger("hsmkms.service")

Result = TypeVar("Result")


class NodeMarks:
    """The marks of other nodes, as a login of this one sees them: the protocol ``SharedMarks``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def pending(self) -> list[PinMark]:
        """Return marks for this node that no accepted PIN has settled yet."""
        own = node_id.read(self._settings.data_dir)
        found = self._run(lambda tx: pin_notices.pending(tx, own)) if own is not None else None
        return [_mark(notice) for _, notice in found or ()]

    def publish(self, mark: PinMark) -> bool:
        """Leave a mark for all nodes; False if that was not possible now."""
        own = node_id.read(self._settings.data_dir)
        if own is None:
            return False
        notice = PinNotice(
            serial=mark.serial,
            label=mark.label,
            noted_at=datetime.fromisoformat(mark.refused_at),
            by=own,
            changed=mark.changed,
            source=mark.source,
            alone=mark.alone,
        )

        def leave(tx: Connection) -> bool:
            pin_notices.publish(tx, notice)
            return True

        return self._run(leave) or False

    def settle(self, serials: frozenset[str]) -> None:
        """Remove the marks for this node of tokens of which one has accepted a PIN."""
        own = node_id.read(self._settings.data_dir)
        if own is not None:
            self._run(lambda tx: pin_notices.settle(tx, own, serials))

    def _run(self, work: Callable[[Connection], Result]) -> Result | None:
        """Run work on the database; None if it is away, has no tables yet, or this folder is no node of it yet."""
        try:
            target = target_of(self._settings)
            if node_id.read(self._settings.data_dir) not in {each.id for each in setup.registered_nodes(target)}:
                return None
            store = Store(self._settings.data_dir, target=target)
            try:
                return store.log.run(work)
            finally:
                store.close()
        except HsmKmsError as exc:
            log.warning("marks of refused PINs are not shared with other nodes now: %s", exc)
            return None


def shared_marks(settings: Settings) -> NodeMarks | None:
    """Return how logins share their marks; None where the databases are files: there is one node."""
    return NodeMarks(settings) if settings.store.url is not None else None


def stale_nodes(settings: Settings) -> list[str]:
    """Return the ids of the nodes whose PIN was not accepted since it was changed elsewhere."""
    if settings.store.url is None:
        return []
    store = Store(settings.data_dir, target=target_of(settings))
    try:
        with store.log.reading() as conn:
            return [each for each, notice in pin_notices.pending(conn) if notice.changed]
    finally:
        store.close()


def refused_elsewhere(settings: Settings) -> PinNotice | None:
    """Return a refusal after which its own node has not sent an accepted PIN yet: a joining node may have the same."""
    store = Store(settings.data_dir, target=target_of(settings))
    try:
        with store.log.reading() as conn:
            found = pin_notices.pending(conn)
    finally:
        store.close()
    return next((notice for each, notice in found if not notice.changed and each == notice.by), None)


def _mark(notice: PinNotice) -> PinMark:
    return PinMark(
        label=notice.label,
        serial=notice.serial,
        refused_at=notice.noted_at.astimezone(UTC).isoformat(timespec="seconds"),
        unsettled=True,
        alone=notice.alone,
        node=notice.by,
        changed=notice.changed,
        published=True,
    )
