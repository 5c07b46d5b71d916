"""Attribute templates: the attributes that each object is created with and must report when read back.

Templates are ``Final`` tables. python-pkcs11 adds CKA_CLASS, CKA_ID, CKA_LABEL, CKA_TOKEN and one boolean for each
usage, all false except those named in ``capabilities``. Source of the attributes: PKCS #11 2.40, sections 4.4 to 4.10.
"""

from collections.abc import Mapping
from typing import Any, Final

from pkcs11.attributes import AttributeMapper, Handler, handle_bool, handle_bytes, handle_ulong
from pkcs11.constants import DEFAULT, Attribute, MechanismFlag, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism


class _TolerantMapper(AttributeMapper):
    """Attribute mapper that reads every attribute of every object, including foreign ones.

    python-pkcs11's own mapper raises for an attribute that it does not know (and leaves the heap damaged), for enum
    values that it does not know, and for labels that are not UTF-8: one foreign object would break a listing. And it
    takes a boolean of no bytes for false, and each byte but zero for true: what a token does not say would be a value.
    """

    def __init__(self) -> None:
        super().__init__()
        pack_ulong, unpack_ulong = handle_ulong
        for attribute in (Attribute.KEY_TYPE, Attribute.KEY_GEN_MECHANISM):
            self.register_handler(attribute, lambda value: pack_ulong(int(value)), unpack_ulong)
        for boolean in [name for name, handler in self.attribute_types.items() if handler is handle_bool]:
            self.register_handler(boolean, handle_bool[0], _boolean)
        self.register_handler(
            Attribute.LABEL, lambda text: text.encode("utf-8"), lambda data: data.decode("utf-8", "replace")
        )

    def _handler(self, key: Attribute) -> Handler:
        return self.attribute_types.get(key, handle_bytes)


def _boolean(value: bytes) -> bool:
    """Read a CK_BBOOL. ValueError for anything but CK_TRUE and CK_FALSE."""
    return (b"\0", b"\1").index(value) == 1


MAPPER: Final = _TolerantMapper()


def packed(*templates: Mapping[Attribute, Any]) -> list[tuple[int, bytes]]:
    """Merge templates, of which later ones win and DEFAULT leaves an attribute out, and encode their values."""
    merged: dict[Attribute, Any] = {}
    for each in templates:
        merged.update(each)
    return [(key, MAPPER.pack_attribute(key, value)) for key, value in merged.items() if value is not DEFAULT]


HARDENED: Final[Mapping[Attribute, bool]] = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,  # last: SoftHSM's C_UnwrapKey sets them in this order, and none after this one
}
"""Attributes of every secret that stays on the token: not readable, not modifiable, not copyable."""

CAME_FROM_ELSEWHERE: Final[Mapping[Attribute, bool]] = {
    Attribute.LOCAL: False,
    Attribute.ALWAYS_SENSITIVE: False,
    Attribute.NEVER_EXTRACTABLE: False,
}
"""Attributes that a token reports for unwrapped keys (PKCS #11 2.40, section 5.13: C_UnwrapKey)."""

USAGES: Final[Mapping[Attribute, MechanismFlag]] = {
    Attribute.ENCRYPT: MechanismFlag.ENCRYPT,
    Attribute.DECRYPT: MechanismFlag.DECRYPT,
    Attribute.SIGN: MechanismFlag.SIGN,
    Attribute.VERIFY: MechanismFlag.VERIFY,
    Attribute.WRAP: MechanismFlag.WRAP,
    Attribute.UNWRAP: MechanismFlag.UNWRAP,
    Attribute.DERIVE: MechanismFlag.DERIVE,
}


class SecretTemplate:
    """Template of the secret keys of one purpose: key type, bits, mechanism, and only the usages that it needs."""

    __slots__ = ("bits", "capabilities", "key_type", "mechanism")

    def __init__(self, key_type: KeyType, bits: int, mechanism: Mechanism, capabilities: MechanismFlag) -> None:
        self.key_type = key_type
        self.bits = bits
        self.mechanism = mechanism
        self.capabilities = capabilities

    def expected(self, cka_id: bytes, label: str) -> dict[Attribute, Any]:
        """Return the attributes that the token must report for such an object."""
        return {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: int(self.key_type),
            Attribute.TOKEN: True,
            **HARDENED,
            **{usage: bool(self.capabilities & flag) for usage, flag in USAGES.items()},
            Attribute.VALUE_LEN: self.bits // 8,
            Attribute.LOCAL: True,
            Attribute.ALWAYS_SENSITIVE: True,
            Attribute.NEVER_EXTRACTABLE: True,
            Attribute.ID: cka_id,
            Attribute.LABEL: label,
        }


