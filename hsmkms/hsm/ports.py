"""Interfaces of a device to the service: narrow ones, one for each kind of work that is done on a token.

The classes that do the work (ciphers.py, keypairs.py, imported.py, key_objects.py, own_objects.py and
session/connection.py) say more about each procedure: shapes, errors, and what is repeated after a lost session.
"""

from collections.abc import Callable, Container, Mapping
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from hsmkms.call_stats import Tally
from hsmkms.errors import TokenUnavailableError
from hsmkms.hsm.crypto.data_key_pairs import DataKeyPair
from hsmkms.hsm.crypto.kem import Encapsulated
from hsmkms.hsm.imports.unwrapping import WrappedMaterial
from hsmkms.hsm.objects.backing_keys import SYMMETRIC, Kind
from hsmkms.hsm.objects.objects import TokenObject
from hsmkms.hsm.probing.mechanism_info import MechanismInfo
from hsmkms.hsm.probing.profile import TokenProfile
from hsmkms.hsm.session.cryptoki import TokenLimits
from hsmkms.hsm.session.group_login import MemberState
from hsmkms.hsm.session.identity import Identity, Listener
from hsmkms.hsm.session.pool import PoolUse
from hsmkms.model.cipher_format import CipherFormat
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, MacAlgorithm, SigningAlgorithm, WrappingAlgorithm
from hsmkms.model.permit import Permit
from hsmkms.model.token_check import CheckReport

__all__ = ["Device", "Encrypting", "Keys", "Login", "MechanismInfo", "Own", "Signing", "Unwrapping"]


def uncounted() -> None:
    """Count nothing: for keys whose encryptions have no limit."""


class Encrypting(Protocol):
    """Symmetric encryption under backing keys, and random bytes."""

    usable_formats: frozenset[CipherFormat]
    """The ciphertext formats in which the token can encrypt; it may have lost that of older key material."""

    def encrypt(
        self, permit: Permit, cka_id: bytes, plaintext: bytes, aad: bytes, count: Callable[[], None] = uncounted
    ) -> tuple[bytes, bytes]:
        """Encrypt under a backing key in its format; return (IV, ciphertext || tag)."""

    def decrypt(self, permit: Permit, cka_id: bytes, iv: bytes, body: bytes, aad: bytes) -> bytes:
        """Decrypt ciphertext || tag; RejectedDataError for everything that was not made by this key with this AAD."""

    def random(self, permit: Permit, count: int) -> bytes:
        """Return ``count`` random bytes of the token's generator."""


class Signing(Protocol):
    """Operations with key pairs and HMAC keys."""

    def sign(self, permit: Permit, cka_id: bytes, algorithm: SigningAlgorithm, data: bytes) -> bytes:
        """Sign a digest, or a message if the algorithm hashes it itself; return the signature in the API's encoding."""

    def verify(
        self,
        permit: Permit,
        cka_id: bytes,
        kind: Kind,
        algorithm: SigningAlgorithm,
        data: bytes,
        signature: bytes,
        *,
        external_mu: bool = False,
    ) -> bool:
        """Return whether the signature is right; checked here if this process has the algorithm, else on the token."""

    def public_key(self, permit: Permit, cka_id: bytes, kind: Kind) -> bytes:
        """Return a key pair's public half as DER SubjectPublicKeyInfo, proven to belong to the private half."""

    def encrypt_oaep(
        self, permit: Permit, cka_id: bytes, spec: KeySpec, algorithm: EncryptionAlgorithm, plaintext: bytes
    ) -> bytes:
        """Encrypt by RSAES-OAEP with a public half, in this process. The caller has checked that the plaintext fits."""

    def decrypt_oaep(
        self, permit: Permit, cka_id: bytes, spec: KeySpec, algorithm: EncryptionAlgorithm, block: bytes
    ) -> bytes:
        """Decrypt by RSAES-OAEP with a private half; the same RejectedDataError for every fault of the block."""

    def agree(self, permit: Permit, cka_id: bytes, spec: KeySpec, peer: ec.EllipticCurvePublicKey) -> bytes:
        """Return the raw secret shared with a public key of the same curve (``peer_key`` parses one)."""

    def encapsulate(self, permit: Permit, cka_id: bytes, kind: Kind) -> Encapsulated:
        """Return a new shared secret and its ciphertext: made in this process if it supports the parameter set."""

    def decapsulate(self, permit: Permit, cka_id: bytes, ciphertext: bytes) -> bytes:
        """Return the shared secret of a ciphertext, always 32 bytes. The caller has checked the ciphertext's length."""

    def generate_mac(self, permit: Permit, cka_id: bytes, algorithm: MacAlgorithm, message: bytes) -> bytes:
        """Return the HMAC of the message in full length."""

    def data_key_pair(self, permit: Permit, spec: KeySpec) -> DataKeyPair:
        """Make a key pair for the caller, whose private key comes into this process. Nothing stays on the token."""

    def check_data_key_pair(self, spec: KeySpec) -> None:
        """Raise UnsupportedOperationException, naming what can be had, if the token makes no pairs of that spec."""

    def check_signing(self, algorithm: SigningAlgorithm) -> None:
        """Raise UnsupportedOperationException, naming what can be had instead, if the token cannot do the algorithm."""

    def peer_key(self, spec: KeySpec, info: bytes) -> ec.EllipticCurvePublicKey:
        """Parse a DER SubjectPublicKeyInfo with a key on the spec's curve; RejectedDataError for anything else."""


