"""Backing keys of every spec: how they are made, by spec and usage, and what the token must say of them afterwards.

A symmetric or HMAC key is one secret object. A key pair is two, a private and a public half, that carry one CKA_ID
and one label. The public half stays on the token, since nothing else there tells the point of an elliptic curve; that
it is the private half's own is proven when it is made, and again when a process first reads it (pairs.py).
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
)
from hsmkms.hsm.objects.key_specs import KEY_FACTS, KeyFacts
from hsmkms.model.enums import KeySpec, KeyUsage

CAPABILITIES: Final[Mapping[KeyUsage, MechanismFlag]] = {
    KeyUsage.ENCRYPT_DECRYPT: MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
    KeyUsage.SIGN_VERIFY: MechanismFlag.SIGN | MechanismFlag.VERIFY,
    KeyUsage.GENERATE_VERIFY_MAC: MechanismFlag.SIGN | MechanismFlag.VERIFY,
    KeyUsage.KEY_AGREEMENT: MechanismFlag.DERIVE,
}
"""The only usages on the token that a key's usage in the API needs; a pair's halves share them."""


class PairTemplate(PrivateTemplate):
    """How a key pair is made that stays on the token; as a template, that of its private half."""

    __slots__ = ("facts",)

    def __init__(self, facts: KeyFacts, capabilities: MechanismFlag) -> None:
        super().__init__(facts.key_type, capabilities)
        self.facts = facts

    def expected_public(self, cka_id: bytes, label: str) -> dict[Attribute, Any]:
        """What the token must report of the public half."""
        return {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: int(self.key_type),
            Attribute.TOKEN: True,
            **KEPT_PUBLIC_HALF,
            **{usage: bool(self.capabilities & USAGES[usage]) for usage in PUBLIC_USAGES},
            Attribute.ID: cka_id,
            Attribute.LABEL: label,
        }


class ImportedPairTemplate(PairTemplate):
    """The same for pairs whose private half came from elsewhere."""

    __slots__ = ()

    def expected(self, cka_id: bytes, label: str) -> dict[Attribute, Any]:
        """What the token must report of the private half."""
        return super().expected(cka_id, label) | dict(CAME_FROM_ELSEWHERE)


Template = SecretTemplate | PairTemplate
Kind = tuple[KeySpec, KeyUsage]
"""What decides how a backing key is made: the spec and the usage of its KMS key."""

SYMMETRIC: Final[Kind] = (KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT)


def _of(spec: KeySpec, usage: KeyUsage) -> tuple[Template, Template]:
    """The templates of generated and of imported keys."""
    facts, capabilities = KEY_FACTS[spec], CAPABILITIES[usage]
    if facts.public is not None:
        return PairTemplate(facts, capabilities), ImportedPairTemplate(facts, capabilities)
    secret = (facts.key_type, facts.bits, facts.generation, capabilities)
    return SecretTemplate(*secret), ImportedTemplate(*secret)


_SIGNING: Final = (KeyUsage.SIGN_VERIFY,)
_RSA: Final = (KeyUsage.SIGN_VERIFY, KeyUsage.ENCRYPT_DECRYPT)
_NIST_CURVE: Final = (KeyUsage.SIGN_VERIFY, KeyUsage.KEY_AGREEMENT)
_MAC: Final = (KeyUsage.GENERATE_VERIFY_MAC,)

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
    """How the backing keys of such KMS keys are made; None if the token has no part in that spec (ML_KEM)."""
    generated, brought = _TEMPLATES.get((spec, usage), (None, None))
    return brought if imported else generated


def kinds() -> tuple[Kind, ...]:
    """Every kind of backing key that there can be."""
    return tuple(_TEMPLATES)
