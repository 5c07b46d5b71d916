"""Unwrap imported key material on the token, so that it does not pass through this process.

Material is first unwrapped into session copies that can only sign: they prove that it has exactly 32 bytes and give its
fingerprint. RSA_AES_KEY_WRAP takes two steps, even where a token has one mechanism for both: OAEP unwraps an AES key
into a session object that can only unwrap, and that key unwraps the material.

Every fault of a ciphertext is one opaque RejectedDataError. Tokens report bad data with codes that may also mean that
the device is in trouble (SoftHSM: CKR_GENERAL_ERROR); then a sample of random bytes that this process wrapped in the
same way is unwrapped in the same session. If that works, the device is well and the data was at fault.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from msgspec import Struct
from pkcs11 import exceptions as ckr
from pkcs11.constants import Attribute, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import (
    RejectedDataError,
    RejectedMaterialError,
    TokenError,
    TokenUnfitError,
    UnsupportedOperationException,
)
from hsmkms.hsm.crypto.oaep_padding import relay
from hsmkms.hsm.crypto.oaep_params import Oaep, modulus_bytes
from hsmkms.hsm.crypto.token_iv import encrypt_sample
from hsmkms.hsm.faults import translate
from hsmkms.hsm.imports.hardening import (
    Hardening,
    copy_hardened,
    tighten,
    tolerated_of_kept_keys,
    tolerated_of_session_objects,
    unwrap_template,
)
from hsmkms.hsm.imports.wrapping import AES_CMAC, ALGORITHMS, MATERIAL_BYTES, ImportProfile, Lengths, Prf
from hsmkms.hsm.objects.attributes import HARDENED, IMPORTED_AES_256
from hsmkms.hsm.objects.copies import copies_of
from hsmkms.hsm.objects.handle_keys import HandleKey, HandleUnwrapper
from hsmkms.hsm.objects.key_specs import public_half
from hsmkms.hsm.objects.objects import differences, discard, handle_of, require_as_ordered
from hsmkms.hsm.objects.support import STANDARD, AttributeSupport, Copying, Tolerated
from hsmkms.key_wrapping import wrap
from hsmkms.model.enums import WrappingAlgorithm

CANNOT_OPEN: Final = (
    "the key material cannot be opened: wrap it again with the public key and the algorithm that came with the import "
    "token"
)
WRONG_LENGTH: Final = f"the key material must have exactly {MATERIAL_BYTES} bytes"
FINGERPRINT_LABEL: Final = b"hsmkms imported material v1\0"

_MIN_KEY_WRAP_BYTES: Final = 16
_HALF_BLOCK: Final = 8

_REFUSALS: Final = (
    ckr.WrappedKeyInvalid,
    ckr.WrappedKeyLenRange,
    ckr.EncryptedDataInvalid,
    ckr.EncryptedDataLenRange,
)
"""Codes by which C_UnwrapKey reports bad data and nothing else."""

_NOT_OF_THIS_LENGTH: Final = (ckr.KeySizeRange, ckr.MechanismInvalid)
"""Codes by which SoftHSM's HMAC and AES report a wrong key length. The mechanisms themselves are known to work."""

_AMBIGUOUS: Final = (
    ckr.GeneralError,
    ckr.FunctionFailed,
    ckr.DeviceError,
    ckr.ArgumentsBad,
    ckr.DataInvalid,
    ckr.DataLenRange,
    ckr.KeySizeRange,
    ckr.KeyTypeInconsistent,
    ckr.TemplateInconsistent,
    ckr.AttributeValueInvalid,
)
"""Codes that may mean the data or the device."""

_SESSION_COPY: Final[dict[Attribute, Any]] = {Attribute.TOKEN: False, **HARDENED}


class WrappedMaterial(Struct, frozen=True):
    """Wrapped material of one import: the wrapping key's CKA_ID, the algorithm, and the EncryptedKeyMaterial."""

    wrapping_key: bytes
    algorithm: WrappingAlgorithm
    ciphertext: bytes


