"""Limit the number of encryptions with one symmetric material.

For AES-GCM with random 96-bit IVs it is 2^32 (NIST SP 800-38D, section 8.3: an IV repeats with a probability of less
than 2^-32). AES-CBC with random IVs has no limit in NIST SP 800-38A; it leaks once two of all encrypted blocks are
equal, which for n blocks of 128 bits has a probability of at most n^2 / 2^129 (the birthday bound; Bellare, Desai,
Jokipii and Rogaway, "A Concrete Security Treatment of Symmetric Encryption", FOCS 1997). An encryption has at most
``CBC_BLOCKS`` blocks, so 2^32 encryptions are fewer than 2^40.01 blocks, and the probability is below 2^-48: the same
limit serves both, and is the stricter one for AES-CBC. Encryptions are counted in leases, which are stored
before they are used: a crash wastes the rest of a lease and never loses a count. Leases start at 1 and double under
load, so that a rarely used key wastes little and a busy one rarely writes.
"""

from math import ceil
from typing import Final, Literal

LIMIT: Final = 2**32
CBC_BLOCKS: Final = 4096 // 16 + 1
"""Blocks of the longest plaintext that hsmkms encrypts at once (hsm/crypto/cbc.py refuses longer ones), padded."""

LARGEST_LEASE: Final = 65_536
LEAST_RESERVE: Final = 1024
LARGEST_RESERVE: Final = 2**20
"""Limit of the encryptions of a material that a crash of one process may waste: 1 of 4,096 that it may make."""

ROTATE_AT: Final = LIMIT // 2
"""Generated material is rotated from this number on, so that it never comes near the limit."""


def next_lease(previous: int) -> int:
    """Return the size of the lease after one of size ``previous``; 0 stands for none yet."""
    return min(max(previous * 2, 1), LARGEST_LEASE)


def reserve(rate: float, seconds: float) -> int:
    """Return how many encryptions to hold in reserve for so many seconds without the database.

    ``rate``: how many a second there were at most lately. There may be twice as many, or a few of a key that rests.
    """
    return min(LEAST_RESERVE + ceil(rate * seconds * 2), LARGEST_RESERVE)


def warning(used: int) -> Literal[50, 90] | None:
    """Return the used share of the budget in percent to warn about, or None; for imported material, which stays."""
    if used * 10 >= LIMIT * 9:
        return 90
    return 50 if used * 2 >= LIMIT else None
