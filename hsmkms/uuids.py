"""Generate random UUIDs (RFC 9562, version 4) for requests and events, a block at a time.

``uuid.uuid4()`` calls the kernel for each, and takes ten times as long. A request needs two.
"""

import os
from collections import deque
from typing import Final

_BLOCK: Final = 64
_BYTES: Final = 16
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
    digits = os.urandom(_BLOCK * _BYTES).hex()
    return [
        f"{digits[at : at + 8]}-{digits[at + 8 : at + 12]}-4{digits[at + 13 : at + 16]}-a{digits[at + 17 : at + 20]}-"
        f"{digits[at + 20 : at + 32]}"
        for at in range(0, len(digits), 2 * _BYTES)
    ]
