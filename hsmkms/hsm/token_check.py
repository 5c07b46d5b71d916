"""``token-check``: the probe, step by step and with published vectors, for people to read.

Unlike the probe at start it also loads a published test key as a session object, to compare with the standard's own
answer; a token that takes no keys in the clear refuses that, which is no fault.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from msgspec import Struct
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session, Token

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.crypto.gcm import open_sealed, seal
from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256, Oaep
from hsmkms.hsm.crypto.token_iv import QUIRKS, IvOrigin, find_origin
from hsmkms.hsm.imports.probe import probe_import
from hsmkms.hsm.imports.wrapping import AES_CMAC, ImportProfile, Lengths
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY, INSTALLATION_MAC_KEY, SecretTemplate
from hsmkms.hsm.objects.cbc_pairs import CBC_MAC_KEY
from hsmkms.hsm.objects.handle_keys import BorrowedKey
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.hsm.objects.objects import generate, handle_of
from hsmkms.hsm.probing.attributes import try_attributes
from hsmkms.hsm.probing.cbc import check_cbc, computes
from hsmkms.hsm.probing.profile import FORMATS, LONG_LABEL_BYTES, NEEDED, check_gcm, format_for, label_bytes
from hsmkms.model.cipher_format import CipherFormat

_PROBE_ID: Final = b"hsmkms check 001"
_PROBE_LABEL: Final = "hsmkms check (a session object)"  # tokens may keep 32 bytes only

GCM_VECTOR: Final = {
    "key": "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
    "iv": "cafebabefacedbaddecaf888",
    "aad": "feedfacedeadbeeffeedfacedeadbeefabaddad2",
    "plaintext": "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    "sealed": "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
}
"""Test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)", submitted to NIST in 2005."""


CBC_VECTOR: Final = {
    "key": "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
    "iv": "000102030405060708090a0b0c0d0e0f",
    "plaintext": "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    "ciphertext": "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"
    "39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
}
"""NIST SP 800-38A, section F.2.5 (CBC-AES256.Encrypt)."""


class Outcome(StrEnum):
    """How a check ended; only ``FAILED`` makes the token unfit."""

    WORKS = "works"
    LIMITED = "limited"
    FAILED = "failed"


class Check(Struct, frozen=True, kw_only=True):
    """One line of ``token-check``."""

    name: str
    outcome: Outcome
    detail: str

    @property
    def failed(self) -> bool:
        """True if the token is unfit for this reason."""
        return self.outcome is Outcome.FAILED


def run_checks(token: Token, session: Session) -> list[Check]:
    """Run every check, also after one has failed; nothing is left on the token."""
    has_gcm = Mechanism.AES_GCM in token.slot.get_mechanisms()
    formats = _GCM_CHECKS if has_gcm else _CBC_CHECKS
    checks = _CHECKS | formats | _FURTHER_CHECKS
    return [_guarded(name, check, token, session) for name, check in checks.items()] + _import_checks(token, session)


def _guarded(
    name: str, check: Callable[[Token, Session], tuple[Outcome, str]], token: Token, session: Session
) -> Check:
    try:
        outcome, detail = check(token, session)
    except HsmKmsError as exc:
        outcome, detail = Outcome.FAILED, str(exc)
    except PKCS11Error as exc:
        outcome, detail = Outcome.FAILED, f"the token answered {type(exc).__name__}"
    return Check(name=name, outcome=outcome, detail=detail)


def _mechanisms(token: Token, _session: Session) -> tuple[Outcome, str]:
    present = token.slot.get_mechanisms()
    cipher_format = format_for(present)
    detail = f"{', '.join(each.name for each in (*NEEDED, FORMATS[cipher_format]))}; ciphertext format {cipher_format}"
    return (Outcome.WORKS if cipher_format is CipherFormat.AES_256_GCM else Outcome.LIMITED), detail


def _random(_token: Token, session: Session) -> tuple[Outcome, str]:
    if session.generate_random(256) == session.generate_random(256):
        return Outcome.FAILED, "two draws of 32 bytes were the same"
    return Outcome.WORKS, "two draws of 32 bytes differ"


