"""Limit the number of encryptions with one AES-GCM material.

With random 96-bit IVs it is 2^32 (NIST SP 800-38D, section 8.3). Encryptions are counted in leases, which are stored
before they are used: a crash wastes the rest of a lease and never loses a count. Leases start at 1 and double under
load, so that a rarely used key wastes little and a busy one rarely writes.
"""

from typing import Final, Literal

LIMIT: Final = 2**32
LARGEST_LEASE: Final = 65_536
ROTATE_AT: Final = LIMIT // 2
"""Generated material is rotated from here on, so that it never comes near the limit."""


def next_lease(previous: int) -> int:
    """Return the size of the lease after one of size ``previous``; 0 stands for none yet."""
    return min(max(previous * 2, 1), LARGEST_LEASE)


def grant(used: int, want: int) -> int:
    """Return how many of the wanted encryptions the budget still allows; 0 when it is used up."""
    return max(min(want, LIMIT - used), 0)


def warning(used: int) -> Literal[50, 90] | None:
    """Return the used share of the budget in percent to warn about, or None; for imported material, which stays."""
    if used * 10 >= LIMIT * 9:
        return 90
    return 50 if used * 2 >= LIMIT else None
