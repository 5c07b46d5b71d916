"""Prove the identity of a token in the login session after every login, before any other session is lent.

Label, serial and PIN prove nothing: a token that was initialised again can have the same. An opener's knowledge of the
right token (service/runtime/binding.py) is an ``Identity``, which the connection calls.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from msgspec import Struct
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import ObjectLostError
from hsmkms.hsm.allowed_acts import MAY_AUTHENTICATE
from hsmkms.hsm.faults import OBJECT_LOST, translated
from hsmkms.hsm.objects.handle_keys import HandleKey
from hsmkms.hsm.objects.objects import find, handle_of, is_at
from hsmkms.hsm.probing.profile import TokenProfile
from hsmkms.hsm.session.handles import HandleIndex
from hsmkms.model.permit import Permit


class Proof(Struct, frozen=True):
    """A challenge, the token's response, and the CKA_ID of the key that made it."""

    cka_id: bytes
    challenge: bytes
    response: bytes


Listener = Callable[[frozenset[bytes]], None]
"""Checks a token after a login, and before and after a key is created on it; raises what is wrong with it.

Its argument: CKA_IDs of keys that the token has just shown to hold, which it need not ask for again.
"""


class Shown(NamedTuple):
    """CKA_IDs of identity keys that the token has just shown to hold, and the login event after which it did."""

    login: object
    cka_ids: frozenset[bytes]


NOTHING_SHOWN: Final = Shown(None, frozenset())


class Candidate:
    """A logged-in session of a token whose identity is not proven yet, with the part of ``Device`` that a proof needs.

    ``profile``: that of the token as it was opened, with the label and the serial of the one that answers now.
    ``members``: the serials of the token's HA group, as the settings name them; without a group only its own.
    """

    def __init__(self, session: Session, profile: TokenProfile, members: frozenset[str]) -> None:
        self._session = session
        self.profile = profile
        self.members = members
        # What a device has in parts stands here together, under the same names.
        self.connection = self.keys = self.own = self
        self._found: dict[bytes, Object] = {}

    def mac(self, permit: Permit, cka_id: bytes, message: bytes) -> bytes:
        """Return the HMAC-SHA-256 by an installation key; ObjectLostError if it is not on the token."""
        permit.require(MAY_AUTHENTICATE, cka_id)
        with translated():
            return mac_by_handle(self._session, self.handle(cka_id), message)

    def is_labelled(self, cka_id: bytes, label: str) -> bool:
        """True if the key has that label; ObjectLostError if it is not on the token."""
        with translated():
            reported: str = self._object(cka_id)[Attribute.LABEL]
        return reported == label[: self.profile.label_bytes]

    def handle(self, cka_id: bytes) -> int:
        """Return the handle of an installation key; ObjectLostError if it is not on the token."""
        return handle_of(self._object(cka_id))

    def _object(self, cka_id: bytes) -> Object:
        if cka_id not in self._found:
            found = find(self._session, ObjectClass.SECRET_KEY, cka_id)
            if found is None:
                raise ObjectLostError(OBJECT_LOST)
            self._found[cka_id] = found
        return self._found[cka_id]


class Identity(Protocol):
    """An opener's knowledge of the right token, read again for each call, since other processes may change it."""

    def admit(self, serial: str) -> None:
        """Raise WrongTokenError if no PIN may be sent to the token of that serial."""

    def prove(self, candidate: Candidate) -> Proof:
        """Challenge a token; WrongTokenError if it is not the right one."""


class Identities:
    """The identities that the openers of a token require, and the token's latest proofs. Thread-safe."""

    def __init__(self) -> None:
        self._required: list[Identity] = []
        self._proofs: list[Proof] = []

    def __bool__(self) -> bool:
        return bool(self._required)

    def add(self, identity: Identity) -> None:
        """Require this identity from now on."""
        self._required.append(identity)

    def remove(self, identity: Identity) -> None:
        """Stop requiring this identity; drop the proofs."""
        with suppress(ValueError):
            self._required.remove(identity)
        self._proofs = []

    def admit(self, serial: str) -> None:
        """Raise WrongTokenError if no PIN may be sent to the token of that serial."""
        for each in list(self._required):
            each.admit(serial)

    def prove(self, candidate: Candidate, handles: HandleIndex) -> frozenset[bytes]:
        """Challenge a token for every identity and cache its keys' handles; WrongTokenError if one does not match.

        Return the CKA_IDs of those keys.
        """
        proofs = [each.prove(candidate) for each in list(self._required)]
        for proof in proofs:
            handles.remember(proof.cka_id, candidate.handle(proof.cka_id))
        self._proofs = proofs
        return _keys_of(proofs)

    def check(self, candidate: Candidate) -> None:
        """Challenge a token that is not in use for every identity; WrongTokenError if one does not match."""
        for each in list(self._required):
            each.prove(candidate)

    def shown(self, session: Session, handles: HandleIndex) -> frozenset[bytes]:
        """Repeat the latest proofs; return the CKA_IDs of their keys if the token's responses are the same.

        Fast; an empty set proves nothing.
        """
        proofs = self._proofs
        right = all(_answers_again(session, each, handles.lookup(each.cka_id)) for each in proofs)
        return _keys_of(proofs) if right else frozenset()

    def visible(self, session: Session, handles: HandleIndex) -> frozenset[bytes]:
        """Return the CKA_IDs of the keys of the latest proofs if all are visible now, one call for each.

        They are private objects, so this shows that the login is valid. An empty set proves nothing.
        """
        proofs = self._proofs
        right = all(is_at(session, handles.lookup(each.cka_id), each.cka_id) for each in proofs)
        return _keys_of(proofs) if right else frozenset()


def _keys_of(proofs: list[Proof]) -> frozenset[bytes]:
    return frozenset(each.cka_id for each in proofs)


def _answers_again(session: Session, proof: Proof, handle: int | None) -> bool:
    try:
        return handle is not None and mac_by_handle(session, handle, proof.challenge) == proof.response
    except PKCS11Error:
        return False


def mac_by_handle(session: Session, handle: int, message: bytes) -> bytes:
    """Return the HMAC-SHA-256 by a key whose handle is known. PKCS11Error is not translated."""
    made: bytes = HandleKey(session, handle, KeyType.GENERIC_SECRET).sign(message, mechanism=Mechanism.SHA256_HMAC)
    return made
