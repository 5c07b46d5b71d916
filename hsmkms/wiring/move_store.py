"""Move an installation's databases to another engine or server, and back.

The store that is left is marked before anything is copied, so that nothing is written to it any more: neither what one
side does after the move, nor a count of encryptions, is ever missing on the other side, or mixed with it. Whatever
interrupts the move, the same command finishes it, and `--cancel` takes the mark away while there is no copy.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from hsmkms.config import settings as config
from hsmkms.config.settings import Settings
from hsmkms.config.store_settings import StoreSettings
from hsmkms.errors import ConfigurationError, HsmKmsError, StoreError
from hsmkms.process import exclusive
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.runtime import open_processes
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.ports import Checkpoint, no_checkpoint
from hsmkms.store import move_mark, moving, node_id, nodes, presence, setup
from hsmkms.store.engine import Store
from hsmkms.store.move_mark import MoveMark
from hsmkms.store.presence import Process
from hsmkms.wiring import core as wiring
from hsmkms.wiring import databases
from hsmkms.wiring.stores import target_of

if TYPE_CHECKING:
    from hsmkms.store.postgresql.target import Target

log = logging.getLogger("hsmkms.service")

Progress = Callable[[int, int], None]
"""Called with a number of rows that were copied or compared, and with that of all."""

_ALTERED: Final = "rows are not as hsmkms wrote them, so nothing was moved: see `hsmkms verify-store`"
_NO_MARK: Final = "the store is not marked as moved: there is nothing to do"


class Moved(Struct, frozen=True, kw_only=True):
    """Result of a move. ``rows``: how many were copied; None if an interrupted move had copied them."""

    source: str
    target: str
    rows: int | None
    next: list[str]


def move(
    settings: Settings,
    destination: StoreSettings,
    progress: Progress = lambda _more, _total: None,
    reached: Checkpoint = no_checkpoint,
) -> Moved:
    """Move the store to a destination, or finish a move that was interrupted.

    Raises ConfigurationError if a process has the installation open, or the destination is the store itself; StoreError
    if the destination is not empty, if rows were altered, or if the store has moved elsewhere already; and the errors
    of opening an installation. Then the store is as it was.
    """
    moved = replace(settings, store=destination)
    config.check(moved)
    source, target = target_of(settings), target_of(moved)
    if _place(settings, source) == _place(settings, target):
        raise ConfigurationError(f"the installation is in {_place(settings, source).place} already")
    with _alone(settings):
        mark = moving.read_mark(settings.data_dir, source)
        if mark is None:
            # 1. Verify all rows and the token, and record the move.
            _require_no_servers(settings)
            moving.require_room(settings.data_dir, target)
            mark = _place(settings, target)
            setup.require_newest(settings.data_dir, source)
            _prepare(settings, mark)
            reached("move 1: verified")
        _require_same(settings, source, target, mark)
        # 2. Mark the store, so that no process writes to it.
        moving.mark(settings.data_dir, source, mark)
        reached("move 2: marked")
        rows = _copied(settings, moved, mark, progress, reached)

        # 4. Open the copy: the token's challenge, and the seals of all rows.
        _finish(moved, _place(settings, source))
        reached("move 4: opened")
        moving.complete(settings.data_dir, source)
    return Moved(
        source=_place(settings, source).place,
        target=mark.place,
        rows=rows,
        next=[move_mark.advice(mark), *_password_advice(destination), "Then start the servers"],
    )


def cancel(settings: Settings, destination: StoreSettings) -> str:
    """Take the mark of an unfinished move to a destination away; return where the store is.

    ConfigurationError if there is no mark; StoreError if the move is complete or another one, or if there is a copy.
    """
    source = target_of(settings)
    with _alone(settings):
        mark = moving.read_mark(settings.data_dir, source)
        if mark is None:
            raise ConfigurationError(_NO_MARK)
        _cancel(settings, replace(settings, store=destination), mark)
    return _place(settings, source).place


def reopen(settings: Settings) -> str:
    """Use the files again that a move has left, without what was changed since; return where they are.

    Generated keys rotate before they encrypt again, since encryptions may have been counted elsewhere meanwhile; the
    next opening records that.
    """
    if settings.store.url is not None:
        raise ConfigurationError(
            "only files that a move has left can be used again, and store.url names a server: restore a backup"
        )
    with _alone(settings):
        mark = moving.read_mark(settings.data_dir, None)
        if mark is None:
            raise ConfigurationError(_NO_MARK)
        moving.unmark(settings.data_dir, None, mark, counts_unknown=True)
        _recorded(settings, "ReopenStore", mark)
    return _place(settings, None).place


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Keep `init`, `restore` and other moves of the data folder out. ConfigurationError if it is open anywhere."""
    with exclusive(settings.data_dir / wiring.INIT_LOCK, wiring.INIT_LOCK_SECONDS):
        open_processes.require_none(settings.data_dir)
        yield


