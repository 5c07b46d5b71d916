"""Encrypt and decrypt with each encryption algorithm: one table row for the symmetric one, one for RSA's.

The ciphertext of a symmetric key names its key and material; that of an RSA key is only the RSA block. Source: AWS KMS
API Reference, Encrypt and Decrypt.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from msgspec import Struct

from hsmkms.errors import InvalidCiphertextException, KMSInvalidStateException, RejectedDataError
from hsmkms.hsm.ports import Device
from hsmkms.model.cipher_format import format_of
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


class Sealed(Struct, frozen=True):
    """A ciphertext, and the key as it has encrypted: with new material, if it had to rotate first."""

    ciphertext: bytes
    key: CachedKey


class Opened(Struct, frozen=True):
    """A plaintext, and the id of the material that decrypted it, if the response has one."""

    plaintext: bytes
    material_id: str | None


class Cipher(Struct, frozen=True):
    """Functions of an algorithm. ``bind`` encodes or refuses an encryption context; ``fits`` refuses long plaintexts.

    Without ``fits``, the request's own limit of 4,096 bytes suffices.
    ``seal`` and ``open`` take the result of ``bind``; ``seal`` rotates the key first if it must not encrypt any more;
    ``open`` also takes the parsed ciphertext, if it was parsed.
    """

    bind: Callable[[dict[str, str] | None], bytes]
    fits: Callable[[KeySpec, EncryptionAlgorithm, int], None] | None
    seal: Callable[[Call, Keyed, bytes, bytes], Sealed]
    open: Callable[[Call, Keyed, bytes, blob.Blob | None, bytes], Opened]


# -- before an encryption --------------------------------------------------------------------------------------------


def _ready(call: Call, by: Keyed) -> tuple[CachedKey, Permit, Device]:
    """Return the key ready to encrypt, and its token, after rotating generated material that must not encrypt any more.

    That is material older than a restored backup (its number of encryptions since the backup is unknown, and AES-GCM
    has a limit), material on a former home, and material whose token has lost the mechanism for it. If the rotation
    fails now, the key encrypts with its present material, and the rotation is tried again at its next encryption.
    """
    core, key, permit = call.core, by.key, by.permit
    if key.current_token_id != core.tokens.home_id and rotates(key.record):
        rotating.rotate_elsewhere(core, key.record.key_id, key.record.region)
        key, permit = call.renewed(key)
        return key, permit, core.tokens.of(key.current_token_id)
    device = core.tokens.of(key.current_token_id)
    if key.current_format not in device.ciphers.usable_formats and rotates(key.record):
        rotating.rotate_format(core, key.record.key_id, key.record.region, key.current_material_id)
        key, permit = call.renewed(key)
    elif core.installation.restored_at is not None and by.algorithm is EncryptionAlgorithm.SYMMETRIC_DEFAULT:
        key, permit = _ready_after_restore(call, key, permit, core.installation.restored_at)
    else:
        return key, permit, device
    return key, permit, core.tokens.of(key.current_token_id)


def _ready_after_restore(call: Call, key: CachedKey, permit: Permit, restored_at: datetime) -> tuple[CachedKey, Permit]:
    """Rotate generated material that is older than the restored backup; warn once about imported material."""
    record = key.record
    current = record.current
    if current is None or current.created_at >= restored_at:
        return key, permit
    if record.origin is Origin.AWS_KMS:
        rotating.rotate_restored(call.core, record.key_id, record.region, current.material_id)
        return call.renewed(key)
    if current.material_id not in call.core.warned:
        call.core.warned.add(current.material_id)
        log.warning(
            "the imported material %s of key %s is older than the restored backup, so its number of encryptions is "
            "not known: create a new key and move the alias to it",
            *(current.material_id, record.key_id),
        )
    return key, permit


# -- SYMMETRIC_DEFAULT ----------------------------------------------------------------------------------------------


def _seal_symmetric(call: Call, by: Keyed, plaintext: bytes, bound: bytes) -> Sealed:
    key, permit, device = _ready(call, by)
    leases, material_id = call.core.leases, key.current_material_id
    iv, body = device.ciphers.encrypt(
        permit,
        key.current_cka_id,
        plaintext,
        key.current_header + bound,
        count=leases.counter(material_id),
    )
    call.core.uses.note(call, key)
    if material_id in leases.nearly_spent:
        _follow_up(call, key)
    return Sealed(blob.assemble(key.current_header, iv, body), key)


def _follow_up(call: Call, key: CachedKey) -> None:
    """React to material with many encryptions: rotate a generated key, warn the operator about an imported one."""
    record, material_id = key.record, key.current_material_id
    share = call.core.leases.nearly_spent.pop(material_id, None)
    if record.origin is Origin.AWS_KMS:
        rotating.rotate_early(call.core, record.key_id, record.region, material_id)
    elif share is not None and share.crossed:
        log.warning(
            "the imported material %s of key %s has used %d %% of the encryptions that are allowed: "
            "create a new key and move the alias to it",
            *(material_id, record.key_id, share.percent),
        )


def _open_symmetric(call: Call, by: Keyed, ciphertext: bytes, parsed: blob.Blob | None, bound: bytes) -> Opened:
    parsed = parsed or blob.parse(ciphertext)
    material = by.key.record.material(parsed.material_id)
    if material is None or format_of(material.cka_id) is not parsed.cipher_format:
        raise InvalidCiphertextException
    if not material.present:
        raise KMSInvalidStateException(
            f"The key material {material.material_id} of {by.key.record.arn} that the ciphertext needs was destroyed."
        )
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


def _seal_oaep(call: Call, by: Keyed, plaintext: bytes, _bound: bytes) -> Sealed:
    key, permit, device = _ready(call, by)
    ciphertext = device.pairs.encrypt_oaep(permit, key.current_cka_id, key.record.spec, by.algorithm, plaintext)
    call.core.uses.note(call, key)
    return Sealed(ciphertext, key)


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


_SYMMETRIC: Final = Cipher(context.canonical, None, _seal_symmetric, _open_symmetric)
_OAEP: Final = Cipher(_bind_nothing, messages.check_fits, _seal_oaep, _open_oaep)

CIPHERS: Final[Mapping[EncryptionAlgorithm, Cipher]] = {
    EncryptionAlgorithm.SYMMETRIC_DEFAULT: _SYMMETRIC,
    EncryptionAlgorithm.RSAES_OAEP_SHA_1: _OAEP,
    EncryptionAlgorithm.RSAES_OAEP_SHA_256: _OAEP,
}
