"""Guard objects against use after a fork, and lock files across processes.

The behaviour of a PKCS#11 module in a forked child is undefined, and prefetched state (IVs, leases, connections) would
be used twice: SoftHSM even continues to encrypt there, with the parent's IVs. So objects with such state create a
``ForkGuard`` and check it before each use.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Never
from weakref import WeakSet

from hsmkms.errors import ConfigurationError, DependencyTimeoutException, ForkedProcessError
from hsmkms.file_lock import try_lock

_PAUSE_SECONDS: Final = 0.01


class ForkGuard:
    """Marks an object as unusable in forked children.

    ``foreign``: true in a child that was forked after the guard was created. Code on the path of every request reads it
    and calls ``refuse``; other code calls ``check``.
    """

    __slots__ = ("__weakref__", "foreign")

    def __init__(self) -> None:
        self.foreign = False
        _guards.add(self)

    def check(self) -> None:
        """Raise ForkedProcessError in a child that was forked after the guard was created."""
        if self.foreign:
            self.refuse()

    def refuse(self) -> Never:
        """Raise ForkedProcessError."""
        raise ForkedProcessError(
            "this object was made before a fork and must not be used in the child: open a new Kms in the child process"
        )


_guards: Final = WeakSet[ForkGuard]()


def _estrange() -> None:
    """Mark all guards of the parent as foreign, in the child."""
    for guard in list(_guards):
        guard.foreign = True


os.register_at_fork(after_in_child=_estrange)


class HeldLock:
    """A lock file that is locked."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        self._releasing = threading.Lock()

    @property
    def is_released(self) -> bool:
        """True once the lock was released, by any thread."""
        return self._descriptor is None

    def release(self) -> None:
        """Release the lock; without effect if that was done. Another thread may do it if the one that has it hangs."""
        with self._releasing:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


class _Held(threading.local):
    """The locks that this thread holds."""

    def __init__(self) -> None:
        self.locks: dict[Path, HeldLock] = {}


_held = _Held()
os.register_at_fork(after_in_child=lambda: _held.locks.clear())  # noqa: PLW0108 - of the thread that forks


def uptime() -> float:
    """Return the seconds since boot, by a clock that cannot be set and is the same in all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@contextmanager
def exclusive(path: Path, seconds: float) -> Iterator[HeldLock]:
    """Hold a lock file for the block, across processes and threads; the lock ends with its process.

    Reentrant within a thread. Raises ConfigurationError if the lock file cannot be written, DependencyTimeoutException
    if another process or thread holds it for longer than ``seconds``.
    """
    held = _held.locks.get(path)
    if held is not None and not held.is_released:
        yield held
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written ({exc.strerror}): make its folder writable") from exc
    lock = HeldLock(descriptor)
    try:
        _wait_for(descriptor, path, time.monotonic() + seconds)
        _held.locks[path] = lock
        yield lock
    finally:
        _held.locks.pop(path, None)
        lock.release()


def _wait_for(descriptor: int, path: Path, deadline: float) -> None:
    while not try_lock(descriptor):
        if time.monotonic() > deadline:
            raise DependencyTimeoutException(
                f"another process has held {path.name} for too long: see what it waits for"
            )
        time.sleep(_PAUSE_SECONDS)
