"""Use a key object in another session by its handle.

PKCS#11 object handles are valid in every session of the process, but python-pkcs11 binds its key objects to the
session that found them, and searching again costs a walk over the whole token. These classes carry a session and a
handle into python-pkcs11's own operations.
"""

from pkcs11._pkcs11 import (  # type: ignore[attr-defined]
    DecryptMixin,
    DeriveMixin,
    EncryptMixin,
    SignMixin,
    UnwrapMixin,
    VerifyMixin,
)
from pkcs11.mechanisms import KeyType
from pkcs11.types import Session


class BorrowedKey(EncryptMixin, DecryptMixin, SignMixin, VerifyMixin):  # type: ignore[misc]
    """Key of any class, identified by its handle, in the caller's session."""

    __slots__ = ("handle", "key_type", "session")

    def __init__(self, session: Session, handle: int, key_type: KeyType = KeyType.AES) -> None:
        self.session = session
        self.handle = handle
        self.key_type = key_type


class BorrowedUnwrapper(UnwrapMixin, DecryptMixin):  # type: ignore[misc]
    """Unwrapping key, identified by its handle, in the caller's session."""

    __slots__ = ("handle", "key_type", "session")

    def __init__(self, session: Session, handle: int, key_type: KeyType) -> None:
        self.session = session
        self.handle = handle
        self.key_type = key_type


class BorrowedDeriver(DeriveMixin):  # type: ignore[misc]
    """Private key for key agreement, identified by its handle, in the caller's session."""

    __slots__ = ("handle", "key_type", "session")

    def __init__(self, session: Session, handle: int, key_type: KeyType) -> None:
        self.session = session
        self.handle = handle
        self.key_type = key_type
