"""The mark of a store that has moved to another engine or server, or is about to: no program opens it.

In the place of the revision of ``meta.db`` the mark has a word that no program knows, so that programs of every version
refuse the store; a table beside it says where the installation is. That table changes the schema, so a process that had
the store open before refuses it from its next transaction on; triggers refuse it the counts of encryptions, which it
reserves without looking at the schema. On a server the mark also raises the generation, so that it drops what it has
cached; of files no process is left that has them open.
"""

from typing import Final

from msgspec import Struct

from hsmkms.errors import StoreError

REVISION: Final = "moved"
"""Recorded as the revision of a marked store."""

TABLE: Final = "store_moved"
SQLITE: Final = "sqlite"
"""The target of a move into files of the data folder."""

CREATE: Final = (
    f"CREATE TABLE {TABLE} (target text NOT NULL, place text NOT NULL, node text NOT NULL, revision text NOT NULL, "
    "complete integer NOT NULL)"
)
READ: Final = f"SELECT target, place, node, revision, complete FROM {TABLE}"  # noqa: S608 - a constant, as below
SET_COMPLETE: Final = f"UPDATE {TABLE} SET complete = 1"  # noqa: S608
DROP: Final = f"DROP TABLE {TABLE}"
COUNTS: Final = "encryption_count"
REFUSED: Final = "the installation has moved to another store, or is about to: run the command again to see where it is"


class MoveMark(Struct, frozen=True, kw_only=True):
    """Where a store has moved. ``target``: the URL of a database without a password, or SQLITE; ``place``: for people.

    ``node``: the id of the data folder that moved it. ``revision``: the store's own. ``complete``: the new store is in
    use; until then the move can be finished or cancelled.
    """

    target: str
    place: str
    node: str
    revision: str
    complete: bool = False

    @property
    def row(self) -> tuple[str, str, str, str, int]:
        """The values of the row, in the order of the columns."""
        return self.target, self.place, self.node, self.revision, int(self.complete)


def of_row(row: tuple[object, ...]) -> MoveMark:
    """Return the mark in a row, which anybody may have written who can write to the database."""
    target, place, node, revision = map(str, row[:4])
    return MoveMark(target=target, place=place, node=node, revision=revision, complete=bool(row[4]))


def error(mark: MoveMark | None, name: str) -> StoreError:
    """Return what every command says about a marked store; ``name`` is the store's, for people."""
    if mark is None:
        return StoreError(f"{name} is marked as moved, but does not say where to: restore a backup")
    place = mark.place if mark.place.isprintable() else ascii(mark.place)
    if not mark.complete:
        return StoreError(
            f"{name} is being moved to {place}: run the same `hsmkms migrate-store --to` again to finish that, or with "
            "--cancel to stay"
        )
    steps = advice(mark)
    if mark.target != SQLITE:
        steps += ", and the source of its password, if it wants one, under [store.password]"
    return StoreError(f"{name} is not in use any more: the installation has moved to {place}. {steps}")


def advice(mark: MoveMark) -> str:
    """Return how the configuration must be changed for the store that a mark names."""
    if mark.target == SQLITE:
        return "Remove url, and what goes with it, from [store] and [store.password] in the configuration"
    return f"Write url = {ascii(mark.target)[1:-1]!r} under [store] in the configuration".replace("'", '"')
