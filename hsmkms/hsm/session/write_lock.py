"""Write lock of the token across all processes of an installation.

SoftHSM keeps a generation counter of a token in a file, and a process rereads the token's objects when the counter is
not the one it knows. Its own write makes it take over the newest counter without rereading (SoftHSM 2.6.1,
Generation::commit): an object that another process created just before stays invisible until the next write of any
process. So a writer takes this lock, and rereads first if another process wrote last. For other tokens this costs one
file lock.
"""

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hsmkms.errors import DependencyTimeoutException
from hsmkms.process import exclusive

LOCK_FILE: Final = "token-changes.lock"
WAIT_SECONDS: Final = 30.0
"""Timeout for the lock: an HSM may take seconds for an RSA key pair, and a call that hangs keeps the lock."""

_BUSY: Final = "other processes have been changing the token for too long: try again"


class WriteLock:
    """Write lock as seen by one process. Thread-safe; not for use in a forked child."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / LOCK_FILE
        self._here = threading.Lock()
        self._name = uuid.uuid4().bytes

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the cross-process write lock. Yields True if another process wrote last.

        DependencyTimeoutException if the lock is not free in time.
        """
        if not self._here.acquire(timeout=WAIT_SECONDS):
            raise DependencyTimeoutException(_BUSY)
        try:
            with exclusive(self._file, WAIT_SECONDS):
                last = self._file.read_bytes()
                if last != self._name:
                    self._note(b"")  # if this process dies here, the next writer rereads
                yield last != self._name
                self._note(self._name)
        finally:
            self._here.release()

    def _note(self, name: bytes) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, name)
        finally:
            os.close(descriptor)
