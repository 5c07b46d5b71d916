"""Attributes and templates: what every object is made with, and what it must say of itself afterwards.

Templates are ``Final`` tables. python-pkcs11 adds CKA_CLASS, CKA_ID, CKA_LABEL, CKA_TOKEN and one boolean for each
usage, all false but those named in ``capabilities``. Source of the attributes: PKCS #11 2.40, sections 4.4 to 4.10.
"""

from collections.abc import Mapping
from typing import Any, Final

from pkcs11.attributes import AttributeMapper, Handler, handle_bytes, handle_ulong
from pkcs11.constants import Attribute, MechanismFlag, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism


class _TolerantMapper(AttributeMapper):
    """Reads every attribute of every object, also of foreign ones.

    python-pkcs11's own mapper raises for an attribute that it does not know (and leaves the heap damaged), for enum
    values that it does not know, and for labels that are not UTF-8: one foreign object would break a listing.
    """

    def __init__(self) -> None:
        super().__init__()
        pack_ulong, unpack_ulong = handle_ulong
        for attribute in (Attribute.KEY_TYPE, Attribute.KEY_GEN_MECHANISM):
            self.register_handler(attribute, lambda value: pack_ulong(int(value)), unpack_ulong)
        self.register_handler(
            Attribute.LABEL, lambda text: text.encode("utf-8"), lambda data: data.decode("utf-8", "replace")
        )

    def _handler(self, key: Attribute) -> Handler:
        return self.attribute_types.get(key, handle_bytes)


MAPPER: Final = _TolerantMapper()

HARDENED: Final[Mapping[Attribute, bool]] = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,  # last: C_UnwrapKey of SoftHSM sets them in this order, and none after this one
}
"""Every secret that stays on the token: unreadable, unchangeable, and impossible to copy into something weaker."""

CAME_FROM_ELSEWHERE: Final[Mapping[Attribute, bool]] = {
    Attribute.LOCAL: False,
    Attribute.ALWAYS_SENSITIVE: False,
    Attribute.NEVER_EXTRACTABLE: False,
}
"""What a token says of keys that were unwrapped (PKCS #11 2.40, section 5.13: C_UnwrapKey)."""

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
    """How one purpose's secret keys are made: key type, bits, mechanism, and the only usages that it needs."""

    __slots__ = ("bits", "capabilities", "key_type", "mechanism")

    def __init__(self, key_type: KeyType, bits: int, mechanism: Mechanism, capabilities: MechanismFlag) -> None:
        self.key_type = key_type
        self.bits = bits
        self.mechanism = mechanism
        self.capabilities = capabilities

    def expected(self, cka_id: bytes, label: str) -> dict[Attribute, Any]:
        """What the token must report of such an object."""
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
    """The same for keys whose material came from elsewhere: they say so, honestly, by three attributes."""

    def expected(self, cka_id: bytes, label: str) -> dict[Attribute, Any]:
        """What the token must report of such an object."""
        return super().expected(cka_id, label) | dict(CAME_FROM_ELSEWHERE)


class PrivateTemplate:
    """How the private half of a key pair is made: like every secret, with the only usages that it needs."""

    __slots__ = ("capabilities", "key_type")

    def __init__(self, key_type: KeyType, capabilities: MechanismFlag) -> None:
        self.key_type = key_type
        self.capabilities = capabilities

    def expected(self, cka_id: bytes, label: str) -> dict[Attribute, Any]:
        """What the token must report of such an object."""
        return {
            Attribute.CLASS: ObjectClass.PRIVATE_KEY,
            Attribute.KEY_TYPE: int(self.key_type),
            Attribute.TOKEN: True,
            **PRIVATE_HALF,
            **{usage: bool(self.capabilities & USAGES[usage]) for usage in PRIVATE_USAGES},
            Attribute.LOCAL: True,
            Attribute.ALWAYS_SENSITIVE: True,
            Attribute.NEVER_EXTRACTABLE: True,
            Attribute.ID: cka_id,
            Attribute.LABEL: label,
        }


class WrappingKeyTemplate(PrivateTemplate):
    """How the private half of a wrapping key is made. The public half is no more than a session object."""

    __slots__ = ()

    def __init__(self, capabilities: MechanismFlag) -> None:
        super().__init__(KeyType.RSA, capabilities)


PUBLIC_HALF: Final[Mapping[Attribute, bool]] = {
    Attribute.TOKEN: False,
    Attribute.PRIVATE: False,
    Attribute.VERIFY_RECOVER: False,
}
PRIVATE_HALF: Final[Mapping[Attribute, bool]] = {Attribute.SIGN_RECOVER: False, **HARDENED}
"""SoftHSM lets every private key sign with recovery if nobody forbids it."""

KEPT_PUBLIC_HALF: Final[Mapping[Attribute, bool]] = {
    Attribute.PRIVATE: True,  # nothing secret, but nobody without the PIN shall put another one in its place
    Attribute.VERIFY_RECOVER: False,
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,
}
"""The public half of a backing key, which stays on the token beside the private one."""

PUBLIC_USAGES: Final = (Attribute.ENCRYPT, Attribute.VERIFY, Attribute.WRAP)
"""Those of the usages that a public key has."""

PRIVATE_USAGES: Final = (Attribute.DECRYPT, Attribute.SIGN, Attribute.UNWRAP, Attribute.DERIVE)
"""Those of the usages that a private key has."""

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
"""danger: what it decrypts comes into this process. Only where ``host_unwrap`` is set."""

INSTALLATION_MAC_KEY: Final = SecretTemplate(
    KeyType.GENERIC_SECRET, 256, Mechanism.GENERIC_SECRET_KEY_GEN, MechanismFlag.SIGN | MechanismFlag.VERIFY
)
"""The installation's own key: proves that database and token belong together."""
