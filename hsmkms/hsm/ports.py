"""What a device is to those who use it: narrow interfaces, one for each kind of work that is done on a token.

The classes that do the work (ciphers.py, keypairs.py, imported.py, key_objects.py, own_objects.py and
session/connection.py) say more about each procedure: shapes, errors, and what is repeated after a lost session.
"""

from collections.abc import Callable, Mapping
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
    """For keys whose encryptions nobody counts."""


class Encrypting(Protocol):
    """Symmetric encryption under backing keys, and random bytes."""

    usable_formats: frozenset[CipherFormat]
    """The ciphertext formats in which the token can encrypt; it may have lost that of older key material."""

    def encrypt(
        self, permit: Permit, cka_id: bytes, plaintext: bytes, aad: bytes, count: Callable[[], None] = uncounted
    ) -> tuple[bytes, bytes]:
        """Encrypt under a backing key in its format: returns (IV, ciphertext || tag)."""

    def decrypt(self, permit: Permit, cka_id: bytes, iv: bytes, body: bytes, aad: bytes) -> bytes:
        """Open ciphertext || tag; RejectedDataError for everything that was not made by this key with this AAD."""

    def random(self, permit: Permit, count: int) -> bytes:
        """``count`` random bytes of the token's generator."""


class Signing(Protocol):
    """What is done with key pairs and HMAC keys."""

    def sign(self, permit: Permit, cka_id: bytes, algorithm: SigningAlgorithm, data: bytes) -> bytes:
        """Sign a digest, or a message where the algorithm hashes by itself; the signature in the API's encoding."""

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
        """Whether the signature is that of the data: in this process if it knows the algorithm, else on the token."""

    def public_key(self, permit: Permit, cka_id: bytes, kind: Kind) -> bytes:
        """The public half of a key pair as DER SubjectPublicKeyInfo, proven to be that of the private half."""

    def encrypt_oaep(
        self, permit: Permit, cka_id: bytes, spec: KeySpec, algorithm: EncryptionAlgorithm, plaintext: bytes
    ) -> bytes:
        """RSAES-OAEP to a key pair's public half, in this process. The caller has checked that the plaintext fits."""

    def decrypt_oaep(
        self, permit: Permit, cka_id: bytes, spec: KeySpec, algorithm: EncryptionAlgorithm, block: bytes
    ) -> bytes:
        """RSAES-OAEP by a private half; RejectedDataError, one for all, for what is wrong with the block."""

    def agree(self, permit: Permit, cka_id: bytes, spec: KeySpec, peer: ec.EllipticCurvePublicKey) -> bytes:
        """The raw secret that a private half shares with a public key of the same curve (``peer_key`` reads one)."""

    def encapsulate(self, permit: Permit, cka_id: bytes, kind: Kind) -> Encapsulated:
        """A shared secret, and its ciphertext for the private half: in this process where it knows the parameters."""

    def decapsulate(self, permit: Permit, cka_id: bytes, ciphertext: bytes) -> bytes:
        """The shared secret of a ciphertext, always 32 bytes. The caller has checked the ciphertext's length."""

    def generate_mac(self, permit: Permit, cka_id: bytes, algorithm: MacAlgorithm, message: bytes) -> bytes:
        """HMAC in full length."""

    def data_key_pair(self, permit: Permit, spec: KeySpec) -> DataKeyPair:
        """Make a key pair for the caller, whose private key comes into this process. Nothing stays on the token."""

    def check_data_key_pair(self, spec: KeySpec) -> None:
        """Raise UnsupportedOperationException, naming what can be had, if the token makes no pairs of that spec."""

    def check_signing(self, algorithm: SigningAlgorithm) -> None:
        """Raise UnsupportedOperationException, naming what can be had instead, if the token cannot do the algorithm."""

    def peer_key(self, spec: KeySpec, info: bytes) -> ec.EllipticCurvePublicKey:
        """A public key (DER SubjectPublicKeyInfo) on the curve of that spec; RejectedDataError for anything else."""


