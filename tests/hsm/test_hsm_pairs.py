"""Backing keys of every spec: created as ordered, with halves that belong together."""

import os
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA65PrivateKey, MLDSA87PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from devices import NewToken, require_copyable
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import AttributeSensitive
from pkcs11.types import Session

from hsmkms.errors import TokenError, TokenUnfitError, UnsupportedOperationException
from hsmkms.hsm.crypto import pairs
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.backing_keys import PairTemplate, template_of
from hsmkms.hsm.objects.key_specs import KEY_FACTS, der_octet_string, subject_public_key_info
from hsmkms.hsm.objects.objects import find, tell
from hsmkms.model.enums import KeySpec, KeyUsage

PAIRS = [
    (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY, {Attribute.SIGN}, {Attribute.VERIFY}),
    (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT, {Attribute.DECRYPT}, {Attribute.ENCRYPT}),
    (KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY, {Attribute.SIGN}, {Attribute.VERIFY}),
    (KeySpec.ECC_NIST_P384, KeyUsage.KEY_AGREEMENT, {Attribute.DERIVE}, set()),
    (KeySpec.ECC_NIST_P521, KeyUsage.SIGN_VERIFY, {Attribute.SIGN}, {Attribute.VERIFY}),
    (KeySpec.ECC_SECG_P256K1, KeyUsage.SIGN_VERIFY, {Attribute.SIGN}, {Attribute.VERIFY}),
    (KeySpec.ECC_NIST_EDWARDS25519, KeyUsage.SIGN_VERIFY, {Attribute.SIGN}, {Attribute.VERIFY}),
]
"""Spec, usage, and the only usages that either half may have on the token, typed by hand."""

POST_QUANTUM = {
    KeySpec.ML_DSA_44: MLDSA44PrivateKey,
    KeySpec.ML_DSA_65: MLDSA65PrivateKey,
    KeySpec.ML_DSA_87: MLDSA87PrivateKey,
    KeySpec.ML_KEM_768: MLKEM768PrivateKey,
    KeySpec.ML_KEM_1024: MLKEM1024PrivateKey,
}

USAGES = {
    Attribute.ENCRYPT,
    Attribute.DECRYPT,
    Attribute.SIGN,
    Attribute.VERIFY,
    Attribute.SIGN_RECOVER,
    Attribute.VERIFY_RECOVER,
    Attribute.WRAP,
    Attribute.UNWRAP,
    Attribute.DERIVE,
}


@pytest.fixture(scope="module")
def device(new_token: NewToken) -> Iterator[TokenDevice]:
    """Return a token that the tests of this module share."""
    device = new_token("pairs").open()
    yield device
    device.close()


@pytest.fixture(scope="module")
def session(device: TokenDevice) -> Iterator[Session]:
    """Yield a session with it."""
    with device.connection.pool.session() as borrowed:
        yield borrowed


def pair_template(device: TokenDevice, spec: KeySpec, usage: KeyUsage) -> PairTemplate:
    """Return the template of generated keys; UnsupportedOperationException if the token has no such keys."""
    device.keys.check_kind((spec, usage))
    template = template_of(spec, usage)
    assert isinstance(template, PairTemplate)
    return PairTemplate(device.keys._trials.facts(spec), template.capabilities)


@pytest.mark.parametrize(("spec", "usage", "private_uses", "public_uses"), PAIRS)
def test_both_halves_are_as_ordered(
    device: TokenDevice,
    session: Session,
    spec: KeySpec,
    usage: KeyUsage,
    private_uses: set[Attribute],
    public_uses: set[Attribute],
) -> None:
    """Both halves have one CKA_ID and label, only the usages that they need, and the private one hides its value."""
    require_copyable(device)
    cka_id = os.urandom(16)
    pairs.generate_pair(session, pair_template(device, spec, usage), cka_id, "a pair")
    private = find(session, ObjectClass.PRIVATE_KEY, cka_id)
    public = find(session, ObjectClass.PUBLIC_KEY, cka_id)
    assert private is not None
    assert public is not None
    for half, uses in ((private, private_uses), (public, public_uses)):
        values = tell(half, tuple(USAGES))
        assert {name for name, held in values.items() if held} == uses
        assert half[Attribute.LABEL] == "a pair"
        assert (half[Attribute.PRIVATE], half[Attribute.MODIFIABLE], half[Attribute.COPYABLE]) == (True, False, False)
    for name in (Attribute.SENSITIVE, Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE, Attribute.LOCAL):
        assert private[name] is True
    assert private[Attribute.EXTRACTABLE] is False
    secret = Attribute.PRIVATE_EXPONENT if spec is KeySpec.RSA_2048 else Attribute.VALUE
    with pytest.raises(AttributeSensitive):
        private[secret]


