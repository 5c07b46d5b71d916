"""The generation of the control plane: a number that each transaction with a change raises, with a notification."""

import threading
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from hsmkms.errors import StoreError

READ: Final = "SELECT number FROM public.generation"
CHANNEL: Final = "hsmkms_generation"
"""Of the notifications; who listens reads the number, and nothing of what they say."""

_RAISE: Final = (
    "WITH raised AS (UPDATE generation SET number = number + 1 RETURNING number) "
    "SELECT number, pg_notify('hsmkms_generation', '') FROM raised"
)


class Generation:
    """The generation that this process has read last, and how often that was another one than before.

    Any other number is a change, also a lower one: a number that was raised by hand must not hide those that follow.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.restarts = 0
        """How often a new connection was made: to a server, perhaps, that lacks the last commits of the one before."""
        self.number: int | None = None
        self._lock = threading.Lock()

    def note(self, number: int) -> None:
        """Note a number that was read or written."""
        with self._lock:
            if number != self.number:
                self.number = number
                self.changes += 1

    def restart(self, number: int) -> None:
        """Note the number that a new connection has read, which counts as a change in any case."""
        with self._lock:
            self.number = number
            self.changes += 1
            self.restarts += 1


def raise_number(tx: Connection, name: str) -> int:
    """Raise the generation in a transaction of the control plane, and notify all processes of its commit."""
    return only([int(each) for each in tx.exec_driver_sql(_RAISE).scalars()], name)


def number_in(conn: Connection, name: str) -> int:
    """Return the generation as of a transaction."""
    return only([int(each) for each in conn.exec_driver_sql(READ).scalars()], name)


def only(numbers: Sequence[int], name: str) -> int:
    """Return the number. StoreError unless the table has one row."""
    if len(numbers) != 1:
        raise StoreError(f"the table generation of {name} has {len(numbers)} rows in place of one: correct it by hand")
    return numbers[0]
