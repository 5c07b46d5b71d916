"""Keep the memory and the files of hsmkms's processes private."""

import ctypes
import os
import resource
from typing import Final

_OWNER_ALONE: Final = 0o077
_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def keep_secrets() -> None:
    """Disable core dumps and create files without permissions for others. Only for hsmkms's own programs.

    RLIMIT_CORE alone is not enough: the kernel pipes a core to a program (``|`` in core_pattern) whatever the limit is.
    A process that is not dumpable cannot be traced by others of the same user either. Forked workers inherit all this.
    """
    os.umask(_OWNER_ALONE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
