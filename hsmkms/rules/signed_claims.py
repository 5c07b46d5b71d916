"""Claims under a MAC: the common form of grant tokens and import tokens.

``magic || claims || MAC``. The MAC is made and checked on the token by the installation's own key, over magic and
claims; nothing in it is secret, and nothing in it is believed before the MAC was checked.
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from hsmkms.errors import ApiError

_MAC_BYTES: Final = 32

Claims = TypeVar("Claims", bound=Struct)


class SignedClaims(Generic[Claims]):
    """One kind of claims: the magic that it begins with, its type, and the error for what is not of that form."""

    def __init__(self, magic: bytes, kind: type[Claims], invalid: Callable[[], ApiError]) -> None:
        self._magic = magic
        self._kind = kind
        self._invalid = invalid

    def signed_part(self, claims: Claims) -> bytes:
        """Return what the MAC is made over: all that stands before it."""
        return self._magic + msgspec.msgpack.encode(claims)

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the part that was signed, and its MAC. Raise the kind's error if it does not begin with the magic."""
        signed, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if not signed.startswith(self._magic):
            raise self._invalid()
        return signed, mac

    def read(self, signed: bytes) -> Claims:
        """Return the claims, once the MAC is known to be right."""
        try:
            return msgspec.msgpack.decode(signed.removeprefix(self._magic), type=self._kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._invalid() from exc
