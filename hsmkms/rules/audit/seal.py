"""Seals: lines over which the token has made an HMAC, each with the hash of the one before it.

A seal says how far every lane goes. So who cuts off the end of a lane, or writes it anew, contradicts a seal; and who
cuts the seals as well, or puts older files back, contradicts the note on the token that names the newest seal.
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
    """A seal as it stands in its file. ``message`` is what ``mac`` (hex) is over."""

    seal: Seal
    mac: str
    message: bytes
    digest: str


class Note(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the token (or a file elsewhere) remembers: the number of the newest seal, and its line's SHA-256 (hex).

    On a token that the installation has left: ``token`` is that one's id, ``left_for`` tells the new home, and
    ``epoch`` when that was, as a number of the change log. No database from before that is the newest.
    """

    number: int
    digest: str
    mac: str = ""
    token: str = ""
    left_for: str = ""
    epoch: int = 0


def message(seal: Seal) -> bytes:
    """What the token authenticates."""
    return _SEAL_DOMAIN + encode(seal)


def line(seal: Seal, mac: bytes) -> bytes:
    """The line of a seal, with its line feed."""
    return b'%b%b","seal":%b}\n' % (_MAC, mac.hex().encode(), encode(seal))


def read(text: bytes) -> SealedLine | None:
    """A line as a seal, unproven; None for what is none."""
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
    """How the next seal and the note name a line."""
    return hashlib.sha256(text).hexdigest()


def note_message(note: Note) -> bytes:
    """What the token authenticates of a note."""
    if note.token:
        return _LEFT_DOMAIN + encode(replace(note, mac=""))
    return _NOTE_DOMAIN + b"%d\0%b" % (note.number, note.digest.encode())


def read_note(text: bytes) -> Note | None:
    """A note, unproven; None for what is none."""
    try:
        return msgspec.json.decode(text, type=Note)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def newest(notes: Iterable[Note]) -> Note | None:
    """The note with the highest number."""
    return max(notes, key=lambda note: note.number, default=None)
