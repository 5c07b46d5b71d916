"""Symmetric encryption on a token, and its random generator."""

from collections.abc import Callable

from pkcs11.types import Session

from hsmkms.hsm.allowed_acts import MAY_DECRYPT, MAY_DRAW_RANDOM, MAY_ENCRYPT
from hsmkms.hsm.cipher_formats import format_ciphers
from hsmkms.hsm.ports import uncounted
from hsmkms.hsm.session.connection import ENCRYPT, Connection
from hsmkms.model.cipher_format import format_of
from hsmkms.model.permit import Permit


class Ciphers:
    """Authenticated encryption under backing keys, and random bytes. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._formats = format_ciphers(connection)
        self.usable_formats = frozenset(each for each, cipher in self._formats.items() if cipher.can_encrypt())

    def encrypt(
        self, permit: Permit, cka_id: bytes, plaintext: bytes, aad: bytes, count: Callable[[], None] = uncounted
    ) -> tuple[bytes, bytes]:
        """Encrypt under a backing key in its format: returns (IV, ciphertext || tag).

        The IV comes from the token's random generator, or is the one that the token chose by itself.
        ``count`` is called before each encryption on the token, so also before a repeated one.
        """
        permit.require(MAY_ENCRYPT, cka_id)
        seal = self._formats[format_of(cka_id)].seal

        def attempt(session: Session, handle: int) -> tuple[bytes, bytes]:
            count()
            return seal(session, cka_id, handle, plaintext, aad)

        return self._connection.use(cka_id, attempt, ENCRYPT)

    def decrypt(self, permit: Permit, cka_id: bytes, iv: bytes, body: bytes, aad: bytes) -> bytes:
        """Open ciphertext || tag; RejectedDataError for everything that was not made by this key with this AAD."""
        permit.require(MAY_DECRYPT, cka_id)
        open_sealed = self._formats[format_of(cka_id)].open_sealed

        def attempt(session: Session, handle: int) -> bytes:
            return open_sealed(session, cka_id, handle, (iv, body), aad)

        return self._connection.use(cka_id, attempt, "decrypt")

    def random(self, permit: Permit, count: int) -> bytes:
        """``count`` random bytes of the token's generator."""
        permit.require(MAY_DRAW_RANDOM)
        return self._connection.repeatable(lambda session: session.generate_random(count * 8), "random")
