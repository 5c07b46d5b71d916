"""Checks of the ciphertext format: AES-GCM, or AES-CBC with HMAC on a token that lists no AES-GCM."""

from collections.abc import Callable
from typing import Final

from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import Mechanism

from hsmkms.errors import TokenUnfitError
from hsmkms.hsm.checks.bench import Bench, Finding, published_key
from hsmkms.hsm.objects.cbc_pairs import NO_GCM
from hsmkms.hsm.objects.objects import handle_of
from hsmkms.hsm.probing.cbc import check_cbc, computes, takes_longest
from hsmkms.hsm.probing.profile import FORMATS, format_for
from hsmkms.model.cipher_format import CipherFormat
from hsmkms.model.token_check import Outcome

CBC_VECTOR: Final = {
    "key": "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
    "iv": "000102030405060708090a0b0c0d0e0f",
    "plaintext": "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    "ciphertext": "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"
    "39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
}
"""NIST SP 800-38A, section F.2.5 (CBC-AES256.Encrypt)."""

SHORT_DATA: Final = "works, but not for 4,096 bytes with an encryption context of 8,192 bytes (CKR_DATA_LEN_RANGE)"
_ADVICE: Final = "nothing, if no key material is to be imported for symmetric keys; else use a token that has AES-GCM"


def with_gcm(check: Callable[[Bench], Finding]) -> Callable[[Bench], Finding]:
    """Return the check of AES-GCM, limited on a token that lists none."""

    def limited(bench: Bench) -> Finding:
        present = bench.mechanisms()
        if FORMATS[CipherFormat.AES_256_GCM] in present:
            return check(bench)
        try:
            format_for(present)
        except TokenUnfitError:
            return Finding(Outcome.FAILED, "no AES-GCM, and not what AES-CBC with HMAC needs", "see 'mechanisms'")
        return Finding(Outcome.LIMITED, NO_GCM, _ADVICE)

    return limited


def cbc(bench: Bench) -> Finding:
    """Where there is no AES-GCM, compare AES-CBC with known answers, and require that changes are refused."""
    present = bench.mechanisms()
    if FORMATS[CipherFormat.AES_256_GCM] in present:
        return Finding(Outcome.WORKS, "not used: the token has AES-GCM")
    exact = Mechanism.AES_ECB in present
    check_cbc(bench.session, bench.support, exact=exact)
    right = _vector(bench)
    if right is False:
        return Finding(Outcome.FAILED, "differs from the published vector")
    if not takes_longest(bench.session, bench.support):
        return Finding(Outcome.LIMITED, SHORT_DATA, "keep encryption contexts short, and encrypt data keys alone")
    compared = [name for name, was in (("an independent computation", exact), ("a published vector", right)) if was]
    if compared:
        return Finding(Outcome.WORKS, f"equals {' and '.join(compared)}; a changed message is refused")
    return Finding(Outcome.LIMITED, "round trip and refusal work; nothing to compare with", "nothing")


def _vector(bench: Bench) -> bool | None:
    """Compare with the published vector; None if the token takes no published key, which is no fault."""
    key, iv, plaintext, ciphertext = (bytes.fromhex(CBC_VECTOR[each]) for each in CBC_VECTOR)
    try:
        made = published_key(bench.session, key)
    except PKCS11Error:
        return None
    try:
        return computes(bench.session, handle_of(made), iv, plaintext, ciphertext)
    finally:
        made.destroy()
