"""Processes: a guard against objects that outlive a fork, and a lock that only one of them has.

A PKCS#11 module is undefined in a forked child, and everything that was fetched ahead (IVs, leases, connections)
would be used twice: SoftHSM even goes on encrypting there, with the parent's IVs. So whatever holds such state takes
a ``ForkGuard`` when it is made and asks it before each use.
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
    """Tells whether this is the process that made it.

    ``foreign``: true in a child that was forked after the guard was made. What is on the path of every request looks at
    it and calls ``refuse``; everything else calls ``check``.
    """

    __slots__ = ("__weakref__", "foreign")

    def __init__(self) -> None:
        self.foreign = False
        _guards.add(self)

    def check(self) -> None:
        """Raise ForkedProcessError in a child that was forked after the guard was made."""
        if self.foreign:
            self.refuse()

    def refuse(self) -> Never:
        """Raise ForkedProcessError."""
        raise ForkedProcessError(
            "this object was made before a fork and must not be used in the child: open a new Kms in the child process"
        )


_guards: Final = WeakSet[ForkGuard]()


def _estrange() -> None:
    """Mark all guards of the parent, in the child."""
    for guard in list(_guards):
        guard.foreign = True


os.register_at_fork(after_in_child=_estrange)


class _Held(threading.local):
    """The locks that this thread has."""

    def __init__(self) -> None:
        self.paths = set[Path]()


_held = _Held()
os.register_at_fork(after_in_child=lambda: _held.paths.clear())  # noqa: PLW0108 - of the thread that forks


def uptime() -> float:
    """Seconds since the machine was started, the same in all its processes, which nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@contextmanager
def exclusive(path: Path, seconds: float) -> Iterator[None]:
    """Let one process (and thread) at a time into the block; the lock ends with its process.

    A thread that is in such a block already goes on: it would wait for itself.

    Raises ConfigurationError if the lock's file cannot be written, DependencyTimeoutException if another one has it
    for longer than ``seconds``.
    """
    if path in _held.paths:
        yield
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written ({exc.strerror}): make its folder writable") from exc
    try:
        _wait_for(descriptor, path, time.monotonic() + seconds)
        _held.paths.add(path)
        yield
    finally:
        _held.paths.discard(path)
        os.close(descriptor)


def _wait_for(descriptor: int, path: Path, deadline: float) -> None:
    while not try_lock(descriptor):
        if time.monotonic() > deadline:
            raise DependencyTimeoutException(
                f"another process has held {path.name} for too long: see what it waits for"
            )
        time.sleep(_PAUSE_SECONDS)