def _template(template: SecretTemplate) -> Callable[[Token, Session], tuple[Outcome, str]]:
    def check(_token: Token, session: Session) -> tuple[Outcome, str]:
        support = try_attributes(session)
        generate(session, template, _PROBE_ID, _PROBE_LABEL, support, store=False).destroy()
        if support.quirks:
            return Outcome.LIMITED, f"sensitive, not extractable, only the ordered usages; {'; '.join(support.quirks)}"
        return Outcome.WORKS, "made as ordered: sensitive, not extractable, not modifiable, not copyable"

    return check


def _gcm_computed(token: Token, session: Session) -> tuple[Outcome, str]:
    exact = Mechanism.AES_ECB in token.slot.get_mechanisms()
    check_gcm(session, try_attributes(session), exact=exact)
    if exact:
        return Outcome.WORKS, "equals an independent computation; a changed message is refused"
    return Outcome.LIMITED, "round trip and refusal work; no AES-ECB to compute a known answer with"


def _published_key(session: Session, key: bytes) -> tuple[Object | None, tuple[Outcome, str]]:
    """Load a published test key as a session object; None, and what is to be said of it, if the token takes none."""
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.AES,
        Attribute.TOKEN: False,
        Attribute.ENCRYPT: True,
        Attribute.DECRYPT: True,
        Attribute.VALUE: key,
    }
    try:
        return session.create_object(template), (Outcome.WORKS, "")
    except PKCS11Error as exc:
        detail = f"the token takes no published test key ({type(exc).__name__}); that is no fault"
        return None, (Outcome.LIMITED, detail)


def _gcm_vector(_token: Token, session: Session) -> tuple[Outcome, str]:
    key, iv, aad, plaintext, sealed = (bytes.fromhex(GCM_VECTOR[each]) for each in GCM_VECTOR)
    made, refusal = _published_key(session, key)
    if made is None:
        return refusal
    handle = handle_of(made)
    chooses = find_origin(session, handle) is not IvOrigin.CALLER
    right = chooses or seal(session, handle, iv, plaintext, aad) == sealed
    right = right and open_sealed(session, handle, iv, sealed, aad) == plaintext
    made.destroy()
    if not right:
        return Outcome.FAILED, "differs from the published vector"
    return Outcome.WORKS, "published vector, decrypted only" if chooses else "published vector"


def _cbc_computed(token: Token, session: Session) -> tuple[Outcome, str]:
    exact = Mechanism.AES_ECB in token.slot.get_mechanisms()
    check_cbc(session, try_attributes(session), exact=exact)
    if exact:
        return Outcome.WORKS, "equals an independent computation; a changed message is refused"
    return Outcome.LIMITED, "round trip and refusal work; no AES-ECB to compute a known answer with"


def _cbc_vector(_token: Token, session: Session) -> tuple[Outcome, str]:
    key, iv, plaintext, ciphertext = (bytes.fromhex(CBC_VECTOR[each]) for each in CBC_VECTOR)
    made, refusal = _published_key(session, key)
    if made is None:
        return refusal
    right = computes(session, handle_of(made), iv, plaintext, ciphertext)
    made.destroy()
    return (Outcome.WORKS, "published vector") if right else (Outcome.FAILED, "differs from the published vector")


def _gcm_iv(token: Token, session: Session) -> tuple[Outcome, str]:
    origin = check_gcm(session, try_attributes(session), exact=Mechanism.AES_ECB in token.slot.get_mechanisms())
    return Outcome.WORKS, QUIRKS.get(origin, "taken as given: 96 bits of the token's random generator")


def _hmac(_token: Token, session: Session) -> tuple[Outcome, str]:
    made = generate(session, INSTALLATION_MAC_KEY, _PROBE_ID, _PROBE_LABEL, try_attributes(session), store=False)
    key = BorrowedKey(session, handle_of(made), KeyType.GENERIC_SECRET)
    tag = key.sign(b"message", mechanism=Mechanism.SHA256_HMAC)
    right = len(tag) == 32 and key.verify(b"message", tag, mechanism=Mechanism.SHA256_HMAC)  # noqa: PLR2004
    try:
        wrong = key.verify(b"another", tag, mechanism=Mechanism.SHA256_HMAC)
    except PKCS11Error:  # whatever code: it has verified the right one
        wrong = False
    made.destroy()
    if right and not wrong:
        return Outcome.WORKS, "signs, verifies, and refuses another message"
    return Outcome.FAILED, "does not tell a right from a wrong message"


