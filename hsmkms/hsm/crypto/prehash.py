"""Test whether a token supports Ed25519ph, by a known answer: some accept the parameter and sign pure Ed25519.

SoftHSM 2.6.1 does so. The published test key is created on the token as a session object; a token that accepts no keys
in the clear counts as one without support. Source: RFC 8032, section 7.3.
"""

from typing import Final

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType
from pkcs11.types import Session

from hsmkms.hsm.crypto.signing import sign
from hsmkms.hsm.faults import is_loss
from hsmkms.hsm.objects.handle_keys import create_object
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.hsm.objects.objects import handle_of
from hsmkms.model.enums import KeySpec, SigningAlgorithm

_SEED: Final = bytes.fromhex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42")
_MESSAGE: Final = b"abc"
_SIGNATURE: Final = bytes.fromhex(
    "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41"
    "31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"
)


def signs_prehashed(session: Session) -> bool:
    """Return True if the token makes the standard's signature. Raises the PKCS11Error of a lost session."""
    return any(_signs(session, each) for each in KEY_FACTS[KeySpec.ECC_NIST_EDWARDS25519].encodings)


def _signs(session: Session, curve: bytes) -> bool:
    """Try it with a test key whose curve is named by ``curve``."""
    try:
        made = create_object(
            session,
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.EC_EDWARDS,
                Attribute.TOKEN: False,
                Attribute.SIGN: True,
                Attribute.VALUE: _SEED,
                Attribute.EC_PARAMS: curve,
            },
        )
        try:
            return sign(session, handle_of(made), SigningAlgorithm.ED25519_PH_SHA_512, _MESSAGE) == _SIGNATURE
        finally:
            made.destroy()
    except PKCS11Error as exc:
        if is_loss(exc):
            raise
        return False
