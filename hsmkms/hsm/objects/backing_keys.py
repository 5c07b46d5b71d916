"""Templates of backing keys, by key spec and usage.

A symmetric or HMAC key is one secret object. A key pair is two objects, a private and a public half, that share one
CKA_ID and one label. The public half stays on the token, since nothing else there holds the point of an elliptic curve;
that it belongs to the private half is proven when it is made, and again when a process first reads it (pairs.py).
"""

from collections.abc import Mapping
from typing import Any, Final

from pkcs11.constants import Attribute, MechanismFlag, ObjectClass

from hsmkms.hsm.objects.attributes import (
    AES_256_BACKING_KEY,
    CAME_FROM_ELSEWHERE,
    IMPORTED_AES_256,
    KEPT_PUBLIC_HALF,
    PUBLIC_USAGES,
    USAGES,
    ImportedTemplate,
    PrivateTemplate,
    SecretTemplate,
    encapsulation,
)
from hsmkms.hsm.objects.key_specs import KEY_FACTS, KeyFacts
from hsmkms.model.enums import KeySpec, KeyUsage

CAPABILITIES: Final[Mapping[KeyUsage, MechanismFlag]] = {
    KeyUsage.ENCRYPT_DECRYPT: MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
    KeyUsage.SIGN_VERIFY: MechanismFlag.SIGN | MechanismFlag.VERIFY,
    KeyUsage.GENERATE_VERIFY_MAC: MechanismFlag.SIGN | MechanismFlag.VERIFY,
    KeyUsage.KEY_AGREEMENT: MechanismFlag.DERIVE,
    KeyUsage.ENCAPSULATE_DECAPSULATE: MechanismFlag.ENCAPSULATE | MechanismFlag.DECAPSULATE,
}
"""PKCS #11 usages that each KeyUsage of the API needs; the halves of a pair share them out."""


class PairTemplate(PrivateTemplate):
    """Template of a key pair that stays on the token; its base class describes the private half."""

    __slots__ = ("facts",)

    def __init__(self, facts: KeyFacts, capabilities: MechanismFlag) -> None:
        super().__init__(facts.key_type, capabilities)
        self.facts = facts

    def expected_public(self, cka_id: bytes, label: str) -> dict[Attribute, Any]:
        """Return the attributes that the token must report for the public half."""
        return {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: int(self.key_type),
            Attribute.TOKEN: True,
            **KEPT_PUBLIC_HALF,
            **{usage: bool(self.capabilities & USAGES[usage]) for usage in PUBLIC_USAGES},
            **encapsulation(Attribute.ENCAPSULATE, self.capabilities),
            Attribute.ID: cka_id,
            Attribute.LABEL: label,
        }


class ImportedPairTemplate(PairTemplate):
    """Template of a key pair whose private half was imported."""

    __slots__ = ()

    def expected(self, cka_id: bytes, label: str) -> dict[Attribute, Any]:
        """Return the attributes that the token must report for the private half."""
        return super().expected(cka_id, label) | dict(CAME_FROM_ELSEWHERE)


Template = SecretTemplate | PairTemplate
Kind = tuple[KeySpec, KeyUsage]
"""Key spec and usage of a KMS key, which select the template of its backing keys."""

SYMMETRIC: Final[Kind] = (KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT)


def _of(spec: KeySpec, usage: KeyUsage) -> tuple[Template, Template]:
    """Return the templates of generated and of imported keys."""
    facts, capabilities = KEY_FACTS[spec], CAPABILITIES[usage]
    if facts.public is not None:
        return PairTemplate(facts, capabilities), ImportedPairTemplate(facts, capabilities)
    secret = (facts.key_type, facts.bits, facts.generation, capabilities)
    return SecretTemplate(*secret), ImportedTemplate(*secret)


_SIGNING: Final = (KeyUsage.SIGN_VERIFY,)
_RSA: Final = (KeyUsage.SIGN_VERIFY, KeyUsage.ENCRYPT_DECRYPT)
_NIST_CURVE: Final = (KeyUsage.SIGN_VERIFY, KeyUsage.KEY_AGREEMENT)
_MAC: Final = (KeyUsage.GENERATE_VERIFY_MAC,)
_KEM: Final = (KeyUsage.ENCAPSULATE_DECAPSULATE,)

_USAGES: Final[Mapping[KeySpec, tuple[KeyUsage, ...]]] = {
    KeySpec.RSA_2048: _RSA,
    KeySpec.RSA_3072: _RSA,
    KeySpec.RSA_4096: _RSA,
    KeySpec.ECC_NIST_P256: _NIST_CURVE,
    KeySpec.ECC_NIST_P384: _NIST_CURVE,
    KeySpec.ECC_NIST_P521: _NIST_CURVE,
    KeySpec.ECC_SECG_P256K1: _SIGNING,
    KeySpec.ECC_NIST_EDWARDS25519: _SIGNING,
    KeySpec.ML_DSA_44: _SIGNING,
    KeySpec.ML_DSA_65: _SIGNING,
    KeySpec.ML_DSA_87: _SIGNING,
    KeySpec.ML_KEM_512: _KEM,
    KeySpec.ML_KEM_768: _KEM,
    KeySpec.ML_KEM_1024: _KEM,
    KeySpec.HMAC_224: _MAC,
    KeySpec.HMAC_256: _MAC,
    KeySpec.HMAC_384: _MAC,
    KeySpec.HMAC_512: _MAC,
}

_TEMPLATES: Final[Mapping[Kind, tuple[Template, Template]]] = {
    SYMMETRIC: (AES_256_BACKING_KEY, IMPORTED_AES_256),
    **{(spec, usage): _of(spec, usage) for spec, usages in _USAGES.items() for usage in usages},
}


def template_of(spec: KeySpec, usage: KeyUsage, *, imported: bool = False) -> Template | None:
    """Return the template of such KMS keys' backing keys; None if no key has both."""
    generated_template, imported_template = _TEMPLATES.get((spec, usage), (None, None))
    return imported_template if imported else generated_template


def kinds() -> tuple[Kind, ...]:
    """Return every kind of backing key."""
    return tuple(_TEMPLATES)
