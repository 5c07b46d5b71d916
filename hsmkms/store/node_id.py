"""Keep the id of a node in its data folder, by which a database on a server recognises the node.

A copy of the folder is the same node: the id moves with the audit log and the locks, which are files of that folder.
"""

import re
import uuid
from pathlib import Path
from typing import Final

from hsmkms import atomic_write
from hsmkms.errors import StoreError

FILE: Final = "node-id"
_ID: Final = re.compile(r"[0-9a-f]{32}")
_MOST_BYTES: Final = 64


def read(folder: Path) -> str | None:
    """Return the id in a data folder, 32 hex digits; None if it has none. StoreError if the file has anything else."""
    path = folder / FILE
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StoreError(f"{path} cannot be read: {exc.strerror}") from exc
    if _ID.fullmatch(text) is None:
        raise StoreError(
            f"{path} must hold 32 hex digits, the id of this node: take the file from a copy of the folder"
        )
    return text


def read_or_make(folder: Path) -> str:
    """Return the id in a data folder, made and fsynced if it has none."""
    known = read(folder)
    if known is not None:
        return known
    made = uuid.uuid4().hex
    write(folder, made)
    return made


def write(folder: Path, made: str) -> None:
    """Write the id into a data folder that has none, and fsync it."""
    try:
        atomic_write.create(folder / FILE, f"{made}\n".encode())
    except OSError as exc:
        raise StoreError(f"{folder / FILE} cannot be written: {exc.strerror}") from exc