def _labels(_token: Token, session: Session) -> tuple[Outcome, str]:
    kept = label_bytes(session, try_attributes(session))
    if kept < LONG_LABEL_BYTES:
        return Outcome.LIMITED, f"cut to {kept} bytes: short labels are used, without the region"
    return Outcome.WORKS, f"at least {kept} bytes are kept"


def _key_specs(token: Token, _session: Session) -> tuple[Outcome, str]:
    present = token.slot.get_mechanisms()
    return Outcome.WORKS, ", ".join(spec for spec, facts in KEY_FACTS.items() if facts.generation in present)


def _import_checks(token: Token, session: Session) -> list[Check]:
    """What the import of key material needs; a token without it keeps generated keys all the same."""
    try:
        told = probe_import(token, session, try_attributes(session), host_unwrap=False)
    except (HsmKmsError, PKCS11Error) as exc:
        reason = f"could not be tried: {str(exc) or type(exc).__name__}"
        return [Check(name=name, outcome=Outcome.LIMITED, detail=reason) for name in _IMPORT_CHECKS]
    answers = {name: check(told) for name, check in _IMPORT_CHECKS.items()}
    return [Check(name=name, outcome=outcome, detail=detail) for name, (outcome, detail) in answers.items()]


def _oaep(oaep: Oaep) -> Callable[[ImportProfile], tuple[Outcome, str]]:
    def check(told: ImportProfile) -> tuple[Outcome, str]:
        if oaep in told.oaep:
            return Outcome.WORKS, "unwraps what was wrapped elsewhere"
        return Outcome.LIMITED, "does not unwrap: key material that is wrapped so cannot be imported"

    return check


def _key_wrap(told: ImportProfile) -> tuple[Outcome, str]:
    if told.key_wrap:
        return Outcome.WORKS, "unwraps what was wrapped elsewhere, with an AES key that OAEP unwrapped"
    return Outcome.LIMITED, "does not unwrap: no key material can be imported with RSA_AES_KEY_WRAP"


def _cmac(told: ImportProfile) -> tuple[Outcome, str]:
    if AES_CMAC in told.prfs:
        return Outcome.WORKS, "equals an independent computation; it names imported key material"
    return Outcome.LIMITED, "not there or not right: HMAC-SHA-256 names imported key material"


def _lengths(told: ImportProfile) -> tuple[Outcome, str]:
    return Outcome.WORKS if told.lengths is Lengths.HONEST else Outcome.LIMITED, told.lengths.value


_IMPORT_CHECKS: Final[dict[str, Callable[[ImportProfile], tuple[Outcome, str]]]] = {
    "OAEP SHA-1": _oaep(OAEP_SHA_1),
    "OAEP SHA-256": _oaep(OAEP_SHA_256),
    "AES-KWP": _key_wrap,
    "AES-CMAC": _cmac,
    "honest lengths": _lengths,
}

_CHECKS: Final[dict[str, Callable[[Token, Session], tuple[Outcome, str]]]] = {
    "mechanisms": _mechanisms,
    "random numbers": _random,
    "AES-256 backing key": _template(AES_256_BACKING_KEY),
}

_GCM_CHECKS: Final[dict[str, Callable[[Token, Session], tuple[Outcome, str]]]] = {
    "AES-GCM, computed answer": _gcm_computed,
    "AES-GCM, published vector": _gcm_vector,
    "AES-GCM, IVs": _gcm_iv,
}

_CBC_CHECKS: Final[dict[str, Callable[[Token, Session], tuple[Outcome, str]]]] = {
    "HMAC key of AES-CBC": _template(CBC_MAC_KEY),
    "AES-CBC with HMAC, computed answer": _cbc_computed,
    "AES-CBC, published vector": _cbc_vector,
}
"""In place of those of AES-GCM, on tokens that have none."""

_FURTHER_CHECKS: Final[dict[str, Callable[[Token, Session], tuple[Outcome, str]]]] = {
    "installation key": _template(INSTALLATION_MAC_KEY),
    "HMAC-SHA-256": _hmac,
    "object labels": _labels,
    "key specs": _key_specs,
}
