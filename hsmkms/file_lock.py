"""Advisory locks on open files (flock(2)), released when the process that holds them ends.

A lock therefore also proves that its holder is alive: a locked file belongs to a running process, and one that can be
locked was left behind by a process that has ended.
"""

import fcntl


def lock(descriptor: int, *, shared: bool = False) -> None:
    """Lock an open file; wait for holders that are not compatible. ``shared``: compatible with shared locks."""
    fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting; return False if it is locked. ``shared``: compatible with shared locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
