"""The identity of a token: proven in the login session after every login, before any other session is lent.

Label, serial and PIN prove nothing: a token that was initialised again has them too. What an opener knows of the right
one (service/runtime/binding.py) is an ``Identity``; the connection asks it.
"""

from contextlib import suppress
from typing import Protocol

from msgspec import Struct
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import ObjectLostError
from hsmkms.hsm.allowed_acts import MAY_AUTHENTICATE
from hsmkms.hsm.faults import OBJECT_LOST, translated
from hsmkms.hsm.objects.handle_keys import BorrowedKey
from hsmkms.hsm.objects.objects import find, handle_of
from hsmkms.hsm.probing.profile import TokenProfile
from hsmkms.hsm.session.handles import HandleIndex
from hsmkms.model.permit import Permit


class Proof(Struct, frozen=True):
    """The challenge that a token has answered, and with which key."""

    cka_id: bytes
    challenge: bytes
    response: bytes


class Candidate:
    """A logged-in session of a token whose identity is not proven yet. It has of ``Device`` what a proof needs.

    ``profile``: that of the token as it was opened, with the label and the serial of the one that answers now.
    ``members``: the serials of the group that the token is of, as the settings name them; without a group its own.
    """

    def __init__(self, session: Session, profile: TokenProfile, members: frozenset[str]) -> None:
        self._session = session
        self.profile = profile
        self.members = members
        # What a device has in parts stands here together, under the same names.
        self.connection = self.keys = self.own = self
        self._found: dict[bytes, Object] = {}

    def mac(self, permit: Permit, cka_id: bytes, message: bytes) -> bytes:
        """HMAC-SHA-256 by an installation key; ObjectLostError if it is not on the token."""
        permit.require(MAY_AUTHENTICATE, cka_id)
        with translated():
            return mac_by_handle(self._session, self.handle(cka_id), message)

    def is_labelled(self, cka_id: bytes, label: str) -> bool:
        """True if the key has that label; ObjectLostError if it is not on the token."""
        with translated():
            told: str = self._object(cka_id)[Attribute.LABEL]
        return told == label[: self.profile.label_bytes]

    def handle(self, cka_id: bytes) -> int:
        """The handle of an installation key; ObjectLostError if it is not on the token."""
        return handle_of(self._object(cka_id))

    def _object(self, cka_id: bytes) -> Object:
        if cka_id not in self._found:
            found = find(self._session, ObjectClass.SECRET_KEY, cka_id)
            if found is None:
                raise ObjectLostError(OBJECT_LOST)
            self._found[cka_id] = found
        return self._found[cka_id]


class Identity(Protocol):
    """What an opener knows of the right token. It reads that anew each time, since other processes may change it."""

    def admit(self, serial: str) -> None:
        """Raise WrongTokenError if no PIN may be sent to the token of that serial."""

    def prove(self, candidate: Candidate) -> Proof:
        """Challenge a token; WrongTokenError if it is not the right one."""


class Identities:
    """The identities that the openers of a token require, and how it has proven them last. Thread-safe."""

    def __init__(self) -> None:
        self._required: list[Identity] = []
        self._proofs: list[Proof] = []

    def __bool__(self) -> bool:
        return bool(self._required)

    def add(self, identity: Identity) -> None:
        """Require one more."""
        self._required.append(identity)

    def remove(self, identity: Identity) -> None:
        """Require it no more."""
        with suppress(ValueError):
            self._required.remove(identity)
        self._proofs = []

    def admit(self, serial: str) -> None:
        """Raise WrongTokenError if no PIN may be sent to the token of that serial."""
        for each in list(self._required):
            each.admit(serial)

    def prove(self, candidate: Candidate, handles: HandleIndex) -> None:
        """Challenge a token, and remember where its keys are; WrongTokenError if it is not what everybody requires."""
        proofs = [each.prove(candidate) for each in list(self._required)]
        for each in proofs:
            handles.remember(each.cka_id, candidate.handle(each.cka_id))
        self._proofs = proofs

    def are_shown(self, session: Session, handles: HandleIndex) -> bool:
        """True if the keys that have answered the challenges give the same answers now. Quick; False says nothing."""
        proofs = self._proofs
        return bool(proofs) and all(_answers_again(session, each, handles.lookup(each.cka_id)) for each in proofs)


def _answers_again(session: Session, proof: Proof, handle: int | None) -> bool:
    try:
        return handle is not None and mac_by_handle(session, handle, proof.challenge) == proof.response
    except PKCS11Error:
        return False


def mac_by_handle(session: Session, handle: int, message: bytes) -> bytes:
    """HMAC-SHA-256 by a key whose handle is known. python-pkcs11's errors come out as they are."""
    made: bytes = BorrowedKey(session, handle, KeyType.GENERIC_SECRET).sign(message, mechanism=Mechanism.SHA256_HMAC)
    return made
