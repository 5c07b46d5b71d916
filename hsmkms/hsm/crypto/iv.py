"""Supply initialisation vectors: 96 random bits from the token for each encryption, fetched in small blocks.

Source: NIST SP 800-38D, section 8.2.2 (RBG-based construction; with random IVs at most 2^32 encryptions per key).
"""

import threading
from collections import deque
from typing import Final

from pkcs11.types import Session

from hsmkms.errors import TokenError
from hsmkms.process import ForkGuard

IV_BYTES: Final = 12
BLOCK: Final = 64
"""IVs fetched by one call: enough to make the call cheap, and few to lose when the process ends."""


REPEATED: Final = (
    "the token's random generator repeats itself, so nothing is encrypted, as no IV may be used twice: do not use this "
    "token, and check it with `hsmkms token-check`"
)


class IvSource:
    """Buffer of IVs, each returned once. Raises in a forked child, which would return the parent's IVs again."""

    def __init__(self) -> None:
        self._ready: deque[bytes] = deque()
        self._latest: frozenset[bytes] = frozenset()
        self._refilling = threading.Lock()
        self._guard = ForkGuard()

    def next(self, session: Session) -> bytes:
        """Return 12 fresh random bytes; a new block is fetched through the caller's session when they run out.

        TokenError if the token's generator repeats itself.
        """
        if self._guard.foreign:
            self._guard.refuse()
        while True:
            try:
                return self._ready.popleft()
            except IndexError:
                self._refill(session)

    def _refill(self, session: Session) -> None:
        with self._refilling:
            if self._ready:
                return
            block = session.generate_random(BLOCK * IV_BYTES * 8)
            ivs = [block[at : at + IV_BYTES] for at in range(0, len(block), IV_BYTES)]
            latest = frozenset(ivs)
            if len(latest) != BLOCK or not latest.isdisjoint(self._latest):
                raise TokenError(REPEATED)
            self._latest = latest
            self._ready.extend(ivs)
