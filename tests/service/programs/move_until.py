"""Moves the store of an installation, and is killed at a step."""

import os
import signal
import sys
from pathlib import Path

from hsmkms.config import settings as config
from hsmkms.config.store_settings import StoreSettings
from hsmkms.wiring import move_store

_, file, url, step = sys.argv


def die_at(reached: str) -> None:
    """Take no step beyond that one."""
    if reached.startswith(step):
        os.kill(os.getpid(), signal.SIGKILL)


move_store.move(config.load(Path(file)), StoreSettings(url=url or None), reached=die_at)