@pytest.mark.parametrize(("spec", "usage"), [each[:2] for each in PAIRS])
def test_public_halves(device: TokenDevice, session: Session, spec: KeySpec, usage: KeyUsage) -> None:
    """A public half is read as SubjectPublicKeyInfo of its spec, and only its own private half proves it."""
    template = pair_template(device, spec, usage)
    public, private = pairs.make_pair(session, template, b"one", "", device.profile.attributes, store=False)
    other, _ = pairs.make_pair(session, template, b"two", "", device.profile.attributes, store=False)
    parsed = pairs.read_public(public, template.facts)
    assert parsed.key is not None
    assert load_der_public_key(parsed.info) == parsed.key
    if not isinstance(parsed.key, Ed25519PublicKey):
        assert parsed.key.key_size == template.facts.bits
    assert pairs.disproof(session, template, private, parsed) == []
    wrong = pairs.read_public(other, template.facts)
    assert pairs.disproof(session, template, private, wrong) == ["its halves do not belong together"]


def test_a_pair_that_does_not_belong_together_is_destroyed(
    device: TokenDevice, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a token generates halves that are not one pair, neither stays on it."""
    template = pair_template(device, KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
    monkeypatch.setattr(pairs, "disproof", lambda *_: ["its halves do not belong together"])
    with pytest.raises(TokenUnfitError, match="its halves do not belong together"):
        pairs.generate_pair(session, template, b"ill-matched", "x", device.profile.attributes)
    for object_class in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        assert find(session, object_class, b"ill-matched") is None


def test_a_pair_that_cannot_be_proven_is_destroyed(
    device: TokenDevice, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the proof itself fails, no object stays on the token, so that none has to be cleaned up later."""

    def fail(*_: object) -> list[str]:
        raise UnsupportedOperationException("no such mechanism")

    template = pair_template(device, KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
    monkeypatch.setattr(pairs, "disproof", fail)
    with pytest.raises(TokenUnfitError, match="could not be proven: no such mechanism"):
        pairs.generate_pair(session, template, b"unproven", "x", device.profile.attributes)
    for object_class in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        assert find(session, object_class, b"unproven") is None


class Reported(dict[Attribute, bytes]):
    """An object with given attributes, as other tokens might report them."""

    handle = 1


def test_points_in_both_forms() -> None:
    """CKA_EC_POINT is read as a bare point as well as the standard's OCTET STRING."""
    for spec in (KeySpec.ECC_NIST_P256, KeySpec.ECC_NIST_P521):
        facts = KEY_FACTS[spec]
        assert facts.curve is not None
        known = ec.generate_private_key(facts.curve).public_key()
        point = known.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        for form in (point, der_octet_string(point)):
            parsed = pairs.read_public(Reported({Attribute.EC_POINT: form}), facts)  # type: ignore[arg-type]
            assert parsed.info == subject_public_key_info(known)


@pytest.mark.parametrize(
    "point", [b"", b"\x04", b"\x04" + bytes(64), b"\x04\x41\x04" + bytes(64), bytes(66), b"x" * 67]
)
def test_unusable_points(point: bytes) -> None:
    """A value that is no point of the curve is a fault of the token, not a public key."""
    with pytest.raises(TokenError, match="no usable public key"):
        pairs.read_public(Reported({Attribute.EC_POINT: point}), KEY_FACTS[KeySpec.ECC_NIST_P256])  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", POST_QUANTUM)
def test_post_quantum_public_halves(spec: KeySpec) -> None:
    """SubjectPublicKeyInfo of ML-DSA and ML-KEM keys equals that of an independent implementation."""
    known = POST_QUANTUM[spec].generate().public_key()
    half = Reported({Attribute.VALUE: known.public_bytes_raw()})
    read = pairs.read_public(half, KEY_FACTS[spec])  # type: ignore[arg-type]
    assert read.info == subject_public_key_info(known)
    assert read.key == known
    for wrong in (b"short", known.public_bytes_raw() + b"x"):
        with pytest.raises(TokenError, match="no usable public key"):
            pairs.read_public(Reported({Attribute.VALUE: wrong}), KEY_FACTS[spec])  # type: ignore[arg-type]


def test_ml_kem_512_public_halves() -> None:
    """Cryptography has no ML-KEM-512: its key is encoded by hand (RFC 9935), and not parsed."""
    value = bytes(range(200)) * 4
    half = Reported({Attribute.VALUE: value})
    read = pairs.read_public(half, KEY_FACTS[KeySpec.ML_KEM_512])  # type: ignore[arg-type]
    assert read.info == bytes.fromhex("30820332300b060960864801650304040103820321 00") + value
    assert read.key is None


def test_impossible_encapsulation_keys() -> None:
    """A public key whose coefficients are not below the modulus (FIPS 203, section 7.2) is a fault of the token."""
    facts = KEY_FACTS[KeySpec.ML_KEM_768]
    with pytest.raises(TokenError, match="no usable public key"):
        pairs.read_public(Reported({Attribute.VALUE: b"\xff" * facts.size}), facts)  # type: ignore[arg-type]


def test_the_table_is_consistent(session: Session) -> None:
    """Every spec but ML-DSA and ML-KEM has a mechanism; secret keys have the bits that their name says."""
    mechanisms = session.token.slot.get_mechanisms()
    missing = {spec for spec, facts in KEY_FACTS.items() if facts.generation not in mechanisms}
    assert missing == {*POST_QUANTUM, KeySpec.ML_KEM_512}
    assert set(KeySpec) == set(KEY_FACTS)
    for bits in (224, 256, 384, 512):
        assert KEY_FACTS[KeySpec[f"HMAC_{bits}"]].bits == bits