class Source(NamedTuple):
    """A wrapped key, with the key and mechanism that unwrap it on the token, and how it becomes hardened there."""

    key: HandleUnwrapper
    mechanism: Mechanism
    parameters: Any
    ciphertext: bytes
    hardening: Hardening = Hardening.BY_TEMPLATE
    support: AttributeSupport = STANDARD

    def unwrap(
        self,
        key_type: KeyType,
        usage: MechanismFlag,
        cka_id: bytes = b"",
        label: str = "",
        object_class: ObjectClass = ObjectClass.SECRET_KEY,
    ) -> Object:
        """Unwrap into a token object if ``cka_id`` is given, else into a session object. Raises PKCS11Error."""
        by_template = self.hardening is Hardening.BY_TEMPLATE
        made: Object = self.key.unwrap_key(
            object_class,
            key_type,
            self.ciphertext,
            id=cka_id if by_template else b"",
            label=label if by_template else "",
            mechanism=self.mechanism,
            mechanism_param=self.parameters,
            store=by_template and bool(cka_id),
            capabilities=usage,
            template=unwrap_template(object_class, self.hardening, self.support),
        )
        if by_template:
            return made
        try:
            tighten(made)
        except PKCS11Error:
            discard(made)
            raise
        if not cka_id:
            return made
        return copy_hardened(
            made, self.hardening, self.support, {Attribute.TOKEN: True, Attribute.ID: cka_id, Attribute.LABEL: label}
        )


class Copies(NamedTuple):
    """Two session copies of the same material, the AES copy also as the object that it is."""

    generic: HandleKey
    aes: HandleKey
    aes_object: Object

    @property
    def aes_length(self) -> int | None:
        """The AES copy's length in bytes as the token reports it now, or None if it reports none."""
        return length_of(self.aes_object)

    def sign(self, prf: Prf, message: bytes) -> bytes:
        """Return the PRF's output for ``message`` under the material."""
        key = self.aes if prf.key_type is KeyType.AES else self.generic
        signed: bytes = key.sign(message, mechanism=prf.mechanism)
        return signed


