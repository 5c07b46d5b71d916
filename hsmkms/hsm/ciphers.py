"""Symmetric encryption on a token, and its random generator."""

from collections.abc import Callable

from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from hsmkms.errors import RejectedDataError
from hsmkms.hsm.allowed_acts import MAY_DECRYPT, MAY_DRAW_RANDOM, MAY_ENCRYPT
from hsmkms.hsm.crypto.decrypt_faults import explain_refusal, is_ambiguous, is_refusal
from hsmkms.hsm.crypto.gcm import open_sealed, seal
from hsmkms.hsm.crypto.iv import IvSource
from hsmkms.hsm.crypto.token_iv import IvOrigin, seal_by_token
from hsmkms.hsm.faults import translate
from hsmkms.hsm.ports import uncounted
from hsmkms.hsm.session.connection import ENCRYPT, Connection
from hsmkms.model.permit import Permit


class Ciphers:
    """AES-GCM under backing keys, and random bytes. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ivs = IvSource()

    def encrypt(
        self, permit: Permit, cka_id: bytes, plaintext: bytes, aad: bytes, count: Callable[[], None] = uncounted
    ) -> tuple[bytes, bytes]:
        """AES-256-GCM under a backing key: returns (96-bit IV, ciphertext || 128-bit tag).

        The IV comes from the token's random generator, or is the one that the token chose by itself.
        ``count`` is called before each encryption on the token, so also before a repeated one.
        """
        permit.require(MAY_ENCRYPT, cka_id)
        origin, messages = self._connection.profile.iv_origin, self._connection.messages

        def attempt(session: Session, handle: int) -> tuple[bytes, bytes]:
            count()
            if messages.generator is not None:
                sealed = messages.seal(session, cka_id, handle, self._ivs.next, plaintext, aad)
                if sealed is not None:
                    return sealed
            if origin is not IvOrigin.CALLER:
                return seal_by_token(session, handle, origin, plaintext, aad)
            iv = self._ivs.next(session)
            return iv, seal(session, handle, iv, plaintext, aad)

        return self._connection.use(cka_id, attempt, ENCRYPT)

    def decrypt(self, permit: Permit, cka_id: bytes, iv: bytes, body: bytes, aad: bytes) -> bytes:
        """Open ciphertext || tag; RejectedDataError for everything that was not made by this key with this AAD."""
        permit.require(MAY_DECRYPT, cka_id)

        def attempt(session: Session, handle: int) -> bytes:
            try:
                return open_sealed(session, handle, iv, body, aad)
            except PKCS11Error as exc:
                profile = self._connection.profile
                fault = explain_refusal(exc, session, handle, profile.iv_origin, profile.attributes)
                if not isinstance(fault, RejectedDataError) or not is_ambiguous(exc):
                    raise fault from exc
            try:  # the device is well now: only a second refusal shows that the first was not its trouble
                return open_sealed(session, handle, iv, body, aad)
            except PKCS11Error as exc:
                raise (fault if is_ambiguous(exc) or is_refusal(exc) else translate(exc)) from exc

        return self._connection.use(cka_id, attempt, "decrypt")

    def random(self, permit: Permit, count: int) -> bytes:
        """``count`` random bytes of the token's generator."""
        permit.require(MAY_DRAW_RANDOM)
        return self._connection.repeatable(lambda session: session.generate_random(count * 8), "random")
