"""Probe what a token can do with imported key material.

Generating an RSA key pair takes a tenth of a second or more, so this is not part of the probe at start: it runs when
the import profile is first needed. The probe wraps random bytes in this process and unwraps them on the token into
session objects; it leaves nothing behind.
"""

import hmac
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from msgspec.structs import replace
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session, Token

from hsmkms.errors import (
    HsmKmsError,
    RejectedDataError,
    RejectedMaterialError,
    SessionLostError,
    TokenUnfitError,
)
from hsmkms.hsm.crypto.data_key_pairs import PrivateKey as OwnPrivateKey
from hsmkms.hsm.crypto.data_key_pairs import private_key_info
from hsmkms.hsm.crypto.oaep_params import Oaep
from hsmkms.hsm.faults import is_loss, translated
from hsmkms.hsm.imports.hardening import INSTANT, Hardening
from hsmkms.hsm.imports.imported_macs import MacImport
from hsmkms.hsm.imports.imported_pairs import FINGERPRINT, PairImport
from hsmkms.hsm.imports.unwrapping import FINGERPRINT_LABEL, Copies, Unwrapping
from hsmkms.hsm.imports.wrapping import (
    AES_CMAC,
    ALGORITHMS,
    KEY_WRAPS,
    MATERIAL_BYTES,
    PRFS,
    SHA256_HMAC,
    ImportProfile,
    Lengths,
    Prf,
    make_pair,
)
from hsmkms.hsm.objects.attributes import (
    HOST_WRAPPING_KEY,
    INSTALLATION_MAC_KEY,
    WRAPPING_KEY,
    ImportedTemplate,
    WrappingKeyTemplate,
)
from hsmkms.hsm.objects.backing_keys import ImportedPairTemplate, template_of
from hsmkms.hsm.objects.key_specs import KEY_FACTS, public_half, subject_public_key_info
from hsmkms.hsm.objects.mac_mechanisms import MAC_OF
from hsmkms.hsm.objects.objects import generate
from hsmkms.hsm.objects.support import STANDARD, AttributeSupport
from hsmkms.key_wrapping import wrap
from hsmkms.model.enums import KeySpec, KeyUsage, WrappingAlgorithm

_BITS: Final = 2048
_PROBE_ID: Final = b"hsmkms probe 002"
_PROBE_LABEL: Final = "hsmkms probe (a session object)"
NEEDED: Final = frozenset({Mechanism.RSA_PKCS_KEY_PAIR_GEN, Mechanism.RSA_PKCS_OAEP})
_WRONG_LENGTHS: Final = (5, 16, 24, 31, 33, 40, 48, 64)
_SHORTER_BYTES: Final = 16
"""A token that reports the right length of this material as well as of 32 bytes is believed."""

_PLAIN: Final[dict[Oaep, WrappingAlgorithm]] = {
    steps.oaep: algorithm for algorithm, steps in ALGORITHMS.items() if not steps.key_wrap
}
_KEY_WRAP: Final[dict[Oaep, WrappingAlgorithm]] = {
    steps.oaep: algorithm for algorithm, steps in ALGORITHMS.items() if steps.key_wrap
}


def probe_import(
    token: Token,
    session: Session,
    support: AttributeSupport = STANDARD,
    *,
    host_unwrap: bool,
    every_kind: bool = False,
    key: Object | None = None,
) -> ImportProfile:
    """Try everything that an import may need. Raises the device's error if it is in trouble.

    ``every_kind``: also try which key pairs and HMAC keys can be imported, as ``probe_kinds`` does with one more pair.
    ``key``: the private half of a wrapping key pair to try it with, instead of a new one.
    """
    with translated():
        mechanisms = frozenset(token.slot.get_mechanisms())
    if not mechanisms >= NEEDED:
        return ImportProfile()
    raw_rsa = host_unwrap and Mechanism.RSA_X_509 in mechanisms
    template = HOST_WRAPPING_KEY if raw_rsa else WRAPPING_KEY
    with _pair(session, template, support) if key is None else nullcontext(key) as private:
        probe = _Probe(session, private, mechanisms)
        profile = probe.run(support, raw_rsa=raw_rsa)
        if every_kind and profile.algorithms():
            profile = probe.kinds(profile)
    # A device in trouble looks like a token that lacks features. This operation must work on every token.
    with translated():
        generate(session, INSTALLATION_MAC_KEY, _PROBE_ID, _PROBE_LABEL, support, store=False).destroy()
    return profile


