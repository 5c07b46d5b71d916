"""Carries on the set-up that a configuration file describes, and is killed at a step of it."""

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


def die_at(reached: str) -> None:
    """Take no step beyond the one that was named."""
    if reached.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)


settings = config.load(Path(sys.argv[1]))
migrate.create(settings.data_dir)
device = token_wiring.open_device(settings)
binding.initialise(Store.open(settings.data_dir), device, settings.account_id, wiring.utc_now, die_at)
