"""Symmetric encryption on a token, in the ciphertext format of each key material, and its random generator.

The format is AES-GCM, or AES-CBC with HMAC where the token has no AES-GCM. Which one a material has is recorded in its
CKA_ID (model/cipher_format.py), and never changes: what was encrypted before the token gained or lost AES-GCM decrypts
as before. New material gets the format of the token's profile.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar

from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import Mechanism
from pkcs11.types import Session

from hsmkms.errors import ObjectLostError, RejectedDataError, UnsupportedOperationException
from hsmkms.hsm.allowed_acts import MAY_DECRYPT, MAY_DRAW_RANDOM, MAY_ENCRYPT
from hsmkms.hsm.calls.messages import TAG_BYTES
from hsmkms.hsm.crypto import cbc, gcm
from hsmkms.hsm.crypto.decrypt_faults import explain_refusal, is_ambiguous, is_refusal
from hsmkms.hsm.crypto.gcm_from_blocks import open_from_blocks
from hsmkms.hsm.crypto.iv import IvSource
from hsmkms.hsm.crypto.token_iv import IvOrigin, seal_by_token
from hsmkms.hsm.faults import OBJECT_LOST, REJECTED, translate
from hsmkms.hsm.ports import uncounted
from hsmkms.hsm.session.connection import ENCRYPT, Connection
from hsmkms.model.cipher_format import CipherFormat, format_of, mac_key_id
from hsmkms.model.permit import Permit

Result = TypeVar("Result")
Sealed = tuple[bytes, bytes]
"""An IV, and ciphertext || tag."""

NO_CBC_ANY_MORE: Final = (
    "This token has no AES-CBC any more, for which this key material was made: until it has AES-CBC again, nothing is "
    "encrypted or decrypted with it. Rotate the key (hsmkms rotate-key-on-demand; for the installation's own keys "
    "hsmkms rotate-installation-keys), or create a new one"
)
NO_GCM_ANY_MORE: Final = (
    "This token has no AES-GCM any more, for which this key material was made: what it encrypted before can be "
    "decrypted if the token has AES-ECB, and new material gets another format. Rotate the key (hsmkms "
    "rotate-key-on-demand; for the installation's own keys hsmkms rotate-installation-keys), or create a new one"
)


class FormatCipher(Protocol):
    """Encrypts and decrypts in one format, in a borrowed session. PKCS11Error is not translated."""

    def can_encrypt(self) -> bool:
        """Return whether the token still has what encryption in this format needs."""

    def seal(
        self, session: Session, handle: int, cka_id: bytes, plaintext: bytes, aad: bytes, count: Callable[[], None]
    ) -> Sealed:
        """Encrypt, and call ``count`` before; return the IV, and ciphertext || tag."""

    def open_sealed(self, session: Session, handle: int, cka_id: bytes, sealed: Sealed, aad: bytes) -> bytes:
        """Decrypt IV and ciphertext || tag; RejectedDataError for what was not made by this material with this AAD."""


class GcmCipher:
    """AES-256-GCM. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ivs = IvSource()
        self._has_gcm = connection.has(Mechanism.AES_GCM)

    def can_encrypt(self) -> bool:
        """Return whether the token has AES-GCM."""
        return self._has_gcm

    def seal(
        self, session: Session, handle: int, cka_id: bytes, plaintext: bytes, aad: bytes, count: Callable[[], None]
    ) -> Sealed:
        """Encrypt; the IV comes from the token's random generator, or is the one that the token chose itself."""
        if not self._has_gcm:
            raise UnsupportedOperationException(NO_GCM_ANY_MORE)
        count()
        connection = self._connection
        messages = connection.messages
        if messages.generator is not None:
            sealed = messages.seal(session, cka_id, handle, self._ivs.next, plaintext, aad)
            if sealed is not None:
                return sealed
        origin = connection.profile.iv_origin
        if origin is not IvOrigin.CALLER:
            return seal_by_token(session, handle, origin, plaintext, aad)
        iv = self._ivs.next(session)
        return iv, gcm.seal(session, handle, iv, plaintext, aad)

    def open_sealed(
        self,
        session: Session,
        handle: int,
        cka_id: bytes,  # noqa: ARG002 - a part of the format's key in others
        sealed: Sealed,
        aad: bytes,
    ) -> bytes:
        """Decrypt; from single AES blocks if the token has lost AES-GCM."""
        iv, body = sealed
        if len(body) < TAG_BYTES:  # opencryptoki 3.23 answers CKR_BUFFER_TOO_SMALL, and leaves the operation active
            raise RejectedDataError(REJECTED)
        if not self._has_gcm:
            return open_from_blocks(session, handle, iv, body, aad)
        try:
            return gcm.open_sealed(session, handle, iv, body, aad)
        except PKCS11Error as exc:
            profile = self._connection.profile
            fault = explain_refusal(exc, session, handle, profile.iv_origin, profile.attributes)
            if not isinstance(fault, RejectedDataError) or not is_ambiguous(exc):
                raise fault from exc
        try:  # the device is well now: only a second refusal shows that the first was not its trouble
            return gcm.open_sealed(session, handle, iv, body, aad)
        except PKCS11Error as exc:
            raise (fault if is_ambiguous(exc) or is_refusal(exc) else translate(exc)) from exc


