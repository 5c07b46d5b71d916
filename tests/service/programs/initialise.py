"""Makes databases and installation key, and is killed at a step of it."""

import os
import signal
import sys
from pathlib import Path

from hsmkms.config import settings as config
from hsmkms.service.runtime import binding
from hsmkms.store import migrate
from hsmkms.store.engine import Store
from hsmkms.wiring import core as wiring
from hsmkms.wiring import tokens as token_wiring

_, file, step = sys.argv
settings = config.load(Path(file))


def die_at(reached: str) -> None:
    """Take no step beyond that one."""
    if reached.startswith(step):
        os.kill(os.getpid(), signal.SIGKILL)


device = token_wiring.open_device(settings)
migrate.create(settings.data_dir)
store = Store.open(settings.data_dir)
binding.initialise(store, device, settings.account_id, wiring.utc_now, die_at)
