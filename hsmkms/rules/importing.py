"""Decide which material may be imported into which key, with which expiry, and its material id.

The first material of a key is bound to it for life: the same bytes can be imported again at any time, others never
replace them. If the operator has set ``rotation.imported_on_demand`` (today's AWS), further materials may be added, one
at a time, each pending until its rotation. Source: AWS KMS API Reference, ImportKeyMaterial.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from hsmkms.errors import (
    ExpiredImportTokenException,
    IncorrectKeyMaterialException,
    InvalidImportTokenException,
    KMSInvalidStateException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.model.enums import (
    ExpirationModel,
    ImportType,
    KeySpec,
    MaterialState,
    Origin,
    WrappingAlgorithm,
    WrappingKeySpec,
)
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.rules import multi_region, rotation
from hsmkms.rules.import_token import Claims

VALID_FOR: Final = timedelta(hours=24)
"""Lifetime of a wrapping key and its import token."""

MAX_LIVE_PER_KEY: Final = 4
MAX_LIVE: Final = 64
"""Limit of wrapping keys on the token, per KMS key and in total. Beyond it a new one replaces an older one."""

WRAPPING_KEY_BITS: Final = {
    WrappingKeySpec.RSA_2048: 2048,
    WrappingKeySpec.RSA_3072: 3072,
    WrappingKeySpec.RSA_4096: 4096,
}

_RSA: Final = frozenset({KeySpec.RSA_2048, KeySpec.RSA_3072, KeySpec.RSA_4096})
_BARE: Final = frozenset({WrappingAlgorithm.RSAES_OAEP_SHA_1, WrappingAlgorithm.RSAES_OAEP_SHA_256})
"""Algorithms limited to one RSA block."""

_IMPORTED: Final = b"hsmkms imported material v1"
_SEPARATOR: Final = b"\x00"
_DOES_NOT_EXPIRE: Final = ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE

TIED: Final = (
    "The key material is not the one that was imported into {arn} before, and no other may replace it: "
    "import the same bytes again, or create a new key for these."
)


class ImportPolicy(Struct, frozen=True, kw_only=True):
    """The operator's settings. ``valid_to_within_days``: how far ahead ValidTo may be; None for no limit."""

    valid_to_within_days: int | None = None


class Expiry(Struct, frozen=True):
    """Expiry of material; ``valid_to`` is None if it does not expire."""

    model: ExpirationModel
    valid_to: datetime | None


class Choice(Struct, frozen=True):
    """Effect of an import: reimport ``known`` (or change its expiry), or add a material in the given state."""

    material_id: str
    known: MaterialRecord | None
    state: MaterialState


def material_id(prf: str, key_id: str, output: bytes) -> str:
    """Return the id of imported material: 64 hex digits that reveal nothing of it.

    ``output`` is the named PRF's output for the key id under the material itself, computed on the token; so the id is
    the same for every import of the same bytes into the same key, on every token.
    """
    parts = (_IMPORTED, prf.encode("ascii"), key_id.encode("ascii"), output)
    return hashlib.sha256(_SEPARATOR.join(parts)).hexdigest()


# -- checks of a request ----------------------------------------------------------------------------------------


def check_origin(key: KeyRecord) -> None:
    """Raise UnsupportedOperationException for keys whose material is generated."""
    if key.origin is not Origin.EXTERNAL:
        raise UnsupportedOperationException(f"{key.arn} origin is {key.origin} which is not valid for this operation.")


def check_algorithm(algorithm: WrappingAlgorithm, possible: Sequence[WrappingAlgorithm]) -> None:
    """Raise UnsupportedOperationException for an algorithm that hsmkms or this token does not support."""
    if algorithm in possible:
        return
    words = ", ".join(possible) or "none of them"
    if algorithm is WrappingAlgorithm.RSAES_PKCS1_V1_5:
        raise UnsupportedOperationException(f"{algorithm} is not safe and not supported any more: use one of {words}.")
    raise UnsupportedOperationException(f"This token cannot unwrap {algorithm} itself: it supports {words}.")


def check_combination(spec: KeySpec, algorithm: WrappingAlgorithm, wrapping_key: WrappingKeySpec) -> None:
    """Raise UnsupportedOperationException if material of that spec is too long for the wrapping algorithm."""
    if algorithm not in _BARE:
        return
    if spec in _RSA or (spec is KeySpec.ECC_NIST_P521 and wrapping_key is WrappingKeySpec.RSA_2048):
        raise UnsupportedOperationException(
            f"A private key of KeySpec {spec} is too long for {algorithm} with {wrapping_key}: use "
            "RSA_AES_KEY_WRAP_SHA_256 or RSA_AES_KEY_WRAP_SHA_1."
        )


