"""The two functions of an operation, called with or without releasing the interpreter's lock (the GIL).

cffi releases the lock around each call. A soft token's call takes about 10 µs: threads that encrypt then hand the lock
to one another at every call, which costs more than the call, and eight of them do half of what one does. So while
several threads use a token that answers that quickly, AES-GCM keeps the lock, by ctypes, which leaves the choice; a
call that takes long releases it from then on. A token that was quick and hangs then stops all threads of its process
for as long as it hangs. One thread alone stays with cffi, which is quicker.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Final

from hsmkms.hsm.calls.declarations import ffi

QUICK_SECONDS: Final = 0.0001
"""An operation within this time is worth keeping the lock: no network HSM answers twice in it."""

SLOW_SECONDS: Final = 0.001
"""An operation that takes longer while it keeps the lock is the last to keep it, until the token is quick again."""

WINDOW: Final = 16
"""Operations of which the quickest decides: threads that wait for the lock say nothing about the token."""

SHARED_FOR: Final = 256
"""Operations of one thread, one after another, that end the sharing."""

_BEGIN: Final = ctypes.PYFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong)
_FINISH: Final = ctypes.PYFUNCTYPE(
    ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p
)


def address_of(pointer: Any) -> int:  # noqa: ANN401 - cdata
    """Return the address that a pointer of cffi's holds."""
    return int(ffi.cast("uintptr_t", pointer))


class Pace:
    """How quickly a module does AES-GCM, and whether threads that share it keep the interpreter's lock.

    Not locked: threads that note at the same time may drop a measurement, or decide one operation later.
    """

    __slots__ = ("_count", "_left", "_quickest", "_user", "keeps_lock")

    def __init__(self) -> None:
        self.keeps_lock = False
        self._count, self._quickest = 0, SLOW_SECONDS
        self._user: object = None
        self._left = 0

    def is_shared(self, user: object) -> bool:
        """Return whether threads take turns; ``user``: an object of the calling thread's own."""
        if user is not self._user:
            self._user, self._left = user, SHARED_FOR
        elif self._left:
            self._left -= 1
        return self._left > 0

    def note(self, seconds: float) -> None:
        """Note how long a shared operation took, its waiting for the lock included, and decide."""
        if self.keeps_lock:
            self.keeps_lock = seconds <= SLOW_SECONDS
            return
        self._count += 1
        self._quickest = min(self._quickest, seconds)
        if self._count >= WINDOW:
            self.keeps_lock = self._quickest <= QUICK_SECONDS
            self._count, self._quickest = 0, SLOW_SECONDS


class TwoCalls:
    """The ...Init function of an operation and the one that finishes it.

    ``begin`` and ``finish`` take pointers of cffi's and release the lock, ``begin_keeping`` and ``finish_keeping`` take
    addresses and keep it.
    """

    __slots__ = ("begin", "begin_keeping", "finish", "finish_keeping", "pace")

    def __init__(self, begin: Callable[..., int], finish: Callable[..., int], pace: Pace) -> None:
        self.begin, self.finish = begin, finish
        self.begin_keeping: Callable[[int, int, int], int] = _BEGIN(address_of(begin))
        self.finish_keeping: Callable[[int, bytes, int, int, int], int] = _FINISH(address_of(finish))
        self.pace = pace
