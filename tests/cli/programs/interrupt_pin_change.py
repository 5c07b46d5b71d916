"""Changes the PIN to another one, and is killed when the token knows it."""

import os
import signal

from hsmkms.config.settings import Secret
from hsmkms.wiring import core as wiring
from hsmkms.wiring import pin_change


def die(_: str) -> None:
    """Take no further step."""
    os.kill(os.getpid(), signal.SIGKILL)


settings = wiring.load_settings()
core = wiring.core_of(settings)
core.reached = die
pin_change.change_pin(core, settings, settings.token, Secret("another PIN"))
