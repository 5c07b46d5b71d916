"""Generate random UUIDs (RFC 9562, version 4) for requests and events, a block at a time.

``uuid.uuid4()`` calls the kernel for each, and takes ten times as long. A request needs two.
"""

import os
from collections import deque
from typing import Final

_BLOCK: Final = 64
_BYTES: Final = 16
_TEMPLATE: Final = b"________-____-4___-a___-____________ "
"""Version 4; the first digit of the variant is always the same, which leaves 120 random bits."""

_TEMPLATES: Final = _TEMPLATE * _BLOCK
_PLACES: Final = [place for place, digit in enumerate(_TEMPLATE) if digit == ord("_")]
_drawn: Final[deque[str]] = deque()  # its popleft and extend are atomic
os.register_at_fork(after_in_child=_drawn.clear)  # the parent will use these


def new() -> str:
    """Return a UUID that was not returned before."""
    try:
        return _drawn.popleft()
    except IndexError:
        first, *others = block()
        _drawn.extend(others)
        return first


def block() -> list[str]:
    """Draw 64 UUIDs at once, for callers that keep them for a single thread of one process."""
    digits, text = os.urandom(_BLOCK * _BYTES).hex().encode(), bytearray(_TEMPLATES)
    for number, place in enumerate(_PLACES):  # a digit of all of them at once: formatting one takes twice as long
        text[place :: len(_TEMPLATE)] = digits[number :: 2 * _BYTES]
    return text.decode().split()
