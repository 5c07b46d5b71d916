"""Make unwrapped keys as hardened as they were ordered, on tokens that ignore the template of C_UnwrapKey.

Some tokens (opencryptoki 3.27) unwrap into keys that are extractable, whatever the template says. C_SetAttributeValue
may then clear CKA_EXTRACTABLE and set CKA_SENSITIVE (PKCS #11 3.1, section 4.2, table 13), but only of a modifiable
object, and a backing key must not be modifiable. So the key is unwrapped into a modifiable session object, tightened
there, and copied to the token, which may order CKA_MODIFIABLE = false. Between C_UnwrapKey and C_SetAttributeValue the
key is extractable, as a session object that other processes do not see; the object on the token never is.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from pkcs11.constants import DEFAULT, Attribute, ObjectClass
from pkcs11.types import Object

from hsmkms.hsm.objects.attributes import HARDENED, PRIVATE_HALF
from hsmkms.hsm.objects.objects import discard, tell
from hsmkms.hsm.objects.support import AttributeSupport, Tolerated

INSTANT: Final = (
    "between C_UnwrapKey and C_SetAttributeValue an imported key is extractable, as a session object that only this "
    "process sees; the key on the token, a copy of it, never is"
)


class Hardening(StrEnum):
    """How unwrapped keys become as hardened as they were ordered."""

    BY_TEMPLATE = "C_UnwrapKey makes keys as its template orders"
    BY_COPY = f"C_UnwrapKey makes extractable keys whatever its template orders: {INSTANT}"
    BY_COPYABLE_COPY = f"{BY_COPY}, but can be copied itself, into keys that are no more readable"


_ORDERED: Final[Mapping[ObjectClass, Mapping[Attribute, Any]]] = {
    ObjectClass.SECRET_KEY: HARDENED,
    # python-pkcs11 puts secret-key usages into the template, which no private key has; DEFAULT leaves them out.
    ObjectClass.PRIVATE_KEY: {
        **dict.fromkeys((Attribute.ENCRYPT, Attribute.VERIFY, Attribute.WRAP), DEFAULT),
        **PRIVATE_HALF,
    },
}
_FINAL_ONLY: Final = (Attribute.COPYABLE, Attribute.MODIFIABLE)
"""Attributes that would prevent the steps after C_UnwrapKey: ordered of the copy, not of the session object.

MODIFIABLE is the last one: SoftHSM sets attributes in the order of the template, and none after it.
"""

_TIGHTENED: Final[Mapping[Attribute, bool]] = {Attribute.EXTRACTABLE: False, Attribute.SENSITIVE: True}


def unwrap_template(object_class: ObjectClass, hardening: Hardening, support: AttributeSupport) -> dict[Attribute, Any]:
    """Return the template of C_UnwrapKey, besides class, type, usages and names."""
    ordered = support.ordered(_ORDERED[object_class])
    if hardening is Hardening.BY_TEMPLATE:
        return ordered
    return {attribute: value for attribute, value in ordered.items() if attribute not in _FINAL_ONLY}


def tighten(made: Object) -> None:
    """Set what the token ignored, as far as it may be set. Raises PKCS11Error; the caller reads back and compares."""
    reported = tell(made, tuple(_TIGHTENED))
    for attribute, value in _TIGHTENED.items():
        if reported[attribute] is not value:
            made[attribute] = value


def copy_hardened(
    made: Object, hardening: Hardening, support: AttributeSupport, names: Mapping[Attribute, Any]
) -> Object:
    """Copy a tightened session object into one that cannot be modified or copied, and destroy the session object.

    ``names``: CKA_TOKEN, and the CKA_ID and CKA_LABEL of an object that stays. Raises PKCS11Error.
    """
    final = {each: HARDENED[each] for each in _FINAL_ONLY}
    if hardening is Hardening.BY_COPYABLE_COPY:
        del final[Attribute.COPYABLE]
    try:
        copied: Object = made.copy({**names, **support.ordered(final)})
    finally:
        discard(made)
    return copied


def tolerated_of_kept_keys(hardening: Hardening, support: AttributeSupport) -> Tolerated:
    """Return what an imported key that stays may report."""
    if hardening is Hardening.BY_COPYABLE_COPY:
        return {**support.unwrapped, Attribute.COPYABLE: (True, None)}
    return support.unwrapped


def tolerated_of_session_objects(hardening: Hardening, support: AttributeSupport) -> Tolerated:
    """Return what a session copy may report; one that is to be tightened must be modifiable and copyable."""
    if hardening is Hardening.BY_TEMPLATE:
        return support.unwrapped
    return {**support.unwrapped, Attribute.MODIFIABLE: (True,), Attribute.COPYABLE: (True, None)}
