"""Write files that only their owner can read."""

from pathlib import Path

from hsmkms import atomic_write
from hsmkms.errors import StoreError


def write_private(file: Path, text: str) -> None:
    """Create a file that only its owner can read. Raises StoreError, also if it exists."""
    try:
        atomic_write.create(file, text.encode())
    except OSError as exc:
        raise StoreError(f"{file} cannot be written: {exc.strerror}") from exc
