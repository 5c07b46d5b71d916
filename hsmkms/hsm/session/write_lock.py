"""Changes of the token, one at a time in all processes of an installation.

SoftHSM counts the changes of a token in a file, and a process looks for what others have made when the count is not
the one that it knows. A change of its own makes it know the newest count without having looked (SoftHSM 2.6.1,
Generation::commit): what another process has made a moment before stays unseen until the next change of anybody. So
whoever changes the token waits for his turn, and looks first if somebody else had the last one. For other tokens that
costs a file lock.
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
TURN_SECONDS: Final = 30.0
"""How long one waits for the others: an HSM may take seconds for an RSA key pair, and a call that hangs goes on."""

_BUSY: Final = "other processes have been changing the token for too long: try again"


class Turns:
    """The turns of one process. Thread-safe; of no use in a forked child."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / LOCK_FILE
        self._here = threading.Lock()
        self._name = uuid.uuid4().bytes

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Change the token in this block; true if somebody else has changed it since this process did so last.

        DependencyTimeoutException if the others do not come to an end.
        """
        if not self._here.acquire(timeout=TURN_SECONDS):
            raise DependencyTimeoutException(_BUSY)
        try:
            with exclusive(self._file, TURN_SECONDS):
                last = self._file.read_bytes()
                if last != self._name:
                    self._note(b"")  # if this process dies here, the next one looks
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
