"""What the program's processes keep to themselves: their memory, and the files that they make."""

import ctypes
import os
import resource
from typing import Final

_OWNER_ALONE: Final = 0o077
_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def keep_secrets() -> None:
    """For a program that is all ours: its memory goes into no file, and others can read no file that it makes.

    The limit alone would not do: the kernel gives a core to a program (``|`` in core_pattern) whatever the limit is.
    A process that is not dumpable cannot be traced by others of the same user either. Forked workers inherit it all.
    """
    os.umask(_OWNER_ALONE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