class Unwrapping:
    """Unwraps with one wrapping key in one session by one algorithm.

    ``is_sample``: the data is known to be good. ``public``: the wrapping key's public half, if it was read already.
    """

    def __init__(
        self,
        session: Session,
        wrapping_key: Object,
        profile: ImportProfile,
        algorithm: WrappingAlgorithm,
        *,
        is_sample: bool = False,
        public: RSAPublicKey | None = None,
    ) -> None:
        self._session = session
        self._wrapping_key = wrapping_key
        self._profile = profile
        self._algorithm = algorithm
        self._is_sample = is_sample
        self._key = HandleUnwrapper(session, handle_of(wrapping_key), KeyType.RSA)
        self._public = public or public_half(wrapping_key)

    def fingerprints(self, ciphertext: bytes, message: bytes) -> dict[str, bytes]:
        """Return each PRF's output for ``message`` under the material, keyed by PRF name, the preferred one first."""
        with self.material(ciphertext) as source, self.proven(source) as copies:
            return {prf.name: copies.sign(prf, message) for prf in self._profile.prfs}

    def keep(self, ciphertext: bytes, cka_id: bytes, label: str) -> Object:
        """Create the backing key once the material's length is proven; read its attributes back and compare."""
        template = IMPORTED_AES_256
        with self.material(ciphertext) as source:
            with self.proven(source):
                pass
            # A refusal now is not caused by the data: the same data was unwrapped a moment ago.
            made = source.unwrap(KeyType.AES, template.capabilities, cka_id, label)
            require_as_ordered(made, unwrapped_differences(made, template.expected(cka_id, label), self._profile))
            return made

    @property
    def profile(self) -> ImportProfile:
        """What the token can do with imported material."""
        return self._profile

    def prove(self, ciphertext: bytes) -> None:
        """Raise RejectedMaterialError unless the material has exactly 32 bytes."""
        with self.material(ciphertext) as source, self.proven(source):
            pass

    @contextmanager
    def copies(self, ciphertext: bytes) -> Iterator[Copies]:
        """Yield session copies of material of any length, for the probe."""
        with self.material(ciphertext) as source, self._copies(source) as copies:
            yield copies

    def try_copy(self, ciphertext: bytes) -> None:
        """Make a session object as hardened as ``keep`` makes a token object by copying; TokenUnfitError if it is not.

        For the probe. PKCS11Error if the token refuses a step.
        """
        support, hardening = self._profile.attributes, self._profile.hardening
        with self.material(ciphertext) as source:
            made = source.unwrap(KeyType.GENERIC_SECRET, MechanismFlag.SIGN)
            copied = copy_hardened(made, hardening, support, {Attribute.TOKEN: False})
            try:
                wrong = differences(copied, _SESSION_COPY, tolerated_of_kept_keys(hardening, support))
                copies = copies_of(copied)
            finally:
                discard(copied)
        if wrong or (copies is Copying.READABLE and support.copies is not Copying.READABLE):
            raise TokenUnfitError(f"a copy of an imported key is not as ordered ({'; '.join(wrong) or copies})")

    # -- what opens what --------------------------------------------------------------------------------------------

    @contextmanager
    def material(self, ciphertext: bytes) -> Iterator[Source]:
        """Yield the material, still wrapped, with the key that unwraps it."""
        size, key_wrap = modulus_bytes(self._public), ALGORITHMS[self._algorithm].key_wrap
        block, rest = ciphertext[:size], ciphertext[size:]
        if len(block) < size or not _fits(rest, key_wrap=key_wrap):
            raise RejectedDataError(CANNOT_OPEN)
        source = self._oaep(block)
        if key_wrap:
            mechanism = self._profile.key_wrap
            if mechanism is None:
                raise UnsupportedOperationException(f"this token cannot unwrap {self._algorithm}: it has no AES-KWP")
            with self._wrapped_key(source) as key:
                yield self._source(key, mechanism, None, rest)
        else:
            yield source

    def _oaep(self, block: bytes) -> Source:
        oaep = ALGORITHMS[self._algorithm].oaep
        if oaep not in self._profile.oaep:
            block, oaep = self._through_host(block, oaep)
        return self._source(self._key, Mechanism.RSA_PKCS_OAEP, oaep.parameters, block)

    def _source(self, key: HandleUnwrapper, mechanism: Mechanism, parameters: Any, ciphertext: bytes) -> Source:  # noqa: ANN401 - as python-pkcs11 takes them
        profile = self._profile
        return Source(key, mechanism, parameters, ciphertext, profile.hardening, profile.attributes)

    def _through_host(self, block: bytes, foreign: Oaep) -> tuple[bytes, Oaep]:
        known = self._profile.oaep[0]
        refusal = RejectedDataError(CANNOT_OPEN)
        with self._explained(refusal):
            try:
                return relay(self._key, self._public, block, foreign, known), known
            except RejectedDataError as exc:
                raise refusal from exc

    @contextmanager
    def _wrapped_key(self, source: Source) -> Iterator[HandleUnwrapper]:
        """Yield the AES key of RSA_AES_KEY_WRAP; a key that is not AES-256 counts as damaged data."""
        try:
            with self.proven(source):
                pass
        except RejectedMaterialError as exc:
            raise RejectedDataError(CANNOT_OPEN) from exc
        with self.copy(source, KeyType.AES, MechanismFlag.UNWRAP, RejectedDataError(CANNOT_OPEN)) as made:
            yield HandleUnwrapper(self._session, handle_of(made), KeyType.AES)

    # -- session copies -----------------------------------------------------------------------------------------

    @contextmanager
    def proven(self, source: Source) -> Iterator[Copies]:
        """Yield session copies of the material. RejectedMaterialError unless it has exactly 32 bytes."""
        with self._copies(source) as copies:
            if self._profile.lengths is Lengths.HONEST:
                right = copies.aes_length == MATERIAL_BYTES
            else:
                right = self._tried(copies)
            if not right:
                raise RejectedMaterialError(WRONG_LENGTH)
            yield copies

    @contextmanager
    def _copies(self, source: Source) -> Iterator[Copies]:
        # Some tokens allow CKA_SIGN on AES keys only if they have a mechanism for it.
        usage = MechanismFlag.SIGN if AES_CMAC in self._profile.prfs else MechanismFlag.ENCRYPT
        wrong = RejectedMaterialError(WRONG_LENGTH)
        with self.opened(source) as generic, self.copy(source, KeyType.AES, usage, wrong) as aes:
            yield Copies(
                HandleKey(self._session, handle_of(generic), KeyType.GENERIC_SECRET),
                HandleKey(self._session, handle_of(aes), KeyType.AES),
                aes,
            )

    def opened(self, source: Source) -> AbstractContextManager[Object]:
        """Unwrap into a generic secret, which fits material of any kind and length; a refusal means damaged data."""
        return self.copy(source, KeyType.GENERIC_SECRET, MechanismFlag.SIGN, RejectedDataError(CANNOT_OPEN))

    @contextmanager
    def copy(
        self,
        source: Source,
        key_type: KeyType,
        usage: MechanismFlag,
        refusal: RejectedDataError | RejectedMaterialError,
        object_class: ObjectClass = ObjectClass.SECRET_KEY,
    ) -> Iterator[Object]:
        """Yield a session copy; raise ``refusal`` if the token refuses the material for it."""
        with self._explained(refusal):
            made = source.unwrap(key_type, usage, object_class=object_class)
        try:
            _require_harmless(made, self._profile)
            yield made
        finally:
            discard(made)

    def _tried(self, copies: Copies) -> bool:
        """True if both HMAC-SHA-256 (32 bytes or more) and AES (16, 24 or 32 bytes) accept the material."""
        with self._explained(RejectedMaterialError(WRONG_LENGTH)):
            try:
                copies.generic.sign(FINGERPRINT_LABEL, mechanism=Mechanism.SHA256_HMAC)
                if AES_CMAC in self._profile.prfs:
                    copies.aes.sign(FINGERPRINT_LABEL, mechanism=Mechanism.AES_CMAC)
                else:
                    encrypt_sample(self._session, copies.aes.handle)
            except _NOT_OF_THIS_LENGTH:
                return False
        return True

    # -- refusals ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _explained(self, refusal: TokenError) -> Iterator[None]:
        """Translate the token's errors: ``refusal`` if the data is bad, else the error of the code's own meaning."""
        try:
            yield
        except PKCS11Error as exc:
            if self._is_sample:
                raise
            if not isinstance(exc, (*_REFUSALS, *_AMBIGUOUS)):
                raise translate(exc) from exc
            if isinstance(exc, _AMBIGUOUS):
                self._open_sample()
            raise refusal from exc

    def _open_sample(self) -> None:
        """Unwrap a known-good sample; raise the device's error if that fails."""
        sample = Unwrapping(
            self._session, self._wrapping_key, self._profile, self._algorithm, is_sample=True, public=self._public
        )
        try:
            sample.prove(wrap(self._public, self._algorithm, os.urandom(MATERIAL_BYTES)))
        except PKCS11Error as exc:
            raise translate(exc) from exc
        except (RejectedDataError, RejectedMaterialError) as exc:
            raise TokenError("the token refuses to unwrap what is right: check it with `hsmkms token-check`") from exc


