"""Reconnect to a token that is away: one thread retries with backoff while all other calls fail fast."""

import logging
import threading
from collections.abc import Callable
from typing import Final

log = logging.getLogger("hsmkms.hsm")

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 2.0
"""A token that is back is in use again within this time plus the time of a login."""

STOP_SECONDS: Final = 5.0


class Reconnector:
    """Retries ``attempt`` until it returns True, in a thread that exists only for that time.

    ``attempt`` gets the number of earlier attempts in this run.
    """

    def __init__(self, attempt: Callable[[int], bool]) -> None:
        self._attempt = attempt
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the reconnect thread, unless it is running; the first attempt follows after a short pause."""
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._run, name="hsmkms reconnect", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stop retrying; an attempt that hangs in the token is abandoned."""
        self._stopped.set()
        thread = self._thread
        if thread is not None:
            thread.join(STOP_SECONDS)

    def _run(self) -> None:
        number, pause = 0, FIRST_PAUSE_SECONDS
        while not self._stopped.wait(pause):
            if self._is_back(number):
                break
            number += 1
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        with self._lock:
            self._thread = None

    def _is_back(self, number: int) -> bool:
        try:
            return self._attempt(number)
        except Exception:
            log.exception("reconnecting to the token failed by a fault of hsmkms and is tried again")
            return False
