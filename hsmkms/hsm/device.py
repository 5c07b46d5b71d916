"""The device: what hsmkms does on a token.

Every procedure that uses, makes or destroys an object asks for a ``Permit`` first. Sessions, and what happens
after one is lost, are the connection's (connection.py).
"""

import os
import threading
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import (
    ObjectLostError,
    SessionLostError,
    UnsupportedOperationException,
)
from hsmkms.hsm.allowed_acts import (
    MAY_AUTHENTICATE,
    MAY_CHANGE_PIN,
    MAY_DECRYPT,
    MAY_DESTROY,
    MAY_DESTROY_WRAPPING_KEY,
    MAY_DRAW_RANDOM,
    MAY_ENCRYPT,
    MAY_GENERATE,
    MAY_GENERATE_WRAPPING_KEY,
    MAY_INITIALISE,
    MAY_SEAL,
    MAY_UNWRAP,
)
from hsmkms.hsm.crypto.decrypt_faults import explain_refusal
from hsmkms.hsm.crypto.gcm import open_sealed, seal
from hsmkms.hsm.crypto.iv import IvSource
from hsmkms.hsm.crypto.pairs import generate_pair as generate_backing_pair
from hsmkms.hsm.crypto.token_iv import IvOrigin, seal_by_token
from hsmkms.hsm.faults import OBJECT_LOST, UNSUPPORTED, WRAPPING_KEY_LOST, translated
from hsmkms.hsm.imports.importers import Importer, importer
from hsmkms.hsm.imports.probe import probe_import, probe_kinds
from hsmkms.hsm.imports.unwrapping import FINGERPRINT_LABEL, Unwrapping, WrappedMaterial, tolerated
from hsmkms.hsm.imports.wrapping import ImportProfile, generate_pair
from hsmkms.hsm.keypairs import KeyPairs
from hsmkms.hsm.objects.attributes import HOST_WRAPPING_KEY, INSTALLATION_MAC_KEY, WRAPPING_KEY, SecretTemplate
from hsmkms.hsm.objects.backing_keys import SYMMETRIC, Kind, PairTemplate, template_of
from hsmkms.hsm.objects.data_objects import keep_note, read_notes, remove_notes
from hsmkms.hsm.objects.handle_keys import BorrowedKey
from hsmkms.hsm.objects.key_specs import KEY_FACTS, subject_public_key_info
from hsmkms.hsm.objects.objects import MAY_BE_SILENT, TokenObject, attest, generate, list_keys
from hsmkms.hsm.probing.mechanism_info import MechanismInfo, mechanism_info
from hsmkms.hsm.probing.profile import TokenProfile, mechanism_name, probe
from hsmkms.hsm.session.connection import DeviceSettings
from hsmkms.hsm.session.login import PinReader, set_pin
from hsmkms.hsm.session.module import Module
from hsmkms.hsm.session.registry import OpenDevices
from hsmkms.hsm.token_check import Check, run_checks
from hsmkms.model.enums import WrappingAlgorithm
from hsmkms.model.permit import Permit

__all__ = ["Device", "DeviceSettings", "MechanismInfo"]


def _uncounted() -> None:
    """For keys whose encryptions nobody counts."""