class Unwrapping(Protocol):
    """Import of key material."""

    def wrapping_algorithms(self) -> tuple[WrappingAlgorithm, ...]:
        """Return the usable wrapping algorithms: those that run on the token first, each group strongest first."""

    def refusal(self) -> str:
        """Return why the token imports nothing; empty if it is not refused."""

    def quirks(self) -> tuple[str, ...]:
        """Return sentences for people about what is done otherwise with imported material on this token."""

    def try_refused_material(self) -> None:
        """Record whether the module survives what it cannot unwrap; tried in a process of its own if not known."""

    def record_checks(self, report: CheckReport) -> None:
        """Record what ``token-check`` has found about material that cannot be unwrapped."""

    def check_import(self, kind: Kind) -> None:
        """Raise UnsupportedOperationException if nothing shows that such keys can be imported into this token."""

    def on_device(self, algorithm: WrappingAlgorithm) -> bool:
        """True if no byte of the material passes through this process."""

    def generate_wrapping_key(self, permit: Permit, cka_id: bytes, label: str, bits: int) -> bytes:
        """Generate an RSA key pair for one import; return its public half (SubjectPublicKeyInfo). Never repeated."""

    def destroy_wrapping_key(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy the private half of a wrapping key; False if it was not there."""

    def fingerprints(
        self, permit: Permit, wrapped: WrappedMaterial, key_id: str, kind: Kind = SYMMETRIC
    ) -> dict[str, bytes]:
        """Return fingerprints of the material for ``key_id``, keyed by their method, the preferred one first."""

    def unwrap_backing_key(
        self, permit: Permit, wrapped: WrappedMaterial, cka_id: bytes, label: str, kind: Kind = SYMMETRIC
    ) -> None:
        """Unwrap material into a backing key, once it is proven to be of the kind. Never repeated."""


class Keys(Protocol):
    """Key objects: generate, inspect and destroy them."""

    def generate_backing_key(self, permit: Permit, cka_id: bytes, label: str, kind: Kind = SYMMETRIC) -> None:
        """Generate a backing key on the token, verified by reading its attributes back. Never repeated."""

    def destroy(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy a key on the token, with both halves; False if it was not there. danger: nothing brings it back."""

    def destroy_secret(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy a secret key or a private half alone; False if it was not there. danger: nothing brings it back."""

    def require_replicated(self, cka_id: bytes) -> None:
        """Wait until every member of an HA group that could take over has the key; TokenUnavailableError if not."""

    def holds(self, cka_id: bytes) -> bool:
        """True if a secret key or a private half with this CKA_ID is on the token now."""

    def is_in_parts(self, cka_id: bytes) -> bool:
        """True if only parts of a key with this CKA_ID are on the token: one of two secret keys, or a public half."""

    def is_labelled(self, cka_id: bytes, label: str) -> bool:
        """Return True if the secret key has that label; ObjectLostError if it is not on the token."""

    def inventory(self, witness: bytes) -> list[TokenObject]:
        """List all key objects on the token, foreign ones too."""

    def attest(
        self, cka_id: bytes, kind: Kind = SYMMETRIC, *, imported: bool = False
    ) -> tuple[dict[str, Any], list[str]]:
        """Return a backing key's attributes as the token reports them now, and their differences from the template.

        The differences include those of the HMAC key of a backing key for AES-CBC.
        """

    def tolerated(
        self, attributes: Mapping[str, Any], kind: Kind = SYMMETRIC, *, imported: bool = False, public: bool = False
    ) -> list[str]:
        """Describe the attributes read by ``attest`` that are not as ordered, but are a known quirk of the token."""

    def tolerated_of_mac_key(self, attributes: Mapping[str, Any]) -> list[str]:
        """Describe the same of the attributes read by ``attest_mac_key``."""

    def identify(self, cka_id: bytes) -> Kind | None:
        """Return spec and usage of a generated key, from its attributes; None if they fit no kind, or several."""

    def attest_mac_key(self, cka_id: bytes) -> dict[str, Any]:
        """Return the attributes of the HMAC key of a backing key for AES-CBC; empty for other backing keys."""

    def attest_public(self, cka_id: bytes, kind: Kind) -> tuple[dict[str, Any], list[str]]:
        """Return a public half's attributes as the token reports them now, and its faults; empty for a secret key."""

    def check_kind(self, kind: Kind) -> None:
        """Raise UnsupportedOperationException, naming what can be had, if the token cannot make and use such keys."""


class Own(Protocol):
    """The installation's own objects on the token."""

    def generate_mac_key(self, permit: Permit, cka_id: bytes, label: str) -> None:
        """Generate an installation key (HMAC-SHA-256) on the token, verified by reading its attributes back."""

    def mac(self, permit: Permit, cka_id: bytes, message: bytes) -> bytes:
        """Return the HMAC-SHA-256 of ``message`` under an installation key: 32 bytes."""

    def notes(self, permit: Permit, prefix: str) -> dict[str, bytes]:
        """Return the installation's data objects whose label begins with ``prefix``, keyed by label."""

    def holds_note(self, permit: Permit, label: str, value: bytes) -> bool:
        """True if a note that was read before is on the token now, with that value. One call; False proves nothing."""

    def replace_note(self, permit: Permit, prefix: str, label: str, value: bytes) -> None:
        """Store ``value`` in place of all notes with that prefix; UnsupportedOperationException if the token cannot."""

    def remove_notes(self, permit: Permit, prefix: str) -> None:
        """Destroy all of the installation's data objects with that prefix."""


class Login(Protocol):
    """The connection to the token as a whole: its login, its sessions, and what it reports of itself."""

    calls: Tally
    free: Callable[[], bool]
    """Returns True if a call that begins now would not wait for a session."""

    def require(self, identity: Identity, logged_in: Listener) -> None:
        """Require that the token proves this identity now and after each later login."""

    def release_identity(self, identity: Identity, logged_in: Listener) -> None:
        """Stop requiring an identity, whose opener closes the token."""

    def announce(self) -> None:
        """Have the listeners called as after a login: soon, and before a key is created on the token."""

    @property
    def members(self) -> frozenset[str]:
        """Serials of the token's HA group, as the settings name them; without a group only its own."""

    @property
    def member(self) -> str | None:
        """Serial of the member of the HA group that is in use; None without a group."""

    def member_states(self) -> list[MemberState]:
        """Return the state of each member of the HA group; none without a group."""

    def unreplicated(self) -> dict[str, list[bytes]]:
        """Return the objects that members could not be asked for when they were made, by the member's serial."""

    def check_unreplicated(self, read_needed: Callable[[], Container[bytes]]) -> None:
        """Ask each member for its recorded objects; those that it has, or that none needs or has, leave the record."""

    def limits(self) -> TokenLimits | None:
        """Return session counts and memory as the token reports them now."""

    def sessions(self) -> PoolUse:
        """Return a snapshot of the session pool."""

    def ready(self) -> None:
        """Check that the token answers and the login is valid, restoring it if needed, before work that needs both."""

    def change_pin(self, permit: Permit, old: str, new: str) -> None:
        """Change the user's PIN; logins go on. PinError if the token refuses either. Never repeated."""

    def pin_was_changed(self) -> bool:
        """True if the PIN was changed after the module was loaded, which may still compare with the old one."""

    def checks(self, *, needed_only: bool = False) -> CheckReport:
        """Try everything that hsmkms needs of a token, in a process with a login of its own; nothing is left on it.

        ``needed_only``: leave out what a token can lack.
        """

    def mechanisms(self) -> list[MechanismInfo]:
        """Return the token's mechanisms with the key sizes and uses that it reports."""

    def make_nothing(self, fault: TokenUnavailableError | None) -> None:
        """Refuse to create keys on the token with this error, since it may disappear again; None: allow it again."""

    def ready_to_make(self) -> None:
        """Check that the token answers and that keys may be created on it, before the intent row is written."""


class Device(Protocol):
    """A token of the installation, in parts; one that cannot be reached has none, and raises its fault instead."""

    @property
    def profile(self) -> TokenProfile:
        """What the token can do, and its label and serial."""

    @property
    def connection(self) -> Login:
        """The token as a whole."""

    @property
    def ciphers(self) -> Encrypting:
        """Symmetric encryption."""

    @property
    def pairs(self) -> Signing:
        """Key pairs and HMAC keys."""

    @property
    def imports(self) -> Unwrapping:
        """Imported key material."""

    @property
    def keys(self) -> Keys:
        """Key objects."""

    @property
    def own(self) -> Own:
        """The installation's own objects."""

    def close(self) -> None:
        """Release the device."""