def _require_no_servers(settings: Settings) -> None:
    """Raise ConfigurationError if servers of other nodes run. The token is not needed."""
    _require_none(databases.running_elsewhere(settings))


def _place(settings: Settings, target: "Target | None") -> MoveMark:
    return moving.mark_for(settings.data_dir, target)


def _require_stopped(store: Store) -> None:
    """Raise ConfigurationError if servers run on other nodes, as far as their heartbeats show."""
    if store.target is not None:
        _require_none(presence.fresh(store, besides=node_id.read(store.folder)))


def _require_none(running: list[Process]) -> None:
    if running:
        names = ", ".join(presence.nodes_of(running))
        raise ConfigurationError(f"servers run on other nodes ({names}): stop them first")


def _require_same(settings: Settings, source: "Target | None", target: "Target | None", mark: MoveMark) -> None:
    """Raise StoreError unless a mark is that of this very move, which is not complete."""
    own = _place(settings, target)
    if mark.complete or (mark.target, mark.node) != (own.target, own.node):
        raise move_mark.error(mark, _place(settings, source).place)


def _prepare(settings: Settings, mark: MoveMark) -> None:
    """Verify every row, record the move, register this node for the new store, and seal the audit log."""
    core = wiring.core_of(settings)
    try:
        _require_stopped(core.store)
        with core.store.reading() as conn:
            if core.seals.verify(conn):
                raise StoreError(_ALTERED)
        details = {"target": mark.place}
        region = core.installation.default_region
        with core.audit.acting("MigrateStore", region, details), core.store.atomic() as tx:
            nodes.register_if_new(tx, nodes.of_folder(settings.data_dir, core.clock()))
        _seal(core)
    finally:
        databases.close(core)


def _copied(settings: Settings, moved: Settings, mark: MoveMark, progress: Progress, reached: Checkpoint) -> int | None:
    """Copy the marked store unless there is a copy; return how many rows. If that fails the mark is taken away."""
    source, target = target_of(settings), target_of(moved)
    try:
        with closing(Store(settings.data_dir, target=source)) as store:
            if moving.is_copied(store, settings.data_dir, target):
                return None
            open_processes.require_none(settings.data_dir)  # one that was just starting when the store was marked
            _require_stopped(store)
            moving.require_room(settings.data_dir, target)
            # 3. Copy and compare.
            rows = moving.count(store)
            moving.copy(store, settings.data_dir, target, wiring.utc_now(), lambda more: progress(more, 2 * rows))
    except BaseException:
        _give_up(settings, moved, mark)
        raise
    reached("move 3: copied")
    return rows


def _give_up(settings: Settings, moved: Settings, mark: MoveMark) -> None:
    """Take the mark away after a failure; if that fails as well, `--cancel` does it."""
    try:
        _cancel(settings, moved, mark)
    except HsmKmsError as exc:
        log.warning("the move was not undone completely (%s): run the command again, or with --cancel", exc)


def _cancel(settings: Settings, moved: Settings, mark: MoveMark) -> None:
    source, target = target_of(settings), target_of(moved)
    _require_same(settings, source, target, mark)
    moving.require_room(settings.data_dir, target)  # no copy, nor a transaction that is about to make one
    moving.unmark(settings.data_dir, source, mark)
    _recorded(settings, "CancelMigrateStore", mark)


def _recorded(settings: Settings, event: str, mark: MoveMark) -> None:
    """Open the store that is in use again, and record how that came."""
    core = wiring.core_of(settings)
    try:
        with core.audit.acting(event, core.installation.default_region, {"target": mark.place}):
            pass
    finally:
        databases.close(core)


def _finish(moved: Settings, source: MoveMark) -> None:
    """Prove that the copy is the token's and verify its rows; record the move in it, and seal the audit log."""
    core = wiring.core_of(moved)
    try:
        with core.store.reading() as conn:
            if core.seals.verify(conn):
                raise StoreError("the copy has rows that are not as they were sealed: drop it, then --cancel the move")
        details = {"source": source.place}
        with core.audit.acting("CompleteMigrateStore", core.installation.default_region, details):
            if core.store.target is None:
                with core.store.atomic() as tx:
                    nodes.remove_all(tx)
        _seal(core)
    finally:
        databases.close(core)


def _seal(core: Core) -> None:
    if core.audit.used:
        core.audit.tidy()
        Sealer(core).seal()


def _password_advice(destination: StoreSettings) -> list[str]:
    file = destination.password.file
    return [f'Write file = "{file}" under [store.password]'] if file is not None else []
