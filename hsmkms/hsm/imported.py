"""Import key material into a token: wrapping keys, and what they unwrap."""

from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11.constants import ObjectClass
from pkcs11.types import Object, Session

from hsmkms.errors import ObjectLostError, UnsupportedOperationException
from hsmkms.hsm.allowed_acts import MAY_DESTROY_WRAPPING_KEY, MAY_GENERATE_WRAPPING_KEY, MAY_UNWRAP
from hsmkms.hsm.faults import WRAPPING_KEY_LOST
from hsmkms.hsm.import_profiles import ImportProfiles
from hsmkms.hsm.imports.importers import Importer, importer
from hsmkms.hsm.imports.unwrapping import FINGERPRINT_LABEL, Unwrapping, WrappedMaterial
from hsmkms.hsm.imports.wrapping import ImportProfile, generate_pair
from hsmkms.hsm.key_objects import KeyObjects
from hsmkms.hsm.objects.attributes import HOST_WRAPPING_KEY, WRAPPING_KEY
from hsmkms.hsm.objects.backing_keys import SYMMETRIC, Kind
from hsmkms.hsm.objects.key_specs import KEY_FACTS, subject_public_key_info
from hsmkms.hsm.objects.objects import require_there
from hsmkms.hsm.session.connection import Connection
from hsmkms.hsm.session.identity import Shown
from hsmkms.model.cipher_format import CipherFormat
from hsmkms.model.enums import WrappingAlgorithm
from hsmkms.model.permit import Permit
from hsmkms.model.token_check import CheckReport

NO_SYMMETRIC_IMPORT: Final = (
    "This token has no AES-GCM, so symmetric keys use AES-CBC with HMAC. The HMAC key is generated on the token and is "
    "no part of imported key material: the same material, deleted and imported again, would not decrypt what it "
    "encrypted before. So no key material is imported for symmetric encryption keys: create the key with Origin "
    "AWS_KMS, so that the token generates it."
)