def check_members(
    key: KeyRecord, import_type: str | None = None, material_id: str | None = None, description: str | None = None
) -> None:
    """Raise ValidationException for members that are valid only for symmetric encryption keys."""
    members = {"ImportType": import_type, "KeyMaterialId": material_id, "KeyMaterialDescription": description}
    given = [name for name, value in members.items() if value is not None]
    if given and key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise ValidationException(
            f"{' and '.join(given)} can be used with symmetric encryption keys only, and {key.arn} is of KeySpec "
            f"{key.spec}: leave it out."
        )


def expiry(model: str | None, valid_to: datetime | None, policy: ImportPolicy, now: datetime) -> Expiry:
    """Return the requested expiry. ValidationException if model and date do not match."""
    if model == _DOES_NOT_EXPIRE:
        if valid_to is not None:
            raise ValidationException(f"A validTo date must not be set if the ExpirationModel is {_DOES_NOT_EXPIRE}")
        return Expiry(_DOES_NOT_EXPIRE, None)
    expires = ExpirationModel.KEY_MATERIAL_EXPIRES
    if valid_to is None:
        raise ValidationException(f"A validTo date must be set if the ExpirationModel is {expires}")
    if valid_to.tzinfo is None:
        raise ValidationException("The validTo date must have a time zone: pass an aware datetime.")
    if valid_to <= now:
        raise ValidationException(f"The validTo date {valid_to:%Y-%m-%d %H:%M:%S} UTC must be in the future")
    within = policy.valid_to_within_days
    if within is not None and valid_to > now + timedelta(days=within):
        raise ValidationException(f"The validTo date must be at most {within} days from now")
    return Expiry(expires, valid_to)


def check_claims(claims: Claims, key: KeyRecord, now: datetime) -> None:
    """Raise unless the import token, whose MAC was verified, is for this key and has not expired."""
    if (claims.key_id, claims.region) != (key.key_id, key.region):
        raise InvalidImportTokenException(
            f"The import token belongs to another key than {key.arn}: get one with GetParametersForImport for this key."
        )
    if claims.valid_to <= now:
        raise ExpiredImportTokenException(
            f"The import token was valid until {claims.valid_to:%Y-%m-%d %H:%M:%S} UTC: get new parameters with "
            "GetParametersForImport, wrap the key material again, and import that."
        )


# -- choice of the material -------------------------------------------------------------------------------------


def choose(
    key: KeyRecord,
    names: Sequence[str],
    import_type: str | None,
    wanted: str | None,
    rotation_policy: rotation.RotationPolicy,
) -> Choice:
    """Decide the effect of importing a material, or raise the error for the caller.

    ``names`` are the material's ids, one for each PRF of the token, the preferred one first; ``wanted`` is the
    KeyMaterialId of the request.
    """
    known = next((each for each in map(key.material, names) if each is not None), None)
    new = (import_type or _default_type(key)) == ImportType.NEW_KEY_MATERIAL
    if wanted is not None:
        _check_wanted(key, known, wanted, new=new)
    if new:
        return Choice(names[0], None, _state_of_new(key, known, names[0], rotation_policy))
    if known is None:
        raise IncorrectKeyMaterialException(TIED.format(arn=key.arn) if key.materials else _nothing_yet(key))
    return Choice(known.material_id, known, known.state)


def _default_type(key: KeyRecord) -> ImportType:
    return ImportType.EXISTING_KEY_MATERIAL if key.materials else ImportType.NEW_KEY_MATERIAL


def _check_wanted(key: KeyRecord, known: MaterialRecord | None, wanted: str, *, new: bool) -> None:
    if new:
        raise ValidationException("KeyMaterialId names material of an earlier import: leave it out for new material.")
    if known is None or known.material_id != wanted:
        raise IncorrectKeyMaterialException(f"The key material is not {wanted} of {key.arn}: import those bytes.")


def _state_of_new(
    key: KeyRecord, known: MaterialRecord | None, name: str, policy: rotation.RotationPolicy
) -> MaterialState:
    multi_region.refuse_replica(key)
    if known is not None:
        raise IncorrectKeyMaterialException(
            f"The key material {known.material_id} belongs to {key.arn} already: "
            "import it with ImportType EXISTING_KEY_MATERIAL."
        )
    if not key.materials:
        return MaterialState.CURRENT
    if not policy.imported_on_demand:
        raise IncorrectKeyMaterialException(TIED.format(arn=key.arn))
    waiting = rotation.waiting(key)
    if waiting is not None:
        raise KMSInvalidStateException(
            f"New key material (id: {name}) cannot be imported into KMS key {key.arn}, because another key material "
            f"(id: {waiting.material_id}) is pending rotation."
        )
    return MaterialState.PENDING_ROTATION


def _nothing_yet(key: KeyRecord) -> str:
    return f"No key material was ever imported into {key.arn}: import it with ImportType NEW_KEY_MATERIAL."
