"""Whom a backup is sealed to: the holder of a private key (RSA or X25519), or the token itself.

The key of the file is drawn on the token. RSA encrypts it with OAEP (SHA-256, RFC 8017); with X25519 (RFC 7748) an
ephemeral key agrees on a secret, of which HKDF makes the key that encrypts it; on the token an AES-256 key of the
installation does it.
"""

import hashlib
from datetime import datetime
from typing import Final, Protocol

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_public_key,
)
from msgspec import Struct

from hsmkms.errors import BindingError, ConfigurationError, ObjectLostError, RejectedDataError, StoreError
from hsmkms.hsm.device import Device
from hsmkms.model.permit import OperatorAct
from hsmkms.service.core import Core
from hsmkms.service.installation_keys import encryption_key
from hsmkms.service.permits import own_permit

PURPOSE: Final = "backup"
RSA: Final = "RSA-OAEP-SHA-256"
X25519: Final = "X25519-HKDF-SHA-256-AES-256-GCM"
BY_TOKEN: Final = "TOKEN-AES-256-GCM"  # noqa: S105 - the name of a method
LEAST_RSA_BITS: Final = 2048

_PADDING: Final = OAEP(MGF1(SHA256()), SHA256(), None)
_AGREED: Final = b"hsmkms backup x25519 v1"
_AAD: Final = b"hsmkms backup key v1\0"
_ONE_USE: Final = bytes(12)
"""The nonce of a key that encrypts once."""

PublicKey = RSAPublicKey | X25519PublicKey


class Header(Struct, frozen=True, kw_only=True):
    """What a backup says of itself in the clear. It holds good only once the first chunk was proven.

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
    """The part of a header that only a recipient can open."""

    method: str
    recipient: str
    sealed: bytes
    help: bytes = b""


class Recipient(Protocol):
    """Seals the key of a file."""

    def __call__(self, key: bytes) -> SealedKey:
        """The key, for the recipient alone."""


def read_header(data: bytes) -> Header:
    """A header as it stands in the file. StoreError for what is none."""
    try:
        return msgspec.json.decode(data, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise StoreError("the header of the backup cannot be read: take another copy of it") from exc


# -- to the holder of a private key -----------------------------------------------------------------------------


def read_public_key(name: str, pem: bytes) -> PublicKey:
    """The operator's public key. ConfigurationError for anything but PEM with RSA from 2,048 bits, or X25519."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigurationError(
            f"{name} holds no public key in PEM: `openssl pkey -in PRIVATE -pubout -out {name}` writes one"
        ) from exc
    if not isinstance(key, RSAPublicKey | X25519PublicKey):
        raise ConfigurationError(f"{name} is neither an RSA nor an X25519 key: make one with `openssl genpkey`")
    if isinstance(key, RSAPublicKey) and key.key_size < LEAST_RSA_BITS:
        raise ConfigurationError(f"the RSA key {name} has {key.key_size} bits: it needs {LEAST_RSA_BITS} at least")
    return key


def to_public_key(public: PublicKey) -> Recipient:
    """Seals to whoever has the private key."""

    def seal(key: bytes) -> SealedKey:
        if isinstance(public, RSAPublicKey):
            return SealedKey(RSA, fingerprint(public), public.encrypt(key, _PADDING))
        ephemeral = X25519PrivateKey.generate()
        sent = ephemeral.public_key().public_bytes_raw()
        wrapping = _agreed(ephemeral.exchange(public), sent, public)
        return SealedKey(X25519, fingerprint(public), wrapping.encrypt(_ONE_USE, key, None), sent)

    return seal


def open_with_private_key(header: Header, pkcs8: bytes) -> bytes:
    """The key of the file. BindingError for another private key, StoreError where the header was changed."""
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


def fingerprint(public: PublicKey) -> str:
    """SHA-256 of a key's SubjectPublicKeyInfo, in hex: `openssl pkey -pubin -outform DER | sha256sum`."""
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _agreed(shared: bytes, sent: bytes, public: X25519PublicKey) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, sent + public.public_bytes_raw(), _AGREED).derive(shared))


# -- to the token -----------------------------------------------------------------------------------------------


def to_token(core: Core) -> Recipient:
    """Seals to an AES key of the installation's on the token."""

    def seal(key: bytes) -> SealedKey:
        own = encryption_key(core, PURPOSE, OperatorAct.BACKUP)
        permit = own_permit(OperatorAct.BACKUP, own.cka_id)
        device = core.tokens.of(own.token_id)
        iv, sealed = device.encrypt(permit, own.cka_id, key, _AAD + core.installation.id.encode())
        return SealedKey(BY_TOKEN, own.cka_id.hex(), sealed, iv)

    return seal


def open_with_token(header: Header, device: Device) -> bytes:
    """The key of the file. BindingError for another token, StoreError where the header was changed."""
    try:
        cka_id = bytes.fromhex(header.recipient)
        permit = own_permit(OperatorAct.BACKUP, cka_id)
        return device.decrypt(permit, cka_id, header.help, header.sealed_key, _AAD + header.installation.encode())
    except ObjectLostError as exc:
        raise BindingError(
            f"this backup is sealed by a key ({header.recipient}) that the token {device.profile.label!r} does not "
            "hold: correct [token] in the configuration, or restore the token's own backup first"
        ) from exc
    except (RejectedDataError, ValueError) as exc:
        raise StoreError("the header of the backup was changed: take another copy of it") from exc
