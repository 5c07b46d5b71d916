"""What a token can do with imported key material, found out by trying.

An RSA key pair takes a tenth of a second and more, so this is no part of the probe at start: it is done when somebody
first asks. What is unwrapped are random bytes that this process wrapped, into session objects; nothing is left.
"""

import hmac
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from msgspec.structs import replace
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import PrivateKey, Session, Token

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
from hsmkms.hsm.imports.imported_macs import MacImport
from hsmkms.hsm.imports.imported_pairs import FINGERPRINT, PairImport
from hsmkms.hsm.imports.unwrapping import FINGERPRINT_LABEL, Copies, Unwrapping
from hsmkms.hsm.imports.wrapping import (
    AES_CMAC,
    ALGORITHMS,
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
from hsmkms.key_wrapping import wrap
from hsmkms.model.enums import KeySpec, KeyUsage, WrappingAlgorithm

_BITS: Final = 2048
_PROBE_ID: Final = b"hsmkms probe 002"
_PROBE_LABEL: Final = "hsmkms probe (a session object)"
_NEEDED: Final = frozenset({Mechanism.RSA_PKCS_KEY_PAIR_GEN, Mechanism.RSA_PKCS_OAEP})
_WRONG_LENGTHS: Final = (5, 16, 24, 31, 33, 40, 48, 64)
_HONEST_LENGTHS: Final = (16, 32)

_PLAIN: Final[dict[Oaep, WrappingAlgorithm]] = {
    steps.oaep: algorithm for algorithm, steps in ALGORITHMS.items() if not steps.key_wrap
}
_KEY_WRAP: Final[dict[Oaep, WrappingAlgorithm]] = {
    steps.oaep: algorithm for algorithm, steps in ALGORITHMS.items() if steps.key_wrap
}


def probe_import(token: Token, session: Session, *, host_unwrap: bool) -> ImportProfile:
    """Try everything that an import may need. Raises the fault of a device that is not well."""
    with translated():
        mechanisms = frozenset(token.slot.get_mechanisms())
    if not mechanisms >= _NEEDED:
        return ImportProfile()
    raw_rsa = host_unwrap and Mechanism.RSA_X_509 in mechanisms
    with _pair(session, HOST_WRAPPING_KEY if raw_rsa else WRAPPING_KEY) as key:
        told = _Probe(session, key, mechanisms).run(raw_rsa=raw_rsa)
    # Trouble of the device looks like a token that can't: whatever was refused, this must work.
    with translated():
        generate(session, INSTALLATION_MAC_KEY, _PROBE_ID, _PROBE_LABEL, store=False).destroy()
    return told


def probe_kinds(token: Token, session: Session, told: ImportProfile) -> ImportProfile:
    """The same profile, and what else than symmetric keys can be imported. Only for tokens that import those."""
    if not told.algorithms():
        return told
    with translated():
        mechanisms = frozenset(token.slot.get_mechanisms())
    with _pair(session, WRAPPING_KEY) as key:
        return _Probe(session, key, mechanisms).kinds(told)


@contextmanager
def _pair(session: Session, template: WrappingKeyTemplate) -> Iterator[PrivateKey]:
    public, private = make_pair(session, template, _BITS, _PROBE_ID, _PROBE_LABEL, store=False)
    with ExitStack() as cleanup:
        cleanup.enter_context(translated())
        cleanup.callback(public.destroy)
        cleanup.callback(private.destroy)
        yield private


class _Probe:
    """One session key pair, with which everything is tried."""

    def __init__(self, session: Session, key: PrivateKey, mechanisms: frozenset[Mechanism]) -> None:
        self._session = session
        self._key = key
        self._public = public_half(key)
        self._mechanisms = mechanisms

    def run(self, *, raw_rsa: bool) -> ImportProfile:
        """Find out one thing after the other; each relies on those before it."""
        told = ImportProfile(prfs=(AES_CMAC,) if AES_CMAC.mechanism in self._mechanisms else ())
        told = replace(told, oaep=tuple(each for each in _PLAIN if self._unwraps(told, each)))
        if not told.oaep:
            return ImportProfile()
        told = replace(told, prfs=tuple(each for each in PRFS if self._computes(told, each)))
        told = replace(told, lengths=self._lengths(told))
        told = replace(told, key_wrap=self._key_wraps(told))
        return replace(told, raw_rsa=raw_rsa and self._relays(told))

    def kinds(self, told: ImportProfile) -> ImportProfile:
        """What else than symmetric keys can be imported, given the rest."""
        macs = frozenset(KEY_FACTS[spec].bits for spec in MAC_OF if self._proves_mac(told, spec))
        return replace(told, macs=macs, pairs=frozenset(each for each in _PAIRS if self._recognises(told, each)))

    def _unwraps(self, told: ImportProfile, oaep: Oaep) -> bool:
        return self._look(replace(told, oaep=(oaep,)), MATERIAL_BYTES, lambda _secret, _copies: True)

    def _computes(self, told: ImportProfile, prf: Prf) -> bool:
        def right(secret: bytes, copies: Copies) -> bool:
            return copies.sign(prf, FINGERPRINT_LABEL) == _ANSWERS[prf](secret, FINGERPRINT_LABEL)

        return prf.mechanism in self._mechanisms and self._look(told, MATERIAL_BYTES, right)

    def _lengths(self, told: ImportProfile) -> Lengths:
        def honest(secret: bytes, copies: Copies) -> bool:
            return copies.aes_length == len(secret)

        if all(self._look(told, length, honest) for length in _HONEST_LENGTHS):
            return Lengths.HONEST
        tried = replace(told, lengths=Lengths.PROBED)
        if self._opens(tried, _plain(told)) and all(self._rejects(tried, length) for length in _WRONG_LENGTHS):
            return Lengths.PROBED
        return Lengths.UNPROVEN

    def _key_wraps(self, told: ImportProfile) -> bool:
        return Mechanism.AES_KEY_WRAP_PAD in self._mechanisms and self._opens(told, _KEY_WRAP[told.oaep[0]])

    def _relays(self, told: ImportProfile) -> bool:
        foreign = [algorithm for oaep, algorithm in _PLAIN.items() if oaep not in told.oaep]
        return bool(foreign) and all(self._opens(told, algorithm) for algorithm in foreign)

    def _proves_mac(self, told: ImportProfile, spec: KeySpec) -> bool:
        """Whether an HMAC key computes what it should, and one that is a byte shorter is refused."""
        mechanism, template = MAC_OF[spec], template_of(spec, KeyUsage.GENERATE_VERIFY_MAC, imported=True)
        if mechanism not in self._mechanisms or not isinstance(template, ImportedTemplate):
            return False
        secret, algorithm = os.urandom(template.bits // 8), _plain(told)

        def tried(material: bytes) -> dict[str, bytes]:
            unwrapping = Unwrapping(self._session, self._key, told, algorithm, is_sample=True)
            coming = MacImport(self._session, unwrapping, template, mechanism, told)
            return coming.fingerprints(wrap(self._public, algorithm, material), FINGERPRINT_LABEL)

        with _refusal_is_no() as answer:
            answer.append(tried(secret) == {mechanism.name: _HASHES[spec](secret, FINGERPRINT_LABEL)})
        with _refusal_is_no() as shorter:
            shorter.append(bool(tried(secret[:-1])))
        return answer == [True] and not shorter

    def _recognises(self, told: ImportProfile, key_type: KeyType) -> bool:
        """Whether a private key comes in, and its own public key is found."""
        spec, make = _PAIRS[key_type]
        algorithm, template = self._roomy(told), template_of(spec, KeyUsage.SIGN_VERIFY, imported=True)
        if not isinstance(template, ImportedPairTemplate) or (key_type is KeyType.RSA and not told.key_wrap):
            return False
        key = make()
        unwrapping = Unwrapping(self._session, self._key, told, algorithm, is_sample=True)
        coming, material = PairImport(self._session, unwrapping, template), private_key_info(key)
        try:
            found = coming.fingerprints(wrap(self._public, algorithm, material), b"")
        except SessionLostError:
            raise
        except HsmKmsError:
            return False
        except PKCS11Error as exc:
            if is_loss(exc):
                raise
            return False
        return found == {FINGERPRINT: subject_public_key_info(key.public_key())}

    def _roomy(self, told: ImportProfile) -> WrappingAlgorithm:
        return _KEY_WRAP[told.oaep[0]] if told.key_wrap else _plain(told)

    # -- trying -----------------------------------------------------------------------------------------------------

    def _look(self, told: ImportProfile, length: int, right: Callable[[bytes, Copies], bool]) -> bool:
        """Whether random bytes of that length can be opened as session copies, and these are ``right``."""
        secret, algorithm = os.urandom(length), _plain(told)
        unwrapping = Unwrapping(self._session, self._key, told, algorithm, is_sample=True)
        with _refusal_is_no() as answer, unwrapping.copies(wrap(self._public, algorithm, secret)) as copies:
            answer.append(right(secret, copies))
        return answer == [True]

    def _opens(self, told: ImportProfile, algorithm: WrappingAlgorithm) -> bool:
        unwrapping = Unwrapping(self._session, self._key, told, algorithm, is_sample=True)
        with _refusal_is_no() as answer:
            unwrapping.prove(wrap(self._public, algorithm, os.urandom(MATERIAL_BYTES)))
            answer.append(True)
        return answer == [True]

    def _rejects(self, told: ImportProfile, length: int) -> bool:
        """Whether material of a wrong length ends as it must when a user brings it."""
        algorithm = _plain(told)
        unwrapping = Unwrapping(self._session, self._key, told, algorithm)
        try:
            unwrapping.prove(wrap(self._public, algorithm, os.urandom(length)))
        except RejectedMaterialError:
            return True
        except SessionLostError:
            raise
        except HsmKmsError:
            return False
        return False


def _plain(told: ImportProfile) -> WrappingAlgorithm:
    return _PLAIN[told.oaep[0]]


_PAIRS: Final[dict[KeyType, tuple[KeySpec, Callable[[], OwnPrivateKey]]]] = {
    KeyType.EC: (KeySpec.ECC_NIST_P256, lambda: ec.generate_private_key(ec.SECP256R1())),
    KeyType.EC_EDWARDS: (KeySpec.ECC_NIST_EDWARDS25519, Ed25519PrivateKey.generate),
    KeyType.RSA: (KeySpec.RSA_2048, lambda: rsa.generate_private_key(65537, 2048)),
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
def _refusal_is_no() -> Iterator[list[bool]]:
    """Take every refusal of the token for an answer; but not a lost session, which says nothing."""
    try:
        yield []
    except (RejectedDataError, RejectedMaterialError, TokenUnfitError):
        return
    except PKCS11Error as exc:
        if is_loss(exc):
            raise
