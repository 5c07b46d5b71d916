"""Makes a backup, and is killed before it is finished."""

import os
import signal
import sys
from pathlib import Path

from hsmkms import Kms
from hsmkms.store.sealed_stream import SealedWriter

_, file, backup = sys.argv


def die(_: SealedWriter) -> None:
    """Leave everything as it is."""
    os.kill(os.getpid(), signal.SIGKILL)


SealedWriter.finish = die  # type: ignore[method-assign]
Kms.open(Path(file)).operator.backup(Path(backup))
