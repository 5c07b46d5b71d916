"""How many encryptions one AES-GCM material may do.

With random 96-bit IVs, at most 2^32 (NIST SP 800-38D, section 8.3). They are counted in leases, which are stored
before they are used: a crash wastes the rest of a lease and never loses a count. Leases start at 1 and double under
load, so that a seldom used key wastes little and a busy one seldom writes.
"""

from typing import Final, Literal

LIMIT: Final = 2**32
LARGEST_LEASE: Final = 65_536
ROTATE_AT: Final = LIMIT // 2
"""Generated material is followed by new material from here on, so that it never comes near the limit."""


def next_lease(previous: int) -> int:
    """Size of the lease after one of that size; 0 stands for none yet."""
    return min(max(previous * 2, 1), LARGEST_LEASE)


def grant(used: int, want: int) -> int:
    """How many of the wanted encryptions the budget still holds; 0 when it is used up."""
    return max(min(want, LIMIT - used), 0)


def warning(used: int) -> Literal[50, 90] | None:
    """The share of the budget, in percent, that deserves a warning by now: of imported material, which stays."""
    if used * 10 >= LIMIT * 9:
        return 90
    return 50 if used * 2 >= LIMIT else None
