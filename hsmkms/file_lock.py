"""Advisory locks on open files (flock(2)), which end with the process that holds them.

A lock therefore also proves that its holder lives: what is locked belongs to a process that runs, and what can be
locked was left behind by one that is gone.
"""

import fcntl


def lock(descriptor: int) -> None:
    """Lock an open file exclusively, once no other holder is left."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting; False if somebody else holds it. ``shared``: beside other shared locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
