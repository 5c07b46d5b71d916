"""Renew a lease in a thread while the work that it covers goes on."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from hsmkms.errors import HsmKmsError
from hsmkms.process import uptime

log = logging.getLogger("hsmkms.store")

LEASE: Final = timedelta(seconds=15)
"""Duration of a lease: how long a process or node that died blocks the others."""

_RENEWAL_SECONDS: Final = 5.0


class Renewal:
    """State of a lease that is being renewed. Thread-safe. ``renew`` returns False if another holder has the lease."""

    def __init__(self, name: str, renew: Callable[[], bool], granted_at: float) -> None:
        self.name = name
        self._renew = renew
        self._granted_at = granted_at
        self._lost = False
        self._end = threading.Event()

    @property
    def is_valid(self) -> bool:
        """True while no other holder can have the lease: it was renewed within its duration, by ``uptime()``."""
        return not self._lost and uptime() - self._granted_at < LEASE.total_seconds()

    def end(self) -> None:
        """End the thread."""
        self._end.set()

    def run(self) -> None:
        """Renew the lease until it is lost, or ``end`` is called. While the database is away it is tried again."""
        while not self._end.wait(_RENEWAL_SECONDS):
            asked_at = uptime()
            try:
                renewed = self._renew()
            except HsmKmsError as exc:
                log.warning("the lease of %s cannot be renewed now: %s", self.name, exc)
                continue
            if not renewed:
                self._lost = True
                log.warning("the lease of %s was taken over by another process or node", self.name)
                return
            self._granted_at = asked_at


@contextmanager
def renewed(name: str, renew: Callable[[], bool], granted_at: float) -> Iterator[Renewal]:
    """Renew a lease during the block; it was asked for at ``granted_at``, by ``uptime()``, which counts suspension."""
    renewal = Renewal(name, renew, granted_at)
    thread = threading.Thread(target=renewal.run, name=f"lease {name}", daemon=True)
    thread.start()
    try:
        yield renewal
    finally:
        renewal.end()
        thread.join()
