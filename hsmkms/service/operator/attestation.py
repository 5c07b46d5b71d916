"""Attest backing keys: compare what their token reports of them now with what was ordered."""

from typing import Any

from msgspec import Struct

from hsmkms.errors import ObjectLostError
from hsmkms.hsm.objects.backing_keys import SYMMETRIC
from hsmkms.model.cipher_format import CipherFormat, format_of
from hsmkms.model.enums import Origin
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.service.runtime.core import Core


class Attestation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One backing key as the token reports it now. ``attributes`` is empty if the object is missing.

    For a key pair they are those of the private half; ``public_half`` has those of the public half.

    ``as_made`` is true if every deciding attribute still has the value that hsmkms ordered; ``deviations`` lists those
    that have not. ``quirks``: what the token does not know or reports otherwise, and hsmkms tolerates. ``imported``:
    the material came from outside, so the token cannot attest its history. ``host_unwrapped``: it once passed through a
    process of hsmkms in the clear. ``ciphertext_format``: of symmetric encryption keys; ``mac_key``: the attributes of
    the HMAC key, if that format has one.
    """

    key_id: str
    key_material_id: str
    sequence: int
    cka_id: str
    present: bool
    as_made: bool
    imported: bool
    host_unwrapped: bool
    deviations: list[str]
    attributes: dict[str, Any]
    quirks: list[str] = []
    public_half: dict[str, Any] | None = None
    ciphertext_format: CipherFormat | None = None
    mac_key: dict[str, Any] | None = None


def attest_material(core: Core, key: KeyRecord, material: MaterialRecord) -> Attestation:
    """Read one backing key of a KMS key back from its token. Raises TokenUnavailableError."""
    device, imported = core.tokens.of(material.token_id), key.origin is Origin.EXTERNAL
    public_half: dict[str, Any] = {}
    mac_key: dict[str, Any] = {}
    try:
        attributes, deviations = device.keys.attest(material.cka_id, key.kind, imported=imported)
        public_half, of_public_half = device.keys.attest_public(material.cka_id, key.kind)
        deviations += [f"public half: {each}" for each in of_public_half]
        mac_key = device.keys.attest_mac_key(material.cka_id)
    except ObjectLostError as exc:
        attributes, deviations = {}, [str(exc)]
    quirks = device.keys.tolerated(attributes, key.kind, imported=imported)
    of_public = device.keys.tolerated(public_half, key.kind, public=True)
    of_mac_key = device.keys.tolerated_of_mac_key(mac_key)
    return Attestation(
        key_id=key.key_id,
        key_material_id=material.material_id,
        sequence=material.sequence,
        cka_id=material.cka_id.hex(),
        present=bool(attributes),
        as_made=not deviations,
        imported=imported,
        host_unwrapped=material.host_unwrapped,
        deviations=deviations,
        quirks=[
            *quirks,
            *(f"public half: {each}" for each in of_public),
            *(f"HMAC key: {each}" for each in of_mac_key),
        ],
        attributes=attributes,
        public_half=public_half or None,
        ciphertext_format=format_of(material.cka_id) if key.kind == SYMMETRIC else None,
        mac_key=mac_key or None,
    )