class Imports:
    """Wrapping keys, and what is unwrapped by them. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection, profiles: ImportProfiles, keys: KeyObjects) -> None:
        self._connection = connection
        self.profiles = profiles
        self._keys = keys

    def wrapping_algorithms(self) -> tuple[WrappingAlgorithm, ...]:
        """Return the usable wrapping algorithms: those that run on the token first, each group strongest first."""
        return self.profiles.symmetric().algorithms()

    def refusal(self) -> str:
        """Return why this token imports nothing, as a sentence without its end; empty if nothing is refused."""
        return self.profiles.symmetric().refusal

    def quirks(self) -> tuple[str, ...]:
        """Return sentences for people about what is done otherwise with imported material on this token."""
        return self.profiles.symmetric().quirks

    def try_refused_material(self) -> None:
        """Record whether the module survives what it cannot unwrap; tried in a process of its own if not known."""
        self.profiles.try_refused_material()

    def record_checks(self, report: CheckReport) -> None:
        """Record what ``token-check`` has found about material that cannot be unwrapped."""
        self.profiles.record_checks(report)

    def check_import(self, kind: Kind) -> None:
        """Raise UnsupportedOperationException if nothing shows that such keys can be imported into this token."""
        self._keys.check_kind(kind)
        if kind == SYMMETRIC:  # what else it needs is tried when the parameters for an import are requested
            self._check_format()
            return
        profile = self.profiles.every_kind()
        if not profile.imports(KEY_FACTS[kind[0]]):
            reason = f" ({profile.refusal})" if profile.refusal else ""
            raise UnsupportedOperationException(
                f"This token cannot import keys of KeySpec {kind[0]}{reason}: create the key with Origin AWS_KMS, "
                "so that the token generates it."
            )

    def _check_format(self) -> None:
        """Refuse symmetric material on a token without AES-GCM: the same bytes could not be imported again."""
        if self._connection.profile.cipher_format is not CipherFormat.AES_256_GCM:
            raise UnsupportedOperationException(NO_SYMMETRIC_IMPORT)

    def on_device(self, algorithm: WrappingAlgorithm) -> bool:
        """True if no byte of the material passes through this process."""
        return self.profiles.symmetric().on_device(algorithm)

    def generate_wrapping_key(self, permit: Permit, cka_id: bytes, label: str, bits: int) -> bytes:
        """Generate an RSA key pair for one import; return its public half (SubjectPublicKeyInfo). Never repeated.

        The private half stays, verified by reading its attributes back; it can do no more than unwrap.
        """
        permit.require(MAY_GENERATE_WRAPPING_KEY, cka_id)
        template = HOST_WRAPPING_KEY if self.profiles.symmetric().raw_rsa else WRAPPING_KEY
        support = self._connection.profile.attributes

        def make(session: Session) -> tuple[RSAPublicKey, Shown, int]:
            made = generate_pair(session, template, bits, cka_id, label, support)
            return made, self._connection.require_identity(session), self._connection.takeovers

        with self._connection.making() as shown:
            made, identity, takeovers = self._connection.once(make)
            shown.append(identity)
        self._connection.require_replicated((cka_id,), takeovers)
        return subject_public_key_info(made)

    def destroy_wrapping_key(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy the private half of a wrapping key; False if it was not there."""
        permit.require(MAY_DESTROY_WRAPPING_KEY, cka_id)
        return self._connection.destroy_object(cka_id, ObjectClass.PRIVATE_KEY)

    def fingerprints(
        self, permit: Permit, wrapped: WrappedMaterial, key_id: str, kind: Kind = SYMMETRIC
    ) -> dict[str, bytes]:
        """Return fingerprints of the material for ``key_id``, keyed by their method, the preferred one first.

        Of secret keys what PRFs of the token make of the key's id, of private keys their public key.
        RejectedDataError if the wrapping key cannot open the material, RejectedMaterialError if it is not of the kind
        (length, curve, modulus), UnsupportedOperationException if the token cannot do the algorithm, ObjectLostError
        if the wrapping key is gone. Session copies do it: nothing stays on the token.
        """
        permit.require(MAY_UNWRAP, wrapped.wrapping_key)
        if kind == SYMMETRIC:
            self._check_format()
        profile = self.profiles.of(wrapped.algorithm)
        message = FINGERPRINT_LABEL + key_id.encode("ascii")

        def attempt(session: Session) -> dict[str, bytes]:
            return self._unwrapping(session, wrapped, profile, kind).fingerprints(wrapped.ciphertext, message)

        return self._connection.repeatable(attempt)

    def unwrap_backing_key(
        self, permit: Permit, wrapped: WrappedMaterial, cka_id: bytes, label: str, kind: Kind = SYMMETRIC
    ) -> None:
        """Unwrap material into a backing key, once it is proven to be of the kind. Never repeated.

        A key pair gets its public half beside it. Verified by reading the attributes back. Errors as of
        ``fingerprints``; after those nothing was made.
        """
        permit.require(MAY_UNWRAP, wrapped.wrapping_key)
        permit.require(MAY_UNWRAP, cka_id)
        profile = self.profiles.of(wrapped.algorithm)

        def make(session: Session) -> Object:
            return self._unwrapping(session, wrapped, profile, kind).keep(wrapped.ciphertext, cka_id, label)

        self._connection.keep(cka_id, make, lambda _, made: require_there(made, cka_id))

    def _unwrapping(self, session: Session, wrapped: WrappedMaterial, profile: ImportProfile, kind: Kind) -> Importer:
        found = self._connection.find(session, wrapped.wrapping_key, ObjectClass.PRIVATE_KEY)
        if found is None:
            raise ObjectLostError(WRAPPING_KEY_LOST)
        return importer(session, Unwrapping(session, found, profile, wrapped.algorithm), profile, kind)
