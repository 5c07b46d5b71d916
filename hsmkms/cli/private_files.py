"""Writing files that only their owner can read."""

import os
from pathlib import Path

from hsmkms.errors import StoreError


def write_private(file: Path, text: str) -> None:
    """Write a new file that only its owner can read."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as exc:
        raise StoreError(f"{file} cannot be written: {exc.strerror}") from exc
