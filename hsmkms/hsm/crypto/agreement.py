"""Key agreement: ECDH with the private half on the token.

The API returns the shared secret, so it is derived into a readable session object, which is read once and destroyed at
once. Source: NIST SP 800-56A, section 5.7.1.2 (the curves' cofactor is 1); PKCS #11 2.40, section 2.3.8.
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11.constants import Attribute
from pkcs11.mechanisms import KDF, KeyType, Mechanism
from pkcs11.types import Session

from hsmkms.hsm.objects.handle_keys import HandleDeriver
from hsmkms.hsm.objects.key_specs import KeyFacts

MECHANISM: Final = Mechanism.ECDH1_DERIVE
_READ_ONCE: Final = {Attribute.PRIVATE: True, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}


def agree(session: Session, handle: int, facts: KeyFacts, peer: ec.EllipticCurvePublicKey) -> bytes:
    """Return the x coordinate of the shared point, as long as the curve's field. ``peer`` is on the same curve.

    Raises PKCS11Error.
    """
    point = peer.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    made = HandleDeriver(session, handle, facts.key_type).derive_key(
        KeyType.GENERIC_SECRET,
        8 * facts.size,
        capabilities=0,
        mechanism=MECHANISM,
        mechanism_param=(KDF.NULL, None, point),
        template=dict(_READ_ONCE),
    )
    try:
        secret: bytes = made[Attribute.VALUE]
    finally:
        made.destroy()
    return secret