class CbcCipher:
    """AES-256-CBC with HMAC-SHA-256. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ivs = IvSource(cbc.IV_BYTES)

    def can_encrypt(self) -> bool:
        """Return whether the token has AES-CBC."""
        return self._connection.has(Mechanism.AES_CBC)

    def seal(
        self, session: Session, handle: int, cka_id: bytes, plaintext: bytes, aad: bytes, count: Callable[[], None]
    ) -> Sealed:
        """Encrypt, then authenticate; the IV comes from the token's random generator."""

        def attempt(keys: cbc.Keys) -> Sealed:
            count()
            iv = self._ivs.next(session)
            return iv, cbc.seal(session, keys, iv, plaintext, aad)

        return self._with_both(session, cka_id, handle, attempt)

    def open_sealed(self, session: Session, handle: int, cka_id: bytes, sealed: Sealed, aad: bytes) -> bytes:
        """Verify, then decrypt."""
        return self._with_both(session, cka_id, handle, lambda keys: cbc.open_sealed(session, keys, *sealed, aad))

    def _with_both(self, session: Session, cka_id: bytes, handle: int, use: Callable[[cbc.Keys], Result]) -> Result:
        """Call ``use`` with the handles of both keys; ObjectLostError if the HMAC key is not on the token."""
        connection, authenticating_id = self._connection, mac_key_id(cka_id)
        if not self.can_encrypt():
            raise UnsupportedOperationException(NO_CBC_ANY_MORE)
        if authenticating_id is None:
            raise ObjectLostError(OBJECT_LOST)
        connection.messages.end(session)
        authenticating = connection.handle(session, authenticating_id)
        try:
            return use(cbc.Keys(handle, authenticating))
        except PKCS11Error:
            connection.handles.forget(authenticating_id)  # either handle may be the one that was refused
            raise


def format_ciphers(connection: Connection) -> Mapping[CipherFormat, FormatCipher]:
    """Return the cipher of each format on a token."""
    return {
        CipherFormat.AES_256_GCM: GcmCipher(connection),
        CipherFormat.AES_256_CBC_HMAC_SHA_256: CbcCipher(connection),
    }


class Ciphers:
    """Authenticated encryption under backing keys, and random bytes. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._formats = format_ciphers(connection)
        self.usable_formats = frozenset(each for each, cipher in self._formats.items() if cipher.can_encrypt())

    def encrypt(
        self, permit: Permit, cka_id: bytes, plaintext: bytes, aad: bytes, count: Callable[[], None] = uncounted
    ) -> tuple[bytes, bytes]:
        """Encrypt under a backing key in its format; return (IV, ciphertext || tag).

        The IV comes from the token's random generator, or is the one that the token chose by itself.
        ``count`` is called before each encryption on the token, so also before a repeated one.
        """
        permit.require(MAY_ENCRYPT, cka_id)
        seal = self._formats[format_of(cka_id)].seal
        return self._connection.use(cka_id, seal, ENCRYPT, cka_id, plaintext, aad, count)

    def decrypt(self, permit: Permit, cka_id: bytes, iv: bytes, body: bytes, aad: bytes) -> bytes:
        """Decrypt ciphertext || tag; RejectedDataError for everything that was not made by this key with this AAD."""
        permit.require(MAY_DECRYPT, cka_id)
        open_sealed = self._formats[format_of(cka_id)].open_sealed
        return self._connection.use(cka_id, open_sealed, "decrypt", cka_id, (iv, body), aad)

    def random(self, permit: Permit, count: int) -> bytes:
        """Return ``count`` random bytes of the token's generator."""
        permit.require(MAY_DRAW_RANDOM)
        return self._connection.repeatable(lambda session: session.generate_random(count * 8), "random")
