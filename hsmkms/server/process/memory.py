"""Limit the memory that clients occupy in a worker, and give memory back to the system after a burst.

A client that has not finished a request, or does not read its responses, occupies memory without a credential. So these
bytes are counted for each worker. Beyond its budget the connection that has occupied some for longest is closed, which
is never a client that sends whole requests at once.
"""

import ctypes
from collections import OrderedDict
from typing import Final, Protocol

TRIM_BYTES: Final = 2 * 2**20
"""Bytes that must have been released since the last time before memory is given back."""

LARGE_BYTES: Final = 128 * 1024
"""Blocks of this size are mapped separately, so that free() returns them to the system at once."""

TOP_BYTES: Final = 2**20
"""Free memory that is kept at the end of the heap."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt(3)."""


class Holder(Protocol):
    """A connection that occupies memory."""

    def evict(self) -> None:
        """Drop the unfinished requests, and send the client an error if it reads."""


class MemoryBudget:
    """The bytes that unfinished and waiting requests, and responses that are not read, occupy in a worker.

    What is unfinished is evicted to make room, the oldest first. Requests that are complete and wait for their response
    are ``taken`` and stay. For the event loop's own thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unfinished: OrderedDict[Holder, int] = OrderedDict()
        self._peak = 0
        self.occupied = 0

    def hold(self, holder: Holder, size: int) -> None:
        """Set how many bytes a holder occupies with unfinished requests; this may evict it, or another one."""
        self.occupied += size - self._unfinished.get(holder, 0)
        if size:
            self._unfinished[holder] = size
        else:
            self._unfinished.pop(holder, None)
        self._make_room(0)
        self._peak = max(self._peak, self.occupied)

    def take(self, size: int) -> bool:
        """Reserve room for a complete request; False if other complete requests occupy it."""
        self._make_room(size)
        if self.occupied + size > self._limit:
            return False
        self.occupied += size
        self._peak = max(self._peak, self.occupied)
        return True

    def release(self, size: int) -> None:
        """Release the room of a complete request that has its response."""
        self.occupied -= size

    def fallen(self) -> bool:
        """Return True once after the occupied memory has fallen much below its peak."""
        if self._peak - self.occupied < TRIM_BYTES:
            return False
        self._peak = self.occupied
        return True

    def _make_room(self, size: int) -> None:
        while self.occupied + size > self._limit and self._unfinished:
            holder, held = self._unfinished.popitem(last=False)
            self.occupied -= held
            holder.evict()


def _libc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc: others have no malloc_trim, and give memory back by themselves."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


_GLIBC: Final = _libc()


def keep_heap_small() -> None:
    """Make glibc always map large blocks separately: by default it raises the threshold after the first."""
    if _GLIBC is not None:
        _GLIBC.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        _GLIBC.mallopt(_M_TRIM_THRESHOLD, TOP_BYTES)


def give_back() -> None:
    """Give free memory within the heap to the system. Takes milliseconds, without the interpreter lock."""
    if _GLIBC is not None:
        _GLIBC.malloc_trim(0)
