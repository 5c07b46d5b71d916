"""Encode and parse seals: lines with an HMAC by the token, each with the hash of the one before it.

A seal states the last record of every lane. So truncating or rewriting a lane contradicts a seal; and truncating the
seals as well, or restoring older files, contradicts the note on the token that names the newest seal.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hsmkms.model.audit import Seal
from hsmkms.rules.audit.record import encode

_MAC: Final = b'{"mac":"'
_BODY: Final = len(_MAC) + 64 + 2
_SEAL_DOMAIN: Final = b"hsmkms audit seal v1\0"
_NOTE_DOMAIN: Final = b"hsmkms audit note v1\0"
_LEFT_DOMAIN: Final = b"hsmkms token left v1\0"

_decode_seal: Final = msgspec.json.Decoder(Seal).decode


class SealedLine(Struct, frozen=True, kw_only=True):
    """A line of the file of seals. ``mac`` (hex) is computed over ``message``; ``digest``: the line's SHA-256 (hex)."""

    seal: Seal
    mac: str
    message: bytes
    digest: str


class Note(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A note on the token (or in a file elsewhere): the number of the newest seal, and its line's SHA-256 (hex).

    ``node``: the id of the node whose log has that seal, "" where there are no nodes.

    On a token that the installation has left: ``token`` is that token's id, ``left_for`` names the new home, and
    ``epoch`` is the change log's epoch at that time. A database with an older epoch is outdated.
    """

    number: int
    digest: str
    mac: str = ""
    token: str = ""
    left_for: str = ""
    epoch: int = 0
    node: str = ""


def message(seal: Seal) -> bytes:
    """Return the bytes of a seal that the token authenticates."""
    return _SEAL_DOMAIN + encode(seal)


def line(seal: Seal, mac: bytes) -> bytes:
    """Return the line of a seal, with its line feed."""
    return b'%b%b","seal":%b}\n' % (_MAC, mac.hex().encode(), encode(seal))


def read(text: bytes) -> SealedLine | None:
    """Parse a line as a seal, not verified; None if it is not one."""
    marker = b'"seal":'
    if not text.startswith(_MAC) or text[_BODY : _BODY + len(marker)] != marker:
        return None
    body = text.rstrip(b"\n")[_BODY + len(marker) : -1]
    try:
        seal = _decode_seal(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    mac = text[len(_MAC) : len(_MAC) + 64].decode("ascii", "replace")
    return SealedLine(seal=seal, mac=mac, message=_SEAL_DOMAIN + body, digest=digest(text))


def digest(text: bytes) -> str:
    """Return the digest by which the next seal and the note name a line."""
    return hashlib.sha256(text).hexdigest()


def note_message(note: Note) -> bytes:
    """Return the bytes of a note that the token authenticates."""
    if note.token:
        return _LEFT_DOMAIN + encode(replace(note, mac=""))
    message = _NOTE_DOMAIN + b"%d\0%b" % (note.number, note.digest.encode())
    return message + b"\0" + note.node.encode() if note.node else message


def read_note(text: bytes) -> Note | None:
    """Parse a note, not verified; None if it is not one."""
    try:
        return msgspec.json.decode(text, type=Note)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def newest(notes: Iterable[Note]) -> Note | None:
    """Return the note with the highest number, or None."""
    return max(notes, key=lambda note: note.number, default=None)