class ImportedTemplate(SecretTemplate):
    """Template of imported secret keys; three attributes mark their material as not generated on the token."""

    def expected(self, cka_id: bytes, label: str) -> dict[Attribute, Any]:
        """Return the attributes that the token must report for such an object."""
        return super().expected(cka_id, label) | dict(CAME_FROM_ELSEWHERE)


class PrivateTemplate:
    """Template of the private half of a key pair: hardened like every secret, with only the usages that it needs."""

    __slots__ = ("capabilities", "key_type")

    def __init__(self, key_type: KeyType, capabilities: MechanismFlag) -> None:
        self.key_type = key_type
        self.capabilities = capabilities

    def expected(self, cka_id: bytes, label: str) -> dict[Attribute, Any]:
        """Return the attributes that the token must report for such an object."""
        return {
            Attribute.CLASS: ObjectClass.PRIVATE_KEY,
            Attribute.KEY_TYPE: int(self.key_type),
            Attribute.TOKEN: True,
            **PRIVATE_HALF,
            **{usage: bool(self.capabilities & USAGES[usage]) for usage in PRIVATE_USAGES},
            **encapsulation(Attribute.DECAPSULATE, self.capabilities),
            Attribute.LOCAL: True,
            Attribute.ALWAYS_SENSITIVE: True,
            Attribute.NEVER_EXTRACTABLE: True,
            Attribute.ID: cka_id,
            Attribute.LABEL: label,
        }


class WrappingKeyTemplate(PrivateTemplate):
    """Template of the private half of a wrapping key. The public half is only a session object."""

    __slots__ = ()

    def __init__(self, capabilities: MechanismFlag) -> None:
        super().__init__(KeyType.RSA, capabilities)


PUBLIC_HALF: Final[Mapping[Attribute, bool]] = {
    Attribute.TOKEN: False,
    Attribute.PRIVATE: False,
    Attribute.VERIFY_RECOVER: False,
}
PRIVATE_HALF: Final[Mapping[Attribute, bool]] = {Attribute.SIGN_RECOVER: False, **HARDENED}
"""SIGN_RECOVER is set to False because SoftHSM defaults it to True for private keys."""

KEPT_PUBLIC_HALF: Final[Mapping[Attribute, bool]] = {
    Attribute.PRIVATE: True,  # not secret, but it must not be replaceable without the PIN
    Attribute.VERIFY_RECOVER: False,
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,
}
"""The public half of a backing key, which stays on the token beside the private one."""

PUBLIC_USAGES: Final = (Attribute.ENCRYPT, Attribute.VERIFY, Attribute.WRAP)
"""Usages of public keys."""

PRIVATE_USAGES: Final = (Attribute.DECRYPT, Attribute.SIGN, Attribute.UNWRAP, Attribute.DERIVE)
"""Usages of private keys."""

_ENCAPSULATION: Final[Mapping[Attribute, MechanismFlag]] = {
    Attribute.ENCAPSULATE: MechanismFlag.ENCAPSULATE,
    Attribute.DECAPSULATE: MechanismFlag.DECAPSULATE,
}
"""Usages of PKCS #11 3.2, which older tokens do not know: ordered of keys for encapsulation alone."""


def encapsulation(usage: Attribute, capabilities: MechanismFlag) -> dict[Attribute, bool]:
    """Return the template of a public half's or a private half's usage for encapsulation, empty for other keys."""
    return {usage: True} if capabilities & _ENCAPSULATION[usage] else {}


AES_256_BACKING_KEY: Final = SecretTemplate(
    KeyType.AES, 256, Mechanism.AES_KEY_GEN, MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
)
"""The material of a SYMMETRIC_DEFAULT key: encrypts and decrypts; never wraps, unwraps or derives."""

IMPORTED_AES_256: Final = ImportedTemplate(
    KeyType.AES, 256, Mechanism.AES_KEY_GEN, MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
)
"""The same material, imported. It has no other usage either."""

WRAPPING_KEY: Final = WrappingKeyTemplate(MechanismFlag.UNWRAP)
"""Unwraps; never decrypts, signs or derives."""

HOST_WRAPPING_KEY: Final = WrappingKeyTemplate(MechanismFlag.UNWRAP | MechanismFlag.DECRYPT)
"""danger: the plaintext that it decrypts enters this process. Used only where ``host_unwrap`` is set."""

INSTALLATION_MAC_KEY: Final = SecretTemplate(
    KeyType.GENERIC_SECRET, 256, Mechanism.GENERIC_SECRET_KEY_GEN, MechanismFlag.SIGN | MechanismFlag.VERIFY
)
"""The installation's own key: proves that database and token belong together."""
