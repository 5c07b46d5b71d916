"""Key agreement: Diffie-Hellman on an elliptic curve, by the private half on the token.

The shared secret is the one thing that the API wants out of the token, so it is derived into a session object that
may be read, is read once, and is destroyed at once. Source: NIST SP 800-56A, section 5.7.1.2 (the curves' cofactor is
1); PKCS #11 2.40, section 2.3.8.
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11.constants import Attribute
from pkcs11.mechanisms import KDF, KeyType, Mechanism
from pkcs11.types import Session

from hsmkms.hsm.objects.handle_keys import BorrowedDeriver
from hsmkms.hsm.objects.key_specs import KeyFacts

MECHANISM: Final = Mechanism.ECDH1_DERIVE
_READ_ONCE: Final = {Attribute.PRIVATE: True, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}


def agree(session: Session, handle: int, facts: KeyFacts, peer: ec.EllipticCurvePublicKey) -> bytes:
    """The x coordinate of the shared point, as long as the curve's field. ``peer`` is a point of the same curve.

    python-pkcs11's errors come out as they are.
    """
    point = peer.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    made = BorrowedDeriver(session, handle, facts.key_type).derive_key(
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
