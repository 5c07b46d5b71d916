"""Key encapsulation: ML-KEM, whose private half decapsulates on the token.

Encapsulation uses the public key alone. It is done in this process where ``cryptography`` has the parameter set, and
else on the token with a session object made of the proven public key: the public half that lies there could have been
replaced since. The API returns the shared secret, so on the token it is a readable session object, which is read once
and destroyed at once.

A ciphertext of the right length always gives a secret: one that was altered, or made for another key, gives another one
(implicit rejection). Source: FIPS 203, sections 7.2 and 7.3; PKCS #11 3.2, section on ML-KEM.
"""

from typing import Final, NamedTuple

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import TokenError
from hsmkms.hsm.objects.handle_keys import HandleEncapsulator, create_object
from hsmkms.hsm.objects.key_specs import EncapsulationKey, KeyFacts
from hsmkms.hsm.objects.objects import discard

MECHANISM: Final = Mechanism.ML_KEM
SECRET_BYTES: Final = 32

_SECRET_TYPE: Final = KeyType.GENERIC_SECRET
_READ_ONCE: Final = {Attribute.PRIVATE: True, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}


class Encapsulated(NamedTuple):
    """A shared secret, and the ciphertext from which the private half recovers it."""

    secret: bytes
    ciphertext: bytes


def encapsulate_here(public: EncapsulationKey) -> Encapsulated:
    """Encapsulate in this process."""
    return Encapsulated(*public.encapsulate())


def encapsulate_on_token(session: Session, facts: KeyFacts, info: bytes) -> Encapsulated:
    """Encapsulate on the token to the public key of a SubjectPublicKeyInfo (DER). Raises PKCS11Error."""
    public = create_object(
        session,
        {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: facts.key_type,
            Attribute.TOKEN: False,
            Attribute.ENCAPSULATE: True,
            **facts.parameters,
            Attribute.VALUE: info[-facts.size :],
        },
    )
    try:
        ciphertext, made = HandleEncapsulator(session, public.handle, facts.key_type).encapsulate_key(
            _SECRET_TYPE, mechanism=MECHANISM, template=dict(_READ_ONCE), length=facts.ciphertext_bytes
        )
    finally:
        discard(public)
    return Encapsulated(_read_once(made), ciphertext)


def decapsulate(session: Session, handle: int, ciphertext: bytes) -> bytes:
    """Recover the shared secret with a private half. The caller has checked the length. Raises PKCS11Error."""
    made = HandleEncapsulator(session, handle, KeyType.ML_KEM).decapsulate_key(
        _SECRET_TYPE, ciphertext, mechanism=MECHANISM, template=dict(_READ_ONCE)
    )
    return _read_once(made)


def _read_once(made: Object) -> bytes:
    try:
        secret: bytes = made[Attribute.VALUE]
    finally:
        discard(made)
    if len(secret) != SECRET_BYTES:
        raise TokenError(f"the token gave a shared secret of {len(secret)} bytes instead of {SECRET_BYTES}")
    return secret
