"""Wait for what other threads and processes do in their own time."""

import time
from collections.abc import Callable
from typing import Final

LONG_SECONDS: Final = 120.0
"""After which it counts as never: no test may depend on the machine's speed."""

_LOOK_SECONDS: Final = 0.01


def within(seconds: float, happened: Callable[[], bool]) -> bool:
    """Wait until it has happened; False if it has not within that time."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def until(happened: Callable[[], bool], seconds: float = LONG_SECONDS) -> None:
    """Wait until it has happened; AssertionError if it has not within that time."""
    assert within(seconds, happened), f"it did not happen in {seconds} s"
