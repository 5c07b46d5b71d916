"""Files with key material: reading them into memory that can be overwritten, and writing what was made of them.

What a file holds is never shown: messages tell its length, and what it looks like.
"""

import base64
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hsmkms.errors import ValidationException

STANDARD_INPUT: Final = "-"
SYMMETRIC_BYTES: Final = 32
"""What a SYMMETRIC_DEFAULT key takes."""
MOST_BYTES: Final = 6144
"""No key material is longer: the API takes no more when it is wrapped."""

_BINARY_FILE: Final = "fileb://"
_LINE_END: Final = b"\r\n"
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_is_hex: Final = re.compile(rb"[0-9A-Fa-f]+").fullmatch
_is_text: Final = re.compile(rb"[\t\n\r\x20-\x7e]+").fullmatch


@contextmanager
def material(name: str) -> Iterator[bytearray]:
    """The bytes of a file, or of standard input for ``-``; overwritten in the end, as far as Python lets us.

    Warns on standard error of a file that is open to others. ValidationException if there is nothing, or too much.
    """
    path = path_of(name)
    buffer, held = bytearray(MOST_BYTES + 1), bytearray()
    try:
        length = _fill(path, buffer)
        if not 0 < length <= MOST_BYTES:
            amount = f"more than {MOST_BYTES}" if length else "no"
            raise ValidationException(f"{_shown(path)} has {amount} bytes, so it is no key material.")
        held = buffer[:length]  # not shortened in its place, which may leave a copy behind
        yield held
    finally:
        _wipe(buffer)
        _wipe(held)


def check_length(name: str, held: bytearray, wanted: int, more: str = "") -> None:
    """ValidationException unless there are exactly the ``wanted`` bytes; it says what the file looks like."""
    if len(held) != wanted:
        looks = _looks(path_of(name), held, wanted) or more
        raise ValidationException(
            f"{_shown(path_of(name))} has {len(held)} bytes, but the key takes exactly {wanted}. {looks}".rstrip()
        )


def warn_of_text(name: str, held: bytearray) -> None:
    """Say so if key material looks like something that a person has typed, or that a tool has printed."""
    if _is_text(held):
        _warn(f"{_shown(path_of(name))} is text: key material is binary, and should have been drawn at random.")


def path_of(name: str) -> str:
    """A file as people name it: ``fileb://`` is needed elsewhere, so it may stand here."""
    return name.removeprefix(_BINARY_FILE)


def read(option: str, name: str) -> bytes:
    """The bytes of a file that is no secret."""
    try:
        return Path(path_of(name)).read_bytes()
    except OSError as exc:
        raise ValidationException(f"{option}: {path_of(name)} cannot be read ({exc.strerror}).") from exc


def write_private(option: str, name: str, data: bytes) -> None:
    """Write a new file for its owner alone. ValidationException if there is one; nothing is left of a failure."""
    try:
        descriptor = os.open(name, _CREATE, 0o600)
    except FileExistsError as exc:
        raise ValidationException(f"{option}: {name} exists already: name a file that does not.") from exc
    except OSError as exc:
        raise ValidationException(f"{option}: {name} cannot be made ({exc.strerror}).") from exc
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except BaseException as exc:
        with suppress(OSError):
            Path(name).unlink()
        if isinstance(exc, OSError):
            raise ValidationException(f"{option}: {name} cannot be written ({exc.strerror}).") from exc
        raise


def _fill(path: str, held: bytearray) -> int:
    """Read into the buffer, past every other one of Python's; how many bytes there were."""
    try:
        with os.fdopen(_opened(path), "rb", buffering=0) as file, memoryview(held) as view:
            warn_if_open(path, os.fstat(file.fileno()).st_mode)
            length = 0
            while length < len(view) and (count := file.readinto(view[length:])):
                length += count
            return length
    except OSError as exc:
        raise ValidationException(f"{_shown(path)} cannot be read ({exc.strerror}).") from exc


def _wipe(held: bytearray) -> None:
    held[:] = bytes(len(held))


def _opened(path: str) -> int:
    return os.dup(0) if path == STANDARD_INPUT else os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _shown(path: str) -> str:
    return "standard input" if path == STANDARD_INPUT else path


def warn_if_open(path: str, mode: int) -> None:
    """Say so if a file with a secret is open to other users."""
    if stat.S_ISREG(mode) and mode & _OTHERS and path != STANDARD_INPUT:
        _warn(f"{path} is open to other users (mode {stat.S_IMODE(mode):04o}): run `chmod 600 {shlex.quote(path)}`.")


def _warn(sentence: str) -> None:
    print(f"hsmkms: warning: {sentence}", file=sys.stderr)


def _looks(path: str, held: bytearray, wanted: int) -> str:
    """What a file of a wrong length looks like, and what to do then; empty if it looks like nothing known."""
    bare, file = held.rstrip(_LINE_END), shlex.quote(path)
    if len(bare) == 2 * wanted and _is_hex(bare):
        return f"It is hexadecimal text, and key material is binary: decode it with `xxd -r -p {file} > BINARY`."
    if _decodes(bare, wanted):
        return f"It is base64 text, and key material is binary: decode it with `base64 -d {file} > BINARY`."
    if len(bare) == wanted:
        return f"It has a line end, which is no part of the key: cut it off with `head -c {wanted} {file} > BINARY`."
    return ""


def _decodes(text: bytearray, wanted: int) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == wanted
    except ValueError:
        return False
