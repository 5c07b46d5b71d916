"""Restores a backup that its token opens, and is killed at a step."""

import os
import signal
import sys
from pathlib import Path

from hsmkms.config import settings as config
from hsmkms.wiring import restore as restore_wiring

_, file, backup, step = sys.argv


def die_at(reached: str) -> None:
    """Take no step beyond that one."""
    if reached.startswith(step):
        os.kill(os.getpid(), signal.SIGKILL)


restore_wiring.restore(config.load(Path(file)), Path(backup), reached=die_at)