def probe_kinds(token: Token, session: Session, profile: ImportProfile) -> ImportProfile:
    """Return the profile with the importable key pairs and HMAC keys added; unchanged if nothing can be imported."""
    if not profile.algorithms():
        return profile
    with translated():
        mechanisms = frozenset(token.slot.get_mechanisms())
    with _pair(session, WRAPPING_KEY, profile.attributes) as key:
        return _Probe(session, key, mechanisms).kinds(profile)


@contextmanager
def _pair(session: Session, template: WrappingKeyTemplate, support: AttributeSupport) -> Iterator[Object]:
    public, private = make_pair(session, template, _BITS, _PROBE_ID, _PROBE_LABEL, support, store=False)
    with ExitStack() as cleanup:
        cleanup.enter_context(translated())
        cleanup.callback(public.destroy)
        cleanup.callback(private.destroy)
        yield private


class _Seen(NamedTuple):
    """What the copies of 32 random bytes showed: PRFs computed rightly; ``honest``: their length was reported."""

    prfs: tuple[Prf, ...]
    honest: bool


class _Probe:
    """Run the trials with one session key pair."""

    def __init__(self, session: Session, key: Object, mechanisms: frozenset[Mechanism]) -> None:
        self._session = session
        self._key = key
        self._public = public_half(key)
        self._mechanisms = mechanisms
        self._unfit: list[str] = []
        """The differences of unwrapped keys that were not as ordered."""
        self._seen: dict[Oaep, _Seen] = {}

    def run(self, support: AttributeSupport, *, raw_rsa: bool) -> ImportProfile:
        """Probe one capability after the other; each trial relies on the results before it."""
        profile = ImportProfile(prfs=(AES_CMAC,) if AES_CMAC.mechanism in self._mechanisms else (), attributes=support)
        profile = self._hardened(profile)
        if not profile.oaep:
            return profile
        profile = replace(profile, prfs=self._seen[profile.oaep[0]].prfs)
        profile = replace(profile, lengths=self._lengths(profile))
        profile = replace(profile, key_wrap=self._key_wraps(profile))
        return replace(profile, raw_rsa=raw_rsa and self._relays(profile))

    def _hardened(self, profile: ImportProfile) -> ImportProfile:
        """Return the profile with the OAEP hashes that unwrap into hardened keys, and how these become hardened."""
        for hardening in Hardening:
            tried = replace(profile, hardening=hardening)
            tried = replace(tried, oaep=tuple(each for each in _PLAIN if self._unwraps(tried, each)))
            if tried.oaep:
                return tried
            if not self._unfit:
                break
        return ImportProfile(refusal=f"{self._unfit[0]}, nor can it be tightened ({INSTANT})" if self._unfit else "")

    def kinds(self, profile: ImportProfile) -> ImportProfile:
        """Return the profile with the importable key pairs and HMAC keys added."""
        macs = frozenset(KEY_FACTS[spec].bits for spec in MAC_OF if self._proves_mac(profile, spec))
        return replace(profile, macs=macs, pairs=frozenset(each for each in _PAIRS if self._recognises(profile, each)))

    def _unwraps(self, profile: ImportProfile, oaep: Oaep) -> bool:
        profile = replace(profile, oaep=(oaep,))

        def examined(secret: bytes, copies: Copies) -> bool:
            prfs = tuple(each for each in PRFS if self._computes(each, secret, copies))
            self._seen[oaep] = _Seen(prfs, honest=copies.aes_length == MATERIAL_BYTES)
            return True

        if not self._look(profile, MATERIAL_BYTES, examined):
            return False
        return profile.hardening is Hardening.BY_TEMPLATE or self._copies_hardened(profile)

    def _copies_hardened(self, profile: ImportProfile) -> bool:
        """Return whether a tightened session object can be copied into one that is as hardened as ordered."""
        algorithm = _plain(profile)
        unwrapping = Unwrapping(self._session, self._key, profile, algorithm, is_sample=True)
        with _refusal_is_no(self._unfit) as answer:
            unwrapping.try_copy(wrap(self._public, algorithm, os.urandom(MATERIAL_BYTES)))
            answer.append(True)
        return answer == [True]

    def _computes(self, prf: Prf, secret: bytes, copies: Copies) -> bool:
        """Return whether the token computes the PRF rightly under these copies of ``secret``."""
        with _refusal_is_no() as answer:
            if prf.mechanism in self._mechanisms:
                answer.append(copies.sign(prf, FINGERPRINT_LABEL) == _ANSWERS[prf](secret, FINGERPRINT_LABEL))
        return answer == [True]

    def _lengths(self, profile: ImportProfile) -> Lengths:
        def honest(secret: bytes, copies: Copies) -> bool:
            return copies.aes_length == len(secret)

        if self._seen[profile.oaep[0]].honest and self._look(profile, _SHORTER_BYTES, honest):
            return Lengths.HONEST
        tried = replace(profile, lengths=Lengths.PROBED)
        # What proves a length has accepted the right one already if the token computes every PRF.
        opens = profile.prfs == PRFS or self._opens(tried, _plain(profile))
        if opens and all(self._rejects(tried, length) for length in _WRONG_LENGTHS):
            return Lengths.PROBED
        return Lengths.UNPROVEN

    def _key_wraps(self, profile: ImportProfile) -> Mechanism | None:
        """Return the number of AES-KWP that opens what RFC 5649 wrapped, to the same key."""

        def right(secret: bytes, copies: Copies) -> bool:
            prf = profile.prfs[0]
            return copies.sign(prf, FINGERPRINT_LABEL) == _ANSWERS[prf](secret, FINGERPRINT_LABEL)

        return next(
            (
                each
                for each in KEY_WRAPS
                if each in self._mechanisms
                and profile.prfs
                and self._look(replace(profile, key_wrap=each), MATERIAL_BYTES, right, _KEY_WRAP[profile.oaep[0]])
            ),
            None,
        )

    def _relays(self, profile: ImportProfile) -> bool:
        foreign = [algorithm for oaep, algorithm in _PLAIN.items() if oaep not in profile.oaep]
        return bool(foreign) and all(self._opens(profile, algorithm) for algorithm in foreign)

    def _proves_mac(self, profile: ImportProfile, spec: KeySpec) -> bool:
        """Return whether an imported HMAC key computes the right MAC, and a key one byte shorter is refused."""
        mechanism, template = MAC_OF[spec], template_of(spec, KeyUsage.GENERATE_VERIFY_MAC, imported=True)
        if mechanism not in self._mechanisms or not isinstance(template, ImportedTemplate):
            return False
        secret, algorithm = os.urandom(template.bits // 8), _plain(profile)

        def tried(material: bytes) -> dict[str, bytes]:
            unwrapping = self._unwrapping(profile, algorithm)
            coming = MacImport(self._session, unwrapping, template, mechanism, profile)
            return coming.fingerprints(wrap(self._public, algorithm, material), FINGERPRINT_LABEL)

        with _refusal_is_no() as answer:
            answer.append(tried(secret) == {mechanism.name: _HASHES[spec](secret, FINGERPRINT_LABEL)})
        with _refusal_is_no() as shorter:
            shorter.append(bool(tried(secret[:-1])))
        return answer == [True] and not shorter

    def _recognises(self, profile: ImportProfile, key_type: KeyType) -> bool:
        """Return whether a private key can be imported with its usages alone, and its own public key is derived."""
        spec, make = _PAIRS[key_type]
        algorithm, template = self._roomy(profile), template_of(spec, KeyUsage.SIGN_VERIFY, imported=True)
        if not isinstance(template, ImportedPairTemplate) or (key_type is KeyType.RSA and profile.key_wrap is None):
            return False
        key = make()
        unwrapping = self._unwrapping(profile, algorithm)
        coming, material = PairImport(self._session, unwrapping, template), private_key_info(key)
        try:
            ciphertext = wrap(self._public, algorithm, material)
            fingerprints, as_ordered = coming.fingerprints(ciphertext, b""), coming.keeps_usages(ciphertext)
        except SessionLostError:
            raise
        except HsmKmsError:
            return False
        except PKCS11Error as exc:
            if is_loss(exc):
                raise
            return False
        return as_ordered and fingerprints == {FINGERPRINT: subject_public_key_info(key.public_key())}

    def _roomy(self, profile: ImportProfile) -> WrappingAlgorithm:
        return _plain(profile) if profile.key_wrap is None else _KEY_WRAP[profile.oaep[0]]

    def _unwrapping(
        self, profile: ImportProfile, algorithm: WrappingAlgorithm, *, is_sample: bool = True
    ) -> Unwrapping:
        return Unwrapping(self._session, self._key, profile, algorithm, is_sample=is_sample, public=self._public)

    # -- trials -----------------------------------------------------------------------------------------------------

    def _look(
        self,
        profile: ImportProfile,
        length: int,
        right: Callable[[bytes, Copies], bool],
        algorithm: WrappingAlgorithm | None = None,
    ) -> bool:
        """Return whether random bytes of that length unwrap to session copies for which ``right`` returns True."""
        secret, algorithm = os.urandom(length), algorithm or _plain(profile)
        unwrapping = self._unwrapping(profile, algorithm)
        with _refusal_is_no(self._unfit) as answer, unwrapping.copies(wrap(self._public, algorithm, secret)) as copies:
            answer.append(right(secret, copies))
        return answer == [True]

    def _opens(self, profile: ImportProfile, algorithm: WrappingAlgorithm) -> bool:
        unwrapping = self._unwrapping(profile, algorithm)
        with _refusal_is_no() as answer:
            unwrapping.prove(wrap(self._public, algorithm, os.urandom(MATERIAL_BYTES)))
            answer.append(True)
        return answer == [True]

    def _rejects(self, profile: ImportProfile, length: int) -> bool:
        """Return whether material of a wrong length raises RejectedMaterialError, as it must for a user's import."""
        algorithm = _plain(profile)
        unwrapping = self._unwrapping(profile, algorithm, is_sample=False)
        try:
            unwrapping.prove(wrap(self._public, algorithm, os.urandom(length)))
        except RejectedMaterialError:
            return True
        except SessionLostError:
            raise
        except HsmKmsError:
            return False
        return False


def _plain(profile: ImportProfile) -> WrappingAlgorithm:
    return _PLAIN[profile.oaep[0]]


@cache
def _rsa_sample() -> OwnPrivateKey:
    """Generate a private key to import on trial, once for all tokens of the process: it takes a tenth of a second."""
    return rsa.generate_private_key(65537, _BITS)


_PAIRS: Final[dict[KeyType, tuple[KeySpec, Callable[[], OwnPrivateKey]]]] = {
    KeyType.EC: (KeySpec.ECC_NIST_P256, lambda: ec.generate_private_key(ec.SECP256R1())),
    KeyType.EC_EDWARDS: (KeySpec.ECC_NIST_EDWARDS25519, Ed25519PrivateKey.generate),
    KeyType.RSA: (KeySpec.RSA_2048, _rsa_sample),
}
_HASHES: Final[dict[KeySpec, Callable[[bytes, bytes], bytes]]] = {
    KeySpec.HMAC_224: lambda secret, message: hmac.digest(secret, message, "sha224"),
    KeySpec.HMAC_256: lambda secret, message: hmac.digest(secret, message, "sha256"),
    KeySpec.HMAC_384: lambda secret, message: hmac.digest(secret, message, "sha384"),
    KeySpec.HMAC_512: lambda secret, message: hmac.digest(secret, message, "sha512"),
}


def _cmac(secret: bytes, message: bytes) -> bytes:
    computed = CMAC(AES(secret))
    computed.update(message)
    return computed.finalize()


_ANSWERS: Final[dict[Prf, Callable[[bytes, bytes], bytes]]] = {
    AES_CMAC: _cmac,
    SHA256_HMAC: lambda secret, message: hmac.digest(secret, message, "sha256"),
}


@contextmanager
def _refusal_is_no(unfit: list[str] | None = None) -> Iterator[list[bool]]:
    """Suppress the token's refusals, which count as "no"; re-raise a lost session, which proves nothing.

    ``unfit`` gets what the token said of keys that are not as ordered.
    """
    try:
        yield []
    except TokenUnfitError as exc:
        if unfit is not None:
            unfit.append(str(exc))
    except (RejectedDataError, RejectedMaterialError):
        return
    except PKCS11Error as exc:
        if is_loss(exc):
            raise
