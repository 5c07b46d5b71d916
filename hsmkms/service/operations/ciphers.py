"""Encrypt and decrypt with each encryption algorithm: one table row for the symmetric one, one for RSA's.

The ciphertext of a symmetric key names its key and material; that of an RSA key is only the RSA block. Source: AWS KMS
API Reference, Encrypt and Decrypt.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from hsmkms.errors import InvalidCiphertextException, RejectedDataError
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, Origin
from hsmkms.model.permit import Permit
from hsmkms.rules import blob, context, messages
from hsmkms.rules.rotation import rotates
from hsmkms.service.keys import rotate as rotating
from hsmkms.service.pipeline import Call
from hsmkms.service.runtime.record_cache import CachedKey

log = logging.getLogger("hsmkms.service")


class Keyed(Struct, frozen=True):
    """A key that the operation is permitted to use, the permit, and the chosen algorithm."""

    key: CachedKey
    permit: Permit
    algorithm: EncryptionAlgorithm


class Opened(Struct, frozen=True):
    """A plaintext, and the id of the material that decrypted it, if the response has one."""

    plaintext: bytes
    material_id: str | None


class Cipher(Struct, frozen=True):
    """Functions of an algorithm. ``bind`` encodes or refuses an encryption context; ``fits`` refuses long plaintexts.

    ``seal`` and ``open`` take the result of ``bind``; ``open`` also takes the parsed ciphertext, if it was parsed.
    """

    bind: Callable[[dict[str, str] | None], bytes]
    fits: Callable[[KeySpec, EncryptionAlgorithm, int], None]
    seal: Callable[[Call, Keyed, bytes, bytes], bytes]
    open: Callable[[Call, Keyed, bytes, blob.Blob | None, bytes], Opened]


def ready(call: Call, key: CachedKey, permit: Permit, algorithm: EncryptionAlgorithm) -> Keyed:
    """Return the key ready to encrypt, after rotating generated material that must not encrypt any more.

    That is material older than a restored backup (its number of encryptions since the backup is unknown, and AES-GCM
    has a limit), and material on a former home. If the rotation fails now, the key encrypts with its present material,
    and the rotation is tried again at its next encryption.
    """
    by = Keyed(key, permit, algorithm)
    restored_at, current = call.core.installation.restored_at, key.record.current
    if key.current_token_id != call.core.tokens.home_id and rotates(key.record):
        rotating.rotate_elsewhere(call.core, key.record.key_id, key.record.region)
        return Keyed(*call.renewed(key), algorithm)
    if restored_at is None or algorithm is not EncryptionAlgorithm.SYMMETRIC_DEFAULT or current is None:
        return by
    if current.created_at >= restored_at:
        return by
    record = key.record
    if record.origin is Origin.AWS_KMS:
        rotating.rotate_restored(call.core, record.key_id, record.region, current.material_id)
        return Keyed(*call.renewed(key), algorithm)
    if current.material_id not in call.core.warned:
        call.core.warned.add(current.material_id)
        log.warning(
            "the imported material %s of key %s is older than the restored backup, so its number of encryptions is "
            "not known: create a new key and move the alias to it",
            *(current.material_id, record.key_id),
        )
    return by


# -- SYMMETRIC_DEFAULT ----------------------------------------------------------------------------------------------


def _fits_any(_spec: KeySpec, _algorithm: EncryptionAlgorithm, _length: int) -> None:
    """Accept every length: the request's own limit of 4,096 bytes suffices."""


def _seal_gcm(call: Call, by: Keyed, plaintext: bytes, bound: bytes) -> bytes:
    key, leases = by.key, call.core.leases
    material_id = key.current_material_id
    iv, body = call.device(key).ciphers.encrypt(
        by.permit,
        key.current_cka_id,
        plaintext,
        key.current_header + bound,
        count=lambda: leases.spend(material_id),
    )
    call.used(key)
    if material_id in leases.nearly_spent:
        _follow_up(call, key)
    return blob.assemble(key.current_header, iv, body)


def _follow_up(call: Call, key: CachedKey) -> None:
    """React to material with many encryptions: rotate a generated key, warn the operator about an imported one."""
    record, material_id = key.record, key.current_material_id
    share = call.core.leases.nearly_spent.pop(material_id, None)
    if record.origin is Origin.AWS_KMS:
        rotating.rotate_early(call.core, record.key_id, record.region, material_id)
    elif share is not None and share.crossed:
        log.warning(
            "the imported material %s of key %s has used %d %% of the encryptions that AES-GCM allows: "
            "create a new key and move the alias to it",
            *(material_id, record.key_id, share.percent),
        )


def _open_gcm(call: Call, by: Keyed, ciphertext: bytes, parsed: blob.Blob | None, bound: bytes) -> Opened:
    parsed = parsed or blob.parse(ciphertext)
    material = by.key.record.material(parsed.material_id)
    if material is None:
        raise InvalidCiphertextException
    try:
        device = call.core.tokens.of(material.token_id)
        plaintext = device.ciphers.decrypt(by.permit, material.cka_id, parsed.iv, parsed.body, parsed.header + bound)
    except RejectedDataError as exc:
        raise InvalidCiphertextException from exc
    return Opened(plaintext, parsed.material_id)


# -- RSAES_OAEP -----------------------------------------------------------------------------------------------------


def _bind_nothing(encryption_context: dict[str, str] | None) -> bytes:
    messages.check_no_context(encryption_context)
    return b""


def _seal_oaep(call: Call, by: Keyed, plaintext: bytes, _bound: bytes) -> bytes:
    record = by.key.record
    sealed = call.device(by.key).pairs.encrypt_oaep(
        by.permit, by.key.current_cka_id, record.spec, by.algorithm, plaintext
    )
    call.used(by.key)
    return sealed


def _open_oaep(call: Call, by: Keyed, ciphertext: bytes, _parsed: blob.Blob | None, _bound: bytes) -> Opened:
    record = by.key.record
    if len(ciphertext) != messages.MODULUS_BYTES[record.spec]:
        raise InvalidCiphertextException
    try:
        plaintext = call.device(by.key).pairs.decrypt_oaep(
            by.permit, by.key.current_cka_id, record.spec, by.algorithm, ciphertext
        )
    except RejectedDataError as exc:
        raise InvalidCiphertextException from exc
    return Opened(plaintext, None)


_GCM: Final = Cipher(context.canonical, _fits_any, _seal_gcm, _open_gcm)
_OAEP: Final = Cipher(_bind_nothing, messages.check_fits, _seal_oaep, _open_oaep)

CIPHERS: Final[Mapping[EncryptionAlgorithm, Cipher]] = {
    EncryptionAlgorithm.SYMMETRIC_DEFAULT: _GCM,
    EncryptionAlgorithm.RSAES_OAEP_SHA_1: _OAEP,
    EncryptionAlgorithm.RSAES_OAEP_SHA_256: _OAEP,
}