class Device(KeyPairs):
    """A logged-in token. Thread-safe; of no use in a forked child. Open with ``Device.open``."""

    def __init__(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool = False
    ) -> None:
        super().__init__(settings, module, read_pin, accept_final_try=accept_final_try)
        self._ivs = IvSource()
        self._labels: dict[bytes, str] = {}
        self._probing = threading.Lock()
        self._imports: ImportProfile | None = None
        self._kinds: ImportProfile | None = None
        try:
            with self._pool.session() as session:
                self.profile: TokenProfile = probe(self._token, session, module.description)
        except BaseException:
            self._close_sessions()
            raise

    @classmethod
    def open(cls, settings: DeviceSettings, read_pin: PinReader, *, accept_final_try: bool = False) -> "Device":
        """Load the module, choose the token, log in once, and probe what it can do.

        A token that this process has open already is shared: the login state is one for the whole process.
        ``accept_final_try``: try the PIN even if one more wrong one would lock the token.
        Raises ModuleError, TokenNotFoundError, PinError, TokenUnfitError or TokenUnavailableError.
        """
        return _open_devices.acquire(settings, read_pin, accept_final_try=accept_final_try)

    def close(self) -> None:
        """Give the device back; its last user closes the sessions, logs out and finalises the module."""
        _open_devices.release(self)

    # -- what an operation of the API does on the token ---------------------------------------------------------

    def encrypt(
        self, permit: Permit, cka_id: bytes, plaintext: bytes, aad: bytes, count: Callable[[], None] = _uncounted
    ) -> tuple[bytes, bytes]:
        """AES-256-GCM under a backing key: returns (96-bit IV, ciphertext || 128-bit tag).

        The IV comes from the token's random generator, or is the one that the token chose by itself.
        ``count`` is called before each encryption on the token, so also before a repeated one.
        """
        permit.require(MAY_ENCRYPT, cka_id)
        origin = self.profile.iv_origin

        def attempt(session: Session, handle: int) -> tuple[bytes, bytes]:
            count()
            if origin is not IvOrigin.CALLER:
                return seal_by_token(session, handle, origin, plaintext, aad)
            iv = self._ivs.next(session)
            return iv, seal(session, handle, iv, plaintext, aad)

        return self._use(cka_id, attempt, "encrypt")

    def decrypt(self, permit: Permit, cka_id: bytes, iv: bytes, body: bytes, aad: bytes) -> bytes:
        """Open ciphertext || tag; RejectedDataError for everything that was not made by this key with this AAD."""
        permit.require(MAY_DECRYPT, cka_id)

        def attempt(session: Session, handle: int) -> bytes:
            try:
                return open_sealed(session, handle, iv, body, aad)
            except PKCS11Error as exc:
                raise explain_refusal(exc, session, handle, self.profile.iv_origin) from exc

        return self._use(cka_id, attempt, "decrypt")

    def random(self, permit: Permit, count: int) -> bytes:
        """``count`` random bytes of the token's generator."""
        permit.require(MAY_DRAW_RANDOM)
        return self._repeatable(lambda session: session.generate_random(count * 8), "random")

    def generate_backing_key(self, permit: Permit, cka_id: bytes, label: str, kind: Kind = SYMMETRIC) -> None:
        """Make a backing key on the token, verified by reading its attributes back. Never repeated.

        UnsupportedOperationException if the token makes none of that kind.
        """
        permit.require(MAY_GENERATE, cka_id)
        template = template_of(*kind)
        if template is None:
            raise UnsupportedOperationException(UNSUPPORTED)
        if isinstance(template, PairTemplate):
            pair = template
            self._keep(cka_id, lambda session: generate_backing_pair(session, pair, cka_id, label))
        else:
            self._generate(template, cka_id, label)

    # -- importing key material -------------------------------------------------------------------------------------

    def wrapping_algorithms(self) -> tuple[WrappingAlgorithm, ...]:
        """What key material can be imported with: what the token does by itself first, of that the strongest first."""
        return self._import_profile().algorithms()

    def check_import(self, kind: Kind) -> None:
        """Raise UnsupportedOperationException if nothing shows that such keys can be imported into this token."""
        self.check_kind(kind)
        if not self._import_kinds().imports(KEY_FACTS[kind[0]]):
            raise UnsupportedOperationException(
                f"This token cannot import keys of KeySpec {kind[0]}: create the key with Origin AWS_KMS, "
                "so that the token generates it."
            )

    def on_device(self, algorithm: WrappingAlgorithm) -> bool:
        """True if no byte of the material passes through this process."""
        return self._import_profile().on_device(algorithm)

    def generate_wrapping_key(self, permit: Permit, cka_id: bytes, label: str, bits: int) -> bytes:
        """Make an RSA key pair for one import; its public half as DER SubjectPublicKeyInfo. Never repeated.

        The private half stays, verified by reading its attributes back; it can do no more than unwrap.
        """
        permit.require(MAY_GENERATE_WRAPPING_KEY, cka_id)
        template = HOST_WRAPPING_KEY if self._import_profile().raw_rsa else WRAPPING_KEY

        def make(session: Session) -> RSAPublicKey:
            made = generate_pair(session, template, bits, cka_id, label)
            self._require_identity(session)
            return made

        with self._making():
            made = self._once(make)
        return subject_public_key_info(made)

    def destroy_wrapping_key(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy the private half of a wrapping key; False if it was not there."""
        permit.require(MAY_DESTROY_WRAPPING_KEY, cka_id)
        return self._destroy(cka_id, ObjectClass.PRIVATE_KEY)

    def fingerprints(
        self, permit: Permit, wrapped: WrappedMaterial, key_id: str, kind: Kind = SYMMETRIC
    ) -> dict[str, bytes]:
        """What tells the material of ``key_id`` from any other, by the name of the way, the preferred one first.

        Of secret keys what PRFs of the token make of the key's id, of private keys their public key.
        RejectedDataError if the wrapping key cannot open the material, RejectedMaterialError if it is not of the kind
        (length, curve, modulus), UnsupportedOperationException if the token cannot do the algorithm, ObjectLostError
        if the wrapping key is gone. Session copies do it: nothing stays on the token.
        """
        permit.require(MAY_UNWRAP, wrapped.wrapping_key)
        profile = self._profile_for(wrapped.algorithm)
        message = FINGERPRINT_LABEL + key_id.encode("ascii")

        def attempt(session: Session) -> dict[str, bytes]:
            return self._unwrapping(session, wrapped, profile, kind).fingerprints(wrapped.ciphertext, message)

        return self._repeatable(attempt)

    def unwrap_backing_key(
        self, permit: Permit, wrapped: WrappedMaterial, cka_id: bytes, label: str, kind: Kind = SYMMETRIC
    ) -> None:
        """Unwrap material into a backing key, once it is proven to be of the kind. Never repeated.

        A key pair gets its public half beside it. Verified by reading the attributes back. Errors as of
        ``fingerprints``; after those nothing was made.
        """
        permit.require(MAY_UNWRAP, wrapped.wrapping_key)
        permit.require(MAY_UNWRAP, cka_id)
        profile = self._profile_for(wrapped.algorithm)

        def make(session: Session) -> Object:
            return self._unwrapping(session, wrapped, profile, kind).keep(wrapped.ciphertext, cka_id, label)

        self._keep(cka_id, make)

    # -- what the installation does for itself ------------------------------------------------------------------

    def generate_mac_key(self, permit: Permit, cka_id: bytes, label: str) -> None:
        """Make an installation key (HMAC-SHA-256) on the token, verified by reading its attributes back."""
        permit.require(MAY_INITIALISE, cka_id)
        self._generate(INSTALLATION_MAC_KEY, cka_id, label)

    def mac(self, permit: Permit, cka_id: bytes, message: bytes) -> bytes:
        """HMAC-SHA-256 of ``message`` by an installation key: 32 bytes."""
        permit.require(MAY_AUTHENTICATE, cka_id)

        def attempt(session: Session, handle: int) -> bytes:
            key = BorrowedKey(session, handle, KeyType.GENERIC_SECRET)
            done: bytes = key.sign(message, mechanism=Mechanism.SHA256_HMAC)
            return done

        return self._use(cka_id, attempt, "mac")

    def notes(self, permit: Permit, prefix: str) -> dict[str, bytes]:
        """The data objects of ours on the token whose label begins with ``prefix``, by label."""
        permit.require(MAY_SEAL)

        def attempt(session: Session) -> dict[str, bytes]:
            found = read_notes(session, prefix)
            if not found:
                self._require_identity(session)
            return found

        return self._repeatable(attempt)

    def replace_note(self, permit: Permit, prefix: str, label: str, value: bytes) -> None:
        """Keep ``value`` on the token in place of all with that prefix; UnsupportedOperationException if it cannot."""
        permit.require(MAY_SEAL)

        def attempt(session: Session) -> None:
            keep_note(session, prefix, label, value)
            self._require_identity(session)

        with self._turn():
            self._repeatable(attempt)

    def remove_notes(self, permit: Permit, prefix: str) -> None:
        """Destroy all data objects of ours with that prefix."""
        permit.require(MAY_SEAL)
        with self._turn():
            self._repeatable(lambda session: remove_notes(session, prefix))

    def change_pin(self, permit: Permit, old: str, new: str) -> None:
        """Change the user's PIN; logins go on. PinError if the token refuses either. Never repeated."""
        permit.require(MAY_CHANGE_PIN)

        def attempt(session: Session) -> None:
            self._require_identity(session)  # a stranger is not told the new one
            set_pin(session, old, new)

        self._never_repeated(attempt)

    def pin_was_changed(self) -> bool:
        """True if the PIN was changed after the module was loaded: it may go by the one before."""
        return self._gate.changed_since(self._module.loaded_at)

    def destroy(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy a key on the token, with both halves; False if it was not there. danger: nothing brings it back."""
        permit.require(MAY_DESTROY, cka_id)
        was_there = self.destroy_secret(permit, cka_id)  # the half that decides goes first
        self._publics.pop(cka_id, None)
        self._destroy(cka_id, ObjectClass.PUBLIC_KEY)
        return was_there

    def destroy_secret(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy a secret key or a private half alone; False if it was not there. danger: nothing brings it back.

        For the key by which the token is recognised: once that is gone, no search on it counts.
        """
        permit.require(MAY_DESTROY, cka_id)
        self._handles.forget(cka_id)
        self._labels.pop(cka_id, None)
        return self._destroy(cka_id, None)

    def holds(self, cka_id: bytes) -> bool:
        """True if a secret key or a private half with this CKA_ID is on the token now."""
        return self._repeatable(lambda session: self._find(session, cka_id) is not None, "find")

    def is_labelled(self, cka_id: bytes, label: str) -> bool:
        """True if the secret key is the one of that label; ObjectLostError if it is not on the token.

        It is looked for once, by whoever uses the key first: no label of ours can be changed on the token.
        """

        def attempt(session: Session) -> str:
            self._require_login(session)
            found = self._find(session, cka_id)
            if found is None:
                raise ObjectLostError(OBJECT_LOST)
            told: str = found[Attribute.LABEL]
            return told

        told = self._labels.get(cka_id)
        if told is None:
            told = self._labels[cka_id] = self._handles.label(cka_id) or self._repeatable(attempt, "find")
        return told == label[: self.profile.label_bytes]

    # -- what the token says of itself --------------------------------------------------------------------------

    def inventory(self, witness: bytes) -> list[TokenObject]:
        """All key objects on the token, foreign ones too.

        ``witness`` is the CKA_ID of an object that must be among them: a lost login shows an empty token without
        any error, so an inventory without it proves nothing and raises TokenUnavailableError.
        """

        def attempt(session: Session) -> list[TokenObject]:
            self._require_login(session)
            found = list(list_keys(session))
            if not any(each.cka_id == witness for each in found):
                self._require_identity(session)
                raise SessionLostError("the token does not show the installation's own key: nothing is known about it")
            return found

        return self._repeatable(attempt)

    def attest(
        self, cka_id: bytes, kind: Kind = SYMMETRIC, *, imported: bool = False
    ) -> tuple[dict[str, Any], list[str]]:
        """A backing key's attributes as the token reports them now, and how they differ from what was ordered.

        Of a pair it is the private half; ``attest_public`` tells of the other. ``imported``: its material came from
        elsewhere. Raises ObjectLostError if the key is not there.
        """
        template = template_of(*kind, imported=imported)
        if template is None:
            raise UnsupportedOperationException(UNSUPPORTED)
        tolerance = tolerated(self._import_profile()) if imported else MAY_BE_SILENT

        def attempt(session: Session) -> tuple[dict[str, Any], list[str]]:
            found = self._find(session, cka_id)
            if found is None:
                raise ObjectLostError(OBJECT_LOST)
            return attest(found, template.expected(b"", ""), tolerance)

        return self._repeatable(attempt)

    def checks(self) -> list[Check]:
        """Try everything that hsmkms needs of a token, step by step; nothing is left on it."""
        self._recover()
        with self._pool.session() as session:
            return run_checks(self._token, session)

    def mechanisms(self) -> list[MechanismInfo]:
        """The token's mechanisms with their key sizes and uses, as it tells them."""
        self._recover()
        with self._alone(), translated():
            slot = self._token.slot
            present = slot.get_mechanisms()
            told = [(mechanism_name(each), self._module.cryptoki.mechanism(slot.slot_id, each)) for each in present]
        return sorted((mechanism_info(name, info) for name, info in told), key=lambda each: each.name)

    def _forget_objects(self) -> None:
        super()._forget_objects()
        self._labels = {}

    def _generate(self, template: SecretTemplate, cka_id: bytes, label: str) -> None:
        self._keep(cka_id, lambda session: generate(session, template, cka_id, label))

    # -- what an import needs to know -------------------------------------------------------------------------------

    def _import_profile(self) -> ImportProfile:
        """What the token can do with imported material: tried out when somebody first asks."""
        self._guard.check()
        host_unwrap = self._settings.host_unwrap
        with self._probing:
            if self._imports is None:
                self._imports = self._repeatable(
                    lambda session: probe_import(self._token, session, host_unwrap=host_unwrap)
                )
            return self._imports

    def _import_kinds(self) -> ImportProfile:
        """The same, and what else than symmetric keys it imports: tried out when somebody makes such a key."""
        told = self._import_profile()
        with self._probing:
            if self._kinds is None:
                self._kinds = self._repeatable(lambda session: probe_kinds(self._token, session, told))
            return self._kinds

    def _profile_for(self, algorithm: WrappingAlgorithm) -> ImportProfile:
        profile = self._import_profile()
        possible = profile.algorithms()
        if algorithm not in possible:
            raise UnsupportedOperationException(
                f"this token cannot unwrap {algorithm}: it can do {', '.join(possible) or 'no wrapping algorithm'}"
            )
        return profile

    def _unwrapping(self, session: Session, wrapped: WrappedMaterial, profile: ImportProfile, kind: Kind) -> Importer:
        found = self._find(session, wrapped.wrapping_key, ObjectClass.PRIVATE_KEY)
        if found is None:
            raise ObjectLostError(WRAPPING_KEY_LOST)
        return importer(session, Unwrapping(session, found, profile, wrapped.algorithm), profile, kind)


_open_devices: OpenDevices[Device] = OpenDevices(Device)
os.register_at_fork(after_in_child=_open_devices.after_fork)
