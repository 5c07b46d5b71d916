"""Creates keys, telling each with a ciphertext of it, and is killed at a step of the creation after the last one."""

import os
import signal
import sys
from pathlib import Path

from service_sites import new_key, report, seal

from hsmkms import Kms

_, file, keys, step = sys.argv


def die_at(reached: str) -> None:
    """Take no step beyond that one."""
    if reached.startswith(step):
        os.kill(os.getpid(), signal.SIGKILL)


kms = Kms.open(Path(file))
for _ in range(int(keys)):
    made = new_key(kms)
    report([made.key_id, seal(kms, made.key_id).hex()])
kms._core.reached = die_at
new_key(kms, description="interrupted")
