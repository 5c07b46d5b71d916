"""The two objects of a material for AES-CBC with HMAC: made, read back, listed and destroyed together.

Both have the label of the material; their CKA_IDs say what each does (model/cipher_format.py). The HMAC key is made
first and destroyed last, so that where the other one is, both are, whatever crashed in between: a lone HMAC key has
authenticated nothing.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace
from pkcs11.constants import Attribute, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import HsmKmsError, TokenError, TokenUnfitError
from hsmkms.hsm.faults import translated
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY, SecretTemplate
from hsmkms.hsm.objects.objects import ANOTHER_OBJECT, TokenObject, find, make_secret, read_back_secret, tell
from hsmkms.hsm.objects.support import STANDARD, AttributeSupport
from hsmkms.model.cipher_format import mac_key_id, material_of_mac_key

CBC_MAC_KEY: Final = SecretTemplate(KeyType.GENERIC_SECRET, 256, Mechanism.GENERIC_SECRET_KEY_GEN, MechanismFlag.SIGN)
"""Authenticates the ciphertexts of one material; verification computes the HMAC again."""

NO_GCM: Final = (
    "no AES-GCM: the ciphertext format of new key material is AES_256_CBC_HMAC_SHA_256, with two keys on the token for "
    "each material, and key material for symmetric keys cannot be imported"
)
"""Sentence for people about a token that has none."""

ALREADY_THERE: Final = (
    "the token holds key material with this CKA_ID, complete with its HMAC key, so none was made in its place: "
    "`hsmkms reconcile` shows it"
)

NO_MAC_KEY: Final = "it is not on the token, without which nothing of this material decrypts"


class Both(NamedTuple):
    """The two objects of a material."""

    encrypting: Object
    authenticating: Object


def generate_both(
    session: Session, cka_id: bytes, label: str, support: AttributeSupport = STANDARD, *, store: bool = True
) -> Both:
    """Generate the encrypting and the HMAC key, each read back and compared."""
    both = make_both(session, cka_id, label, support, store=store)
    read_back_both(both, cka_id, label, support, store=store)
    return both


def make_both(
    session: Session, cka_id: bytes, label: str, support: AttributeSupport = STANDARD, *, store: bool = True
) -> Both:
    """Call C_GenerateKey for each, the first half of ``generate_both``.

    Nothing is left if the token refuses the second one; TokenError if the first one is kept then, or if the material is
    on the token already.
    """
    authenticating_id = mac_key_id(cka_id) or b""
    if store:
        _remove_left_over(session, cka_id, authenticating_id)
    authenticating = make_secret(session, CBC_MAC_KEY, authenticating_id, label, support, store=store)
    try:
        return Both(make_secret(session, AES_256_BACKING_KEY, cka_id, label, support, store=store), authenticating)
    except HsmKmsError:
        _undo(authenticating, authenticating_id)
        raise


def read_back_both(
    both: Both, cka_id: bytes, label: str, support: AttributeSupport = STANDARD, *, store: bool = True
) -> Object:
    """Compare what ``make_both`` made with the order; return the encrypting key.

    TokenUnfitError if one of them is not as ordered; both are destroyed then.
    """
    authenticating_id = mac_key_id(cka_id) or b""
    try:
        read_back_secret(both.encrypting, AES_256_BACKING_KEY, cka_id, label, support, store=store)
    except TokenUnfitError:
        _undo(both.authenticating, authenticating_id)
        raise
    try:
        read_back_secret(both.authenticating, CBC_MAC_KEY, authenticating_id, label, support, store=store)
    except TokenUnfitError:
        _undo(both.encrypting, cka_id)
        raise
    return both.encrypting


def _remove_left_over(session: Session, cka_id: bytes, authenticating_id: bytes) -> None:
    """Destroy the HMAC key of an interrupted creation with the same CKA_ID, which is repeated now.

    TokenError if the encrypting key is there as well: then it is the HMAC key of material that may be in use.
    """
    left_over = find(session, ObjectClass.SECRET_KEY, authenticating_id)
    if left_over is not None:
        if find(session, ObjectClass.SECRET_KEY, cka_id) is not None:
            raise TokenError(ALREADY_THERE)
        with translated():
            left_over.destroy()


def _undo(made: Object, cka_id: bytes) -> None:
    """Destroy one of two keys, of which the other failed. TokenError if it is kept.

    An object with another CKA_ID is kept: on a token that was swapped meanwhile the handle is another object's.
    """
    try:
        if tell(made, (Attribute.ID,))[Attribute.ID] != cka_id:
            raise TokenError(ANOTHER_OBJECT)
        made.destroy()
    except PKCS11Error as exc:
        # Not the class of the original error, which may claim that nothing was created.
        raise TokenError("the token made one of two keys and keeps it: `hsmkms reconcile` shows it") from exc


def as_one(listed: Sequence[TokenObject]) -> list[TokenObject]:
    """Return a listing in which an HMAC key counts as a part of its material, as a public half does of its pair.

    A material that lacks its HMAC key is no key either: both are listed as parts. Of several HMAC keys with one CKA_ID
    all but one count as keys, so that the material is found to be there more than once.
    """
    mac_keys = Counter(material for each in listed if (material := _material(each)) is not None)
    known: set[bytes] = set()
    together = []
    for each in listed:
        material = _material(each)
        if material is not None:
            together.append(replace(each, cka_id=material, is_part=material not in known))
            known.add(material)
        else:
            lacks = mac_key_id(each.cka_id) is not None and each.is_key and not mac_keys[each.cka_id]
            together.append(replace(each, is_part=lacks))
    return together


def _material(listed: TokenObject) -> bytes | None:
    return material_of_mac_key(listed.cka_id) if listed.is_key else None
