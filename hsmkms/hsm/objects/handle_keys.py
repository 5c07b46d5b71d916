"""Objects and keys identified by their handles, used in any session.

PKCS#11 object handles are valid in every session of the process, but python-pkcs11 binds its key objects to the
session that found them, reads ten attributes of each, and searching again costs a walk over the whole token. These
classes carry a session and a handle into the calls of ``hsm/calls``.
"""

import struct
from typing import Any

from pkcs11.constants import Attribute, MechanismFlag, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.hsm.calls import creation, encapsulation, operations
from hsmkms.hsm.calls.attributes import read_one
from hsmkms.hsm.calls.mechanisms import mechanism as built
from hsmkms.hsm.objects.attributes import MAPPER, packed
from hsmkms.hsm.objects.attributes import encapsulation as encapsulation_usage


class HandleObject(Object):
    """An object of any class, identified by its handle, in the caller's session."""

    def __init__(self, session: Session, handle: int) -> None:
        self._session = session
        self._handle = handle

    @property
    def session(self) -> Session:
        """The session through which it is used."""
        return self._session

    @property
    def handle(self) -> int:
        """The object's handle."""
        return self._handle

    def __getitem__(self, key: Attribute) -> Any:  # noqa: ANN401 - attributes have many types
        """Read an attribute; PKCS11Error if the token refuses, ValueError for a value that is none of its type."""
        value = read_one(self._session, self._handle, key)
        try:
            return MAPPER.unpack_attributes(key, value)
        except struct.error as exc:
            raise ValueError(str(exc)) from exc

    def __setitem__(self, key: Attribute, value: Any) -> None:  # noqa: ANN401 - as read
        """Change an attribute."""
        creation.set_attributes(self._session, self._handle, packed({key: value}))

    def copy(self, attrs: dict[Attribute, Any]) -> "HandleObject":
        """Make a copy with these changes."""
        return HandleObject(self._session, creation.copy_object(self._session, self._handle, packed(attrs)))

    def destroy(self) -> None:
        """Destroy the object."""
        creation.destroy_object(self._session, self._handle)

    def _identity(self) -> tuple[str, Session, int]:
        return Object.__name__, self._session, self._handle


class HandleKey:
    """Key of any class, identified by its handle, in the caller's session. All methods raise PKCS11Error."""

    __slots__ = ("handle", "key_type", "session")

    def __init__(self, session: Session, handle: int, key_type: KeyType = KeyType.AES) -> None:
        self.session = session
        self.handle = handle
        self.key_type = key_type

    def encrypt(
        self,
        data: bytes,
        *,
        mechanism: Mechanism,
        mechanism_param: Any = None,  # noqa: ANN401 - of many types
        buffer_size: int = operations.ROOM,
    ) -> bytes:
        """Encrypt; ``buffer_size``: the longest output that is expected."""
        return operations.encrypt(self.session, self.handle, built(mechanism, mechanism_param), data, buffer_size)

    def decrypt(
        self,
        data: bytes,
        *,
        mechanism: Mechanism,
        mechanism_param: Any = None,  # noqa: ANN401 - of many types
        buffer_size: int = operations.ROOM,
    ) -> bytes:
        """Decrypt; ``buffer_size``: the longest output that is expected."""
        return operations.decrypt(self.session, self.handle, built(mechanism, mechanism_param), data, buffer_size)

    def sign(
        self,
        data: bytes,
        *,
        mechanism: Mechanism,
        mechanism_param: Any = None,  # noqa: ANN401 - of many types
        size: int | None = None,
    ) -> bytes:
        """Sign, or compute a MAC; ``size``: of the output, where the buffer must not be larger."""
        return operations.sign(self.session, self.handle, built(mechanism, mechanism_param), data, size)

    def verify(
        self,
        data: bytes,
        signature: bytes,
        *,
        mechanism: Mechanism,
        mechanism_param: Any = None,  # noqa: ANN401 - of many types
    ) -> bool:
        """Verify a signature or a MAC."""
        return operations.verify(self.session, self.handle, built(mechanism, mechanism_param), data, signature)

    def wrap(self, key: Object, *, mechanism: Mechanism) -> bytes:
        """Wrap a key object."""
        handle = key.handle
        if handle is None:
            raise TypeError("an object without a handle cannot be wrapped")
        return operations.wrap_key(self.session, self.handle, built(mechanism), handle)


class HandleUnwrapper(HandleKey):
    """Unwrapping key, identified by its handle, in the caller's session."""

    __slots__ = ()

    def unwrap_key(  # noqa: PLR0913 - as many as C_UnwrapKey has
        self,
        object_class: ObjectClass,
        key_type: KeyType,
        key_data: bytes,
        *,
        id: bytes,  # noqa: A002 - as python-pkcs11 names it
        label: str,
        mechanism: Mechanism,
        mechanism_param: Any,  # noqa: ANN401 - of many types
        store: bool,
        capabilities: MechanismFlag,
        template: dict[Attribute, Any],
    ) -> HandleObject:
        """Call C_UnwrapKey; ``template`` completes the attributes of the kind, and DEFAULT leaves one out."""
        usual = MAPPER.generic_key_template(
            {Attribute.CLASS: object_class, Attribute.KEY_TYPE: key_type},
            id_=id,
            label=label,
            store=store,
            capabilities=capabilities,
        )
        by = built(mechanism, mechanism_param)
        handle = creation.unwrap_key(self.session, self.handle, by, key_data, packed(usual, template))
        return HandleObject(self.session, handle)