def tolerated(profile: ImportProfile) -> Tolerated:
    """Return what this token may report of an imported key besides what was ordered."""
    values = tolerated_of_kept_keys(profile.hardening, profile.attributes)
    if profile.lengths is Lengths.HONEST:
        return values
    return {**values, Attribute.VALUE_LEN: (None, 0)}  # the length was proven in another way


def unwrapped_differences(made: Object, expected: dict[Attribute, Any], profile: ImportProfile) -> list[str]:
    """Read an imported key back; return a phrase for each attribute that is not as ordered and not tolerated."""
    return differences(made, expected, tolerated(profile), profile.attributes.observer("imported keys"))


def _require_harmless(made: Object, profile: ImportProfile) -> None:
    """Raise TokenUnfitError if the token ignored an attribute of the session copy's template."""
    wrong = differences(made, _SESSION_COPY, tolerated_of_session_objects(profile.hardening, profile.attributes))
    if wrong:
        raise TokenUnfitError(f"the token made a session copy that is not as ordered ({'; '.join(wrong)})")


def _fits(rest: bytes, *, key_wrap: bool) -> bool:
    """Return whether the bytes after the RSA block can be AES-KWP; without key wrap they must be empty."""
    if key_wrap:
        return len(rest) >= _MIN_KEY_WRAP_BYTES and len(rest) % _HALF_BLOCK == 0
    return not rest


def length_of(made: Object) -> int | None:
    """Return a secret key's length in bytes as the token reports it, or None if it reports none."""
    try:
        length: int = made[Attribute.VALUE_LEN]
    except (PKCS11Error, IndexError, ValueError):
        return None
    return length
