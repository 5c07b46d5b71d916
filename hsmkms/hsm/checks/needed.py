"""Checks of what no installation works without: random numbers, AES-256-GCM, HMAC-SHA-256, attributes, labels.

Unlike the probe at start they also load a published test key as a session object, to compare with the standard's own
answer; a token that takes no keys in the clear refuses that, which is no fault.
"""

from typing import Final

from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism

from hsmkms.errors import TokenUnfitError
from hsmkms.hsm.checks.bench import CHECK_LABEL, Bench, Finding, published_key
from hsmkms.hsm.ckr_names import ckr_name
from hsmkms.hsm.crypto.gcm import open_sealed, seal
from hsmkms.hsm.crypto.token_iv import QUIRKS, IvOrigin, find_origin
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY, INSTALLATION_MAC_KEY, SecretTemplate
from hsmkms.hsm.objects.handle_keys import HandleKey
from hsmkms.hsm.objects.objects import generate, handle_of
from hsmkms.hsm.objects.support import Copying
from hsmkms.hsm.probing.profile import FORMATS, LONG_LABEL_BYTES, NEEDED, check_gcm, format_for, label_bytes
from hsmkms.model.token_check import Outcome

_CHECK_ID: Final = b"hsmkms check 001"

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


_NOTHING: Final = "nothing: what must hold of a key holds"
_GUARD_THE_PIN: Final = "guard the PIN like the keys themselves, or use another token"
_ADVICE_ON_COPIES: Final = {
    Copying.REFUSED: _NOTHING,
    Copying.SAME: _NOTHING,
    Copying.OTHER_USAGES: _GUARD_THE_PIN,
    Copying.READABLE: _GUARD_THE_PIN,
}


def mechanisms(bench: Bench) -> Finding:
    """Look for the mechanisms without which there is no installation."""
    try:
        cipher_format = format_for(bench.mechanisms())
    except TokenUnfitError as exc:
        advice = (
            "enable the mechanisms in the token's policy (FIPS mode often hides some), update what forwards the calls "
            "(p11-kit before 0.25 does not forward all), or use another token"
        )
        return Finding(Outcome.FAILED, str(exc), advice)
    named = ", ".join(each.name for each in (*NEEDED, FORMATS[cipher_format]))
    return Finding(Outcome.WORKS, f"{named}; ciphertext format {cipher_format}")


def random_numbers(bench: Bench) -> Finding:
    """Draw twice from the token's generator."""
    if bench.session.generate_random(256) == bench.session.generate_random(256):
        return Finding(Outcome.FAILED, "two draws of 32 bytes were the same", "do not use this token")
    return Finding(Outcome.WORKS, "two draws of 32 bytes differ")


def backing_key(bench: Bench) -> Finding:
    """Generate an AES-256 key, and compare its attributes with the ordered ones."""
    return _as_ordered(bench, AES_256_BACKING_KEY)


def installation_key(bench: Bench) -> Finding:
    """Generate a key like the installation's own, and compare its attributes with the ordered ones."""
    return _as_ordered(bench, INSTALLATION_MAC_KEY)


def _as_ordered(bench: Bench, template: SecretTemplate) -> Finding:
    support = bench.support
    generate(bench.session, template, _CHECK_ID, CHECK_LABEL, support, store=False).destroy()
    if support.quirks:
        return Finding(
            Outcome.LIMITED,
            f"sensitive, not extractable, only the ordered usages; {'; '.join(support.quirks)}",
            _ADVICE_ON_COPIES[support.copies],
        )
    return Finding(Outcome.WORKS, "made as ordered: sensitive, not extractable, not modifiable, not copyable")


def gcm_computed(bench: Bench) -> Finding:
    """Compare AES-GCM with an independent computation, and require that a changed message is refused."""
    exact = Mechanism.AES_ECB in bench.mechanisms()
    check_gcm(bench.session, bench.support, exact=exact)
    if exact:
        return Finding(Outcome.WORKS, "equals an independent computation; a changed message is refused")
    return Finding(
        Outcome.LIMITED,
        "round trip and refusal work; no AES-ECB to compute a known answer with",
        "nothing: the published vector is compared below, if the token takes its key",
    )


def gcm_vector(bench: Bench) -> Finding:
    """Compare AES-GCM with a published test vector."""
    session = bench.session
    key, iv, aad, plaintext, sealed = (bytes.fromhex(GCM_VECTOR[each]) for each in GCM_VECTOR)
    try:
        made = published_key(session, key)
    except PKCS11Error as exc:
        name = ckr_name(exc)
        detail = f"the token takes no published test key ({name}); that is no fault"
        return Finding(Outcome.LIMITED, detail, "nothing: hsmkms itself brings no keys in the clear", name)
    try:
        handle = handle_of(made)
        chooses = find_origin(session, handle) is not IvOrigin.CALLER
        right = chooses or seal(session, handle, iv, plaintext, aad) == sealed
        right = right and open_sealed(session, handle, iv, sealed, aad) == plaintext
    finally:
        made.destroy()
    if not right:
        return Finding(Outcome.FAILED, "differs from the published vector")
    return Finding(Outcome.WORKS, "published vector, decrypted only" if chooses else "published vector")


def gcm_ivs(bench: Bench) -> Finding:
    """Find out who chooses the IVs of AES-GCM."""
    origin = check_gcm(bench.session, bench.support, exact=Mechanism.AES_ECB in bench.mechanisms())
    return Finding(Outcome.WORKS, QUIRKS.get(origin, "taken as given: 96 bits of the token's random generator"))


def hmac(bench: Bench) -> Finding:
    """Sign and verify with HMAC-SHA-256, and require that another message is refused."""
    made = generate(bench.session, INSTALLATION_MAC_KEY, _CHECK_ID, CHECK_LABEL, bench.support, store=False)
    try:
        key = HandleKey(bench.session, handle_of(made), KeyType.GENERIC_SECRET)
        tag = key.sign(b"message", mechanism=Mechanism.SHA256_HMAC)
        right = len(tag) == 32 and key.verify(b"message", tag, mechanism=Mechanism.SHA256_HMAC)  # noqa: PLR2004
        try:
            wrong = key.verify(b"another", tag, mechanism=Mechanism.SHA256_HMAC)
        except PKCS11Error:  # whatever code: it has verified the right one
            wrong = False
    finally:
        made.destroy()
    if right and not wrong:
        return Finding(Outcome.WORKS, "signs, verifies, and refuses another message")
    return Finding(Outcome.FAILED, "does not tell a right from a wrong message")


def labels(bench: Bench) -> Finding:
    """Measure how much of a label the token keeps."""
    kept = label_bytes(bench.session, bench.support)
    if kept < LONG_LABEL_BYTES:
        detail = f"cut to {kept} bytes: short labels are used, without the region"
        return Finding(Outcome.LIMITED, detail, "nothing: keys are found by their CKA_ID")
    return Finding(Outcome.WORKS, f"at least {kept} bytes are kept")
