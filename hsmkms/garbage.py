"""How often Python's cyclic garbage collector runs."""

import gc
from typing import Final

_USUAL_THRESHOLDS: Final = gc.get_threshold()
_OBJECTS_OF_IMPORTS: Final = 50_000


def collect_seldom() -> None:
    """Collect garbage after 50,000 new objects instead of Python's 700: imports make many, and next to no garbage.

    It takes a tenth of a short command's time otherwise.
    """
    gc.set_threshold(_OBJECTS_OF_IMPORTS, *_USUAL_THRESHOLDS[1:])


def collect_as_usual() -> None:
    """Collect garbage as often as Python does, for a process that stays and must not grow."""
    gc.set_threshold(*_USUAL_THRESHOLDS)
