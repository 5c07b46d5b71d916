"""hsmkms's own envelope: of backups that the token seals, and of older backups sealed to a public key.

The file key is generated on the token and encrypted there by an AES-256 key of the installation. In older files it was
encrypted with RSA-OAEP (SHA-256, RFC 8017), or under a key derived with HKDF from an ephemeral X25519 key agreement
(RFC 7748); new files for the holder of a private key use ``age_envelope``.
"""

from datetime import datetime
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
)
from msgspec import Struct

from hsmkms.errors import BindingError, ObjectLostError, RejectedDataError, StoreError
from hsmkms.hsm.ports import Device
from hsmkms.model.cipher_format import CipherFormat, format_of
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.service.backup.signature import fingerprint
from hsmkms.service.keys.installation_keys import encryption_key
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit

RSA: Final = "RSA-OAEP-SHA-256"
X25519: Final = "X25519-HKDF-SHA-256-AES-256-GCM"
_BY_TOKEN: Final = {
    CipherFormat.AES_256_GCM: "TOKEN-AES-256-GCM",
    CipherFormat.AES_256_CBC_HMAC_SHA_256: "TOKEN-AES-256-CBC-HMAC-SHA-256",
}

_MOST_VERSIONS: Final = 10_000
_PADDING: Final = OAEP(MGF1(SHA256()), SHA256(), None)
_AGREED: Final = b"hsmkms backup x25519 v1"
_AAD: Final = b"hsmkms backup key v1\0"
_ONE_USE: Final = bytes(12)
"""Nonce of a key that encrypts only once."""


class Header(Struct, frozen=True, kw_only=True):
    """Unencrypted header of a backup. It is authenticated only together with the first chunk.

    ``recipient``: SHA-256 of the public key's SubjectPublicKeyInfo, or the CKA_ID of the token's key, in hex.
    ``help``: the ephemeral public key of X25519, or the IV of the token.
    """

    method: str
    recipient: str
    sealed_key: bytes
    help: bytes = b""
    installation: str
    account: str
    created_at: datetime
    contains: str
    lacks: str


class SealedKey(Struct, frozen=True):
    """The encrypted file key in a header."""

    method: str
    recipient: str
    sealed: bytes
    help: bytes = b""


def read_header(data: bytes) -> Header:
    """Parse a header. StoreError if it is invalid."""
    try:
        return msgspec.json.decode(data, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise StoreError("the header of the backup cannot be read: take another copy of it") from exc


# -- by the holder of a private key -----------------------------------------------------------------------------


def open_with_private_key(header: Header, pkcs8: bytes) -> bytes:
    """Decrypt the file key. BindingError for another private key, StoreError if the header was changed."""
    private = load_der_private_key(pkcs8, None)
    if not isinstance(private, RSAPrivateKey | X25519PrivateKey) or fingerprint(private.public_key()) != (
        header.recipient
    ):
        raise BindingError(f"this backup is not sealed to that private key, but to {header.method} {header.recipient}")
    try:
        if isinstance(private, RSAPrivateKey):
            return private.decrypt(header.sealed_key, _PADDING)
        shared = private.exchange(X25519PublicKey.from_public_bytes(header.help))
        return _agreed(shared, header.help, private.public_key()).decrypt(_ONE_USE, header.sealed_key, None)
    except (ValueError, InvalidTag) as exc:
        raise StoreError("the header of the backup was changed: take another copy of it") from exc


def _agreed(shared: bytes, sent: bytes, public: X25519PublicKey) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, sent + public.public_bytes_raw(), _AGREED).derive(shared))


# -- by the token -------------------------------------------------------------------------------------------------


def seal_to_token(core: Core, key: bytes) -> SealedKey:
    """Encrypt the file key with an AES key of the installation on the token."""
    own = encryption_key(core, KeyPurpose.BACKUP, OperatorAct.BACKUP)
    permit = own_permit(OperatorAct.BACKUP, own.cka_id)
    device = core.tokens.of(own.token_id)
    iv, sealed = device.ciphers.encrypt(permit, own.cka_id, key, _AAD + core.installation.id.encode())
    return SealedKey(_BY_TOKEN[format_of(own.cka_id)], own.cka_id.hex(), sealed, iv)


def is_by_token(method: str) -> bool:
    """Return True for the methods of ``seal_to_token``."""
    return method in _BY_TOKEN.values()


def open_with_token(header: Header, device: Device) -> bytes:
    """Decrypt the file key. BindingError for another token, StoreError if the header was changed.

    Only a key made for backups is accepted: with imported key material, which is on the token as well, anyone who knows
    its bytes could forge a backup.
    """
    try:
        cka_id = bytes.fromhex(header.recipient)
        if not _is_for_backups(header, cka_id, device):
            raise StoreError(f"this backup is sealed by a key ({header.recipient}) that was not made for backups")
        permit = own_permit(OperatorAct.BACKUP, cka_id)
        return device.ciphers.decrypt(
            permit, cka_id, header.help, header.sealed_key, _AAD + header.installation.encode()
        )
    except ObjectLostError as exc:
        raise BindingError(
            f"this backup is sealed by a key ({header.recipient}) that the token {device.profile.label!r} does not "
            "hold: correct [token] in the configuration, or restore the token's own backup first"
        ) from exc
    except (RejectedDataError, ValueError) as exc:
        raise StoreError("the header of the backup was changed: take another copy of it") from exc


def _is_for_backups(header: Header, cka_id: bytes, device: Device) -> bool:
    """Return True if the key's label on the token says so; the header does not contain the version."""
    prefix = f"hsmkms/{header.installation[:8]}/{KeyPurpose.BACKUP}"
    return any(device.keys.is_labelled(cka_id, f"{prefix}/{version}") for version in range(1, _MOST_VERSIONS))
