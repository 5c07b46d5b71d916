"""Shared parts of the procedures that create backing keys: labels, first records, and error handling."""

from typing import Final

from hsmkms.errors import (
    ConfigurationError,
    PinError,
    ThrottlingException,
    TokenFullError,
    TokenUnfitError,
    UnsupportedOperationException,
)
from hsmkms.hsm.objects.backing_keys import SYMMETRIC, Kind
from hsmkms.hsm.objects.cbc_pairs import NO_GCM
from hsmkms.model.cipher_format import CipherFormat, new_cka_id
from hsmkms.model.enums import MaterialState
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.rules import material
from hsmkms.service.runtime.core import Core

NOTHING_WAS_MADE: Final = (
    ConfigurationError,
    PinError,
    ThrottlingException,
    TokenFullError,
    TokenUnfitError,
    UnsupportedOperationException,
)
"""Errors after which no object can be left on the token; after any other error, reconcile must check."""

ATTEMPTS: Final = 3
"""How often a creation is attempted, if the home moves to another token during each attempt."""

QUIRKS_EVENT: Final = "BackingKeyQuirks"

HOME_MOVED: Final = "The installation moves to another token just now: try again."


def generated(core: Core, key_id: str, kind: Kind, sequence: int, state: MaterialState) -> MaterialRecord:
    """Return the record of a backing key that the token is about to generate."""
    home_id = core.tokens.home_id
    cka_id = new_cka_id(core.tokens.of(home_id).profile.cipher_format) if kind == SYMMETRIC else new_cka_id()
    return MaterialRecord(
        material_id=material.material_id(key_id, cka_id),
        sequence=sequence,
        state=state,
        created_at=core.clock(),
        token_id=home_id,
        cka_id=cka_id,
    )


def label_of(core: Core, token_id: str, key_id: str, region: str, sequence: int) -> str:
    """Return the object's label, from which its row can be rebuilt, in the form that fits the token."""
    long = material.object_label(core.installation.short_id, region, key_id, sequence)
    if len(long) <= core.tokens.of(token_id).profile.label_bytes:
        return long
    return material.short_label(core.installation.short_id, key_id, sequence)


def record_quirks(core: Core, record: KeyRecord, token_id: str, material_id: str, *, imported: bool = False) -> None:
    """Record in the audit log how a new backing key deviates from what was ordered, where its token makes it so.

    Nothing is recorded of a token that makes keys exactly as ordered.
    """
    device = core.tokens.of(token_id)
    profile = device.profile
    of_format = (NO_GCM,) if record.kind == SYMMETRIC and profile.cipher_format is not CipherFormat.AES_256_GCM else ()
    quirks = (*profile.attributes.quirks, *of_format, *(device.imports.quirks() if imported else ()))
    if quirks:
        details = {"keyId": record.key_id, "keyMaterialId": material_id, "tokenQuirks": list(quirks)}
        core.audit.event(QUIRKS_EVENT, record.region, record.arn, details)