class HandleDeriver(HandleKey):
    """Private key for key agreement, identified by its handle, in the caller's session."""

    __slots__ = ()

    def derive_key(
        self,
        key_type: KeyType,
        bits: int,
        *,
        capabilities: MechanismFlag | int,
        mechanism: Mechanism,
        mechanism_param: Any,  # noqa: ANN401 - of many types
        template: dict[Attribute, Any],
    ) -> HandleObject:
        """Call C_DeriveKey for a session object."""
        usual = MAPPER.secret_key_template(capabilities=capabilities, id_=None, label=None, store=False)
        usual |= {Attribute.KEY_TYPE: key_type, Attribute.VALUE_LEN: bits // 8}
        by = built(mechanism, mechanism_param)
        return HandleObject(self.session, creation.derive_key(self.session, self.handle, by, packed(usual, template)))


class HandleEncapsulator(HandleKey):
    """Either half of a key pair for encapsulation, identified by its handle, in the caller's session.

    ``template``: of the shared secret, a session object without usages.
    """

    __slots__ = ()

    def encapsulate_key(
        self, key_type: KeyType, *, mechanism: Mechanism, template: dict[Attribute, Any], length: int
    ) -> tuple[bytes, HandleObject]:
        """Call C_EncapsulateKey for a ciphertext of ``length`` bytes; return it and the shared secret."""
        by, secret = built(mechanism), _shared_secret(key_type, template)
        ciphertext, handle = encapsulation.encapsulate_key(self.session, self.handle, by, secret, length)
        return ciphertext, HandleObject(self.session, handle)

    def decapsulate_key(
        self, key_type: KeyType, ciphertext: bytes, *, mechanism: Mechanism, template: dict[Attribute, Any]
    ) -> HandleObject:
        """Call C_DecapsulateKey; return the shared secret."""
        by, secret = built(mechanism), _shared_secret(key_type, template)
        return HandleObject(
            self.session, encapsulation.decapsulate_key(self.session, self.handle, by, secret, ciphertext)
        )


def _shared_secret(key_type: KeyType, template: dict[Attribute, Any]) -> list[tuple[int, bytes]]:
    usual = MAPPER.secret_key_template(capabilities=0, id_=None, label=None, store=False)
    return packed(usual, {Attribute.KEY_TYPE: key_type}, template)


# -- new objects ------------------------------------------------------------------------------------------------------


def create_object(session: Session, template: dict[Attribute, Any]) -> HandleObject:
    """Call C_CreateObject."""
    return HandleObject(session, creation.create_object(session, packed(template)))


def generate_key(
    session: Session,
    bits: int,
    *,
    mechanism: Mechanism,
    cka_id: bytes | None,
    label: str,
    store: bool,
    capabilities: MechanismFlag | int,
    template: dict[Attribute, Any],
) -> HandleObject:
    """Call C_GenerateKey for a secret key."""
    usual = MAPPER.secret_key_template(capabilities=capabilities, id_=cka_id, label=label, store=store)
    usual[Attribute.VALUE_LEN] = bits // 8
    return HandleObject(session, creation.generate_key(session, built(mechanism), packed(usual, template)))


def generate_key_pair(  # noqa: PLR0913 - as many as C_GenerateKeyPair has
    session: Session,
    *,
    mechanism: Mechanism,
    cka_id: bytes | None,
    label: str | None,
    store: bool,
    capabilities: MechanismFlag,
    public_template: dict[Attribute, Any],
    private_template: dict[Attribute, Any],
    rsa_bits: int | None = None,
) -> tuple[HandleObject, HandleObject]:
    """Call C_GenerateKeyPair; return the public and the private half. ``rsa_bits``: of the modulus, for RSA."""
    public = MAPPER.public_key_template(capabilities=capabilities, id_=cka_id, label=label, store=store)
    private = MAPPER.private_key_template(capabilities=capabilities, id_=cka_id, label=label, store=store)
    public |= encapsulation_usage(Attribute.ENCAPSULATE, capabilities)
    private |= encapsulation_usage(Attribute.DECAPSULATE, capabilities)
    if rsa_bits is not None:
        public |= {Attribute.PUBLIC_EXPONENT: b"\1\0\1", Attribute.MODULUS_BITS: rsa_bits}
    made = creation.generate_key_pair(
        session, built(mechanism), packed(public, public_template), packed(private, private_template)
    )
    return HandleObject(session, made[0]), HandleObject(session, made[1])