class Unwrapping(Protocol):
    """Importing key material."""

    def wrapping_algorithms(self) -> tuple[WrappingAlgorithm, ...]:
        """What key material can be imported with: what the token does by itself first, of that the strongest first."""

    def quirks(self) -> tuple[str, ...]:
        """Sentences for people about what is done otherwise with imported material on this token."""

    def check_import(self, kind: Kind) -> None:
        """Raise UnsupportedOperationException if nothing shows that such keys can be imported into this token."""

    def on_device(self, algorithm: WrappingAlgorithm) -> bool:
        """True if no byte of the material passes through this process."""

    def generate_wrapping_key(self, permit: Permit, cka_id: bytes, label: str, bits: int) -> bytes:
        """Make an RSA key pair for one import; its public half as DER SubjectPublicKeyInfo. Never repeated."""

    def destroy_wrapping_key(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy the private half of a wrapping key; False if it was not there."""

    def fingerprints(
        self, permit: Permit, wrapped: WrappedMaterial, key_id: str, kind: Kind = SYMMETRIC
    ) -> dict[str, bytes]:
        """What tells the material of ``key_id`` from any other, by the name of the way, the preferred one first."""

    def unwrap_backing_key(
        self, permit: Permit, wrapped: WrappedMaterial, cka_id: bytes, label: str, kind: Kind = SYMMETRIC
    ) -> None:
        """Unwrap material into a backing key, once it is proven to be of the kind. Never repeated."""


class Keys(Protocol):
    """The key objects: making, looking at and destroying them."""

    def generate_backing_key(self, permit: Permit, cka_id: bytes, label: str, kind: Kind = SYMMETRIC) -> None:
        """Make a backing key on the token, verified by reading its attributes back. Never repeated."""

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
        """True if the secret key is the one of that label; ObjectLostError if it is not on the token."""

    def inventory(self, witness: bytes) -> list[TokenObject]:
        """All key objects on the token, foreign ones too."""

    def attest(
        self, cka_id: bytes, kind: Kind = SYMMETRIC, *, imported: bool = False
    ) -> tuple[dict[str, Any], list[str]]:
        """A backing key's attributes as the token reports them now, and how they differ from what was ordered.

        The differences include those of the HMAC key of a backing key for AES-CBC.
        """

    def tolerated(
        self, attributes: Mapping[str, Any], kind: Kind = SYMMETRIC, *, imported: bool = False, public: bool = False
    ) -> list[str]:
        """What of the attributes that ``attest`` read is not as ordered, and is a known quirk of the token."""

    def tolerated_of_mac_key(self, attributes: Mapping[str, Any]) -> list[str]:
        """The same of the attributes that ``attest_mac_key`` read."""

    def identify(self, cka_id: bytes) -> Kind | None:
        """Spec and usage of a generated key, as the object tells about itself; None if it is like none of them."""

    def attest_mac_key(self, cka_id: bytes) -> dict[str, Any]:
        """The HMAC key of a backing key for AES-CBC as the token reports it now; empty for other backing keys."""

    def attest_public(self, cka_id: bytes, kind: Kind) -> tuple[dict[str, Any], list[str]]:
        """A pair's public half as the token reports it now, and what is wrong with it; nothing for a secret key."""

    def check_kind(self, kind: Kind) -> None:
        """Raise UnsupportedOperationException, naming what can be had, if the token cannot make and use such keys."""


class Own(Protocol):
    """What the installation keeps on the token for itself."""

    def generate_mac_key(self, permit: Permit, cka_id: bytes, label: str) -> None:
        """Make an installation key (HMAC-SHA-256) on the token, verified by reading its attributes back."""

    def mac(self, permit: Permit, cka_id: bytes, message: bytes) -> bytes:
        """HMAC-SHA-256 of ``message`` by an installation key: 32 bytes."""

    def notes(self, permit: Permit, prefix: str) -> dict[str, bytes]:
        """The installation's data objects on the token whose label begins with ``prefix``, by label."""

    def holds_note(self, permit: Permit, label: str, value: bytes) -> bool:
        """True if a note that was read before is on the token now, with that value. One call; False proves nothing."""

    def replace_note(self, permit: Permit, prefix: str, label: str, value: bytes) -> None:
        """Keep ``value`` on the token in place of all with that prefix; UnsupportedOperationException if it cannot."""

    def remove_notes(self, permit: Permit, prefix: str) -> None:
        """Destroy all of the installation's data objects with that prefix."""


class Login(Protocol):
    """The connection to the token as a whole: its login, its sessions, what it tells of itself."""

    calls: Tally
    free: Callable[[], bool]
    """True if a call that begins now need not wait for a session."""

    def require(self, identity: Identity, logged_in: Listener) -> None:
        """Use the token only as long as it proves that identity: now, and after each login from now on."""

    def release_identity(self, identity: Identity, logged_in: Listener) -> None:
        """Ask no more for an identity that was required: its opener closes the token."""

    def announce(self) -> None:
        """Have the listeners called as after a login: soon, and before a key is made on the token."""

    @property
    def members(self) -> frozenset[str]:
        """The serials of the group that the token is of, as the settings name them; without a group its own."""

    @property
    def member(self) -> str | None:
        """Serial of the member of the HA group that is in use; None without a group."""

    def member_states(self) -> list[MemberState]:
        """State of each member of the HA group; none without a group."""

    def limits(self) -> TokenLimits | None:
        """Session counts and memory as the token tells them now."""

    def sessions(self) -> PoolUse:
        """How the sessions of the pool are used now."""

    def ready(self) -> None:
        """Make sure that the token answers and that the login holds, before something is begun that needs both."""

    def change_pin(self, permit: Permit, old: str, new: str) -> None:
        """Change the user's PIN; logins go on. PinError if the token refuses either. Never repeated."""

    def pin_was_changed(self) -> bool:
        """True if the PIN was changed after the module was loaded: it may go by the one before."""

    def checks(self, *, needed_only: bool = False) -> CheckReport:
        """Try everything that hsmkms needs of a token, in a process with a login of its own; nothing is left on it.

        ``needed_only``: leave out what a token can lack.
        """

    def mechanisms(self) -> list[MechanismInfo]:
        """The token's mechanisms with their key sizes and uses, as it tells them."""

    def make_nothing(self, fault: TokenUnavailableError | None) -> None:
        """Make no key on the token from here on, since it may go again; None: make them again."""

    def ready_to_make(self) -> None:
        """Make sure that the token answers and that keys may be made on it, before the intent to make one is kept."""


class Device(Protocol):
    """A token of the installation, in parts; one that cannot be reached has none, and raises its fault instead."""

    @property
    def profile(self) -> TokenProfile:
        """What the token can do, and how it is called."""

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
        """What the installation keeps for itself."""

    def close(self) -> None:
        """Give the device back."""
