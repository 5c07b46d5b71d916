"""Read files with key material into memory that can be overwritten, and write wrapped key material.

The content of a file is never shown: messages mention only its length and its apparent format.
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
"""The length of a SYMMETRIC_DEFAULT key."""
MOST_BYTES: Final = 6144
"""The maximum length of key material: the API accepts no more bytes of wrapped material."""

_BINARY_FILE: Final = "fileb://"
_LINE_END: Final = b"\r\n"
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_is_hex: Final = re.compile(rb"[0-9A-Fa-f]+").fullmatch
_is_text: Final = re.compile(rb"[\t\n\r\x20-\x7e]+").fullmatch


@contextmanager
def material(name: str) -> Iterator[bytearray]:
    """Read a file, or standard input for ``-``; the bytes are overwritten at the end of the block.

    Python may still have copied them. Warns on standard error if the file is open to other users. ValidationException
    if it is empty or too long.
    """
    path = path_of(name)
    buffer, secret = bytearray(MOST_BYTES + 1), bytearray()
    try:
        length = _fill(path, buffer)
        if not 0 < length <= MOST_BYTES:
            amount = f"more than {MOST_BYTES}" if length else "no"
            raise ValidationException(f"{_shown(path)} has {amount} bytes, so it is no key material.")
        secret = buffer[:length]  # a copy: shortening the buffer in place may leave an old one in memory
        yield secret
    finally:
        _wipe(buffer)
        _wipe(secret)


def check_length(name: str, secret: bytearray, wanted: int, more: str = "") -> None:
    """Raise ValidationException unless there are exactly ``wanted`` bytes; it advises by what the file looks like.

    ``more`` is the advice for a file that looks like nothing known.
    """
    if len(secret) != wanted:
        advice = _advice(path_of(name), secret, wanted) or more
        raise ValidationException(
            f"{_shown(path_of(name))} has {len(secret)} bytes, but the key takes exactly {wanted}. {advice}".rstrip()
        )


def warn_of_text(name: str, secret: bytearray) -> None:
    """Warn if key material is text, as a person types or a tool prints it."""
    if _is_text(secret):
        _warn(f"{_shown(path_of(name))} is text: key material is binary, and should have been drawn at random.")


def path_of(name: str) -> str:
    """Remove ``fileb://`` from the name of a file: other commands need it, so it is accepted here."""
    return name.removeprefix(_BINARY_FILE)


def read(option: str, name: str) -> bytes:
    """Read a file that is not secret."""
    try:
        return Path(path_of(name)).read_bytes()
    except OSError as exc:
        raise ValidationException(f"{option}: {path_of(name)} cannot be read ({exc.strerror}).") from exc


def write_private(option: str, name: str, data: bytes) -> None:
    """Create a file, readable by its owner only. ValidationException if it exists; a failure leaves no file."""
    try:
        descriptor = os.open(name, _CREATE, 0o600)
    except FileExistsError as exc:
        raise ValidationException(f"{option}: {name} exists already: name a file that does not.") from exc
    except OSError as exc:
        raise ValidationException(f"{option}: {name} cannot be created ({exc.strerror}).") from exc
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except BaseException as exc:
        with suppress(OSError):
            Path(name).unlink()
        if isinstance(exc, OSError):
            raise ValidationException(f"{option}: {name} cannot be written ({exc.strerror}).") from exc
        raise


def _fill(path: str, buffer: bytearray) -> int:
    """Read a file directly into the buffer, without buffers of Python; return the number of bytes."""
    try:
        with os.fdopen(_opened(path), "rb", buffering=0) as file, memoryview(buffer) as view:
            warn_if_open(path, os.fstat(file.fileno()).st_mode)
            length = 0
            while length < len(view) and (count := file.readinto(view[length:])):
                length += count
            return length
    except OSError as exc:
        raise ValidationException(f"{_shown(path)} cannot be read ({exc.strerror}).") from exc


def _wipe(secret: bytearray) -> None:
    secret[:] = bytes(len(secret))


def _opened(path: str) -> int:
    return os.dup(0) if path == STANDARD_INPUT else os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _shown(path: str) -> str:
    return "standard input" if path == STANDARD_INPUT else path


def warn_if_open(path: str, mode: int) -> None:
    """Warn if a file with a secret is open to other users."""
    if stat.S_ISREG(mode) and mode & _OTHERS and path != STANDARD_INPUT:
        _warn(f"{path} is open to other users (mode {stat.S_IMODE(mode):04o}): run `chmod 600 {shlex.quote(path)}`.")


def _warn(sentence: str) -> None:
    print(f"hsmkms: warning: {sentence}", file=sys.stderr)


def _advice(path: str, secret: bytearray, wanted: int) -> str:
    """Name the apparent format of a file of a wrong length and how to convert it; empty if it is unknown."""
    bare, file = secret.rstrip(_LINE_END), shlex.quote(path)
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
