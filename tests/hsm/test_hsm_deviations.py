"""Tokens that do not know an attribute, or report it otherwise: what is tolerated, what is tightened, what is refused.

The shim plays them over SoftHSM; NSS softokn, where it is installed, shows its own deviations.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from devices import MakeToken, SoftHsm, new_key, permit
from pkcs11.constants import Attribute
from pkcs11.mechanisms import Mechanism
from pkcs11.types import Session
from shims import Played, ignoring
from test_hsm_unwrapping import KEY_WRAP_1, OAEP_1, ON_DEVICE, Bench, opens

from hsmkms.errors import TokenUnavailableError, TokenUnfitError, UnsupportedOperationException
from hsmkms.hsm.crypto.pairs import generate_pair
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.imports.hardening import INSTANT, Hardening
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY, MAPPER
from hsmkms.hsm.objects.backing_keys import CAPABILITIES, PairTemplate
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.hsm.objects.objects import differences, generate
from hsmkms.hsm.objects.support import Copying
from hsmkms.hsm.probing.attributes import try_attributes
from hsmkms.hsm.probing.pairs import try_pair
from hsmkms.hsm.session import module as modules
from hsmkms.model.enums import DataKeyPairSpec, KeySpec, KeyUsage, Operation, SigningAlgorithm

COPYABLE, LOCAL = hex(Attribute.COPYABLE), hex(Attribute.LOCAL)
PAIR = (KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
ED25519 = (KeySpec.ECC_NIST_EDWARDS25519, KeyUsage.SIGN_VERIFY)
NSS_MODULES = (
    "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
    "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
    "/usr/lib64/libsoftokn3.so",
)


@pytest.fixture
def played(make_token: MakeToken, shim_path: Path) -> Played:
    """Return a fresh token behind the shim, which has no orders yet."""
    return Played.of(make_token(), shim_path)


@pytest.fixture
def token(played: Played) -> SoftHsm:
    """Return the same token."""
    return played.token


def new_pair(device: TokenDevice, kind: tuple[KeySpec, KeyUsage] = PAIR) -> bytes:
    """Make a key pair; its CKA_ID."""
    cka_id = os.urandom(16)
    device.keys.generate_backing_key(permit(Operation.CREATE_KEY, cka_id), cka_id, "a pair", kind)
    return cka_id


# -- CKA_COPYABLE ---------------------------------------------------------------------------------------------------


def test_a_token_that_does_all_has_no_quirk(played: Played) -> None:
    """SoftHSM needs no tolerance: it refuses the copy and reports every attribute as ordered."""
    device = played.token.open()
    attributes = device.profile.attributes
    assert attributes.copies is Copying.REFUSED
    assert (attributes.orders_copyable, attributes.copyable, attributes.local, attributes.quirks) == (True, (), (), ())
    key = new_key(device)
    reported, deviations = device.keys.attest(key)
    assert deviations == []
    assert device.keys.tolerated(reported) == []


@pytest.mark.parametrize("code", ["0x12", "0x13", "0x5"])
def test_copyable_refused_in_templates(played: Played, code: str) -> None:
    """If a template with CKA_COPYABLE is refused, with any code, it is left out, and a copy is tried."""
    played.order(f"refuse {COPYABLE} {code}")
    device = played.token.open()
    attributes = device.profile.attributes
    assert not attributes.orders_copyable
    assert attributes.copyable == (True,)  # SoftHSM's default
    assert attributes.copies is Copying.SAME
    (quirk,) = device.profile.quirks
    assert quirk.startswith("CKA_COPYABLE is unknown or has no effect, so it is left out")
    assert quirk.endswith(attributes.copies)
    key, pair = new_key(device), new_pair(device)
    reported, deviations = device.keys.attest(key)
    assert deviations == []
    assert device.keys.tolerated(reported) == ["CKA_COPYABLE is True instead of False"]
    reported, deviations = device.keys.attest_public(pair, PAIR)
    assert deviations == []
    assert device.keys.tolerated(reported, PAIR, public=True) == ["CKA_COPYABLE is True instead of False"]
    bench = Bench(device)
    secret = os.urandom(32)
    assert opens(bench, bench.bring(bench.wrap(OAEP_1, secret)), secret)


def test_a_fault_at_start_loosens_nothing(played: Played) -> None:
    """After a brief device fault while the token is opened, CKA_COPYABLE is still ordered."""
    played.order("fault C_GenerateKey 1 return 0x5")
    assert played.token.open().profile.attributes.orders_copyable


def test_copyable_ignored(played: Played) -> None:
    """A token that always reports keys as copyable is used; the quirk says what a copy becomes."""
    played.order(ignoring(Attribute.COPYABLE, value=True))
    device = played.token.open()
    attributes = device.profile.attributes
    assert attributes.orders_copyable
    assert attributes.copyable == (True,)
    assert attributes.copies is Copying.SAME
    assert device.keys.attest(new_key(device))[1] == []


def test_copyable_unreported(played: Played) -> None:
    """A token that does not report the attribute, but refuses to copy, is used."""
    played.order(f"report {COPYABLE} none")
    device = played.token.open()
    assert device.profile.attributes.copyable == (None,)
    assert device.profile.attributes.copies is Copying.REFUSED
    attributes, deviations = device.keys.attest(new_key(device))
    assert deviations == []
    assert device.keys.tolerated(attributes) == ["CKA_COPYABLE is None instead of False"]


def test_copyable_that_begins_to_be_ignored(played: Played) -> None:
    """A deviation that the trial at start did not show is not tolerated: the key is destroyed."""
    device = played.token.open()
    witness, key = new_key(device), os.urandom(16)
    played.order(ignoring(Attribute.COPYABLE, value=True))
    with pytest.raises(TokenUnfitError, match="CKA_COPYABLE is True instead of False"):
        device.keys.generate_backing_key(permit(Operation.CREATE_KEY, key), key, "never")
    assert [stored_key.cka_id for stored_key in device.keys.inventory(witness)] == [witness]


def test_readable_copies_are_named(played: Played) -> None:
    """If a copy of a key becomes extractable, the profile says that keys can be extracted with the PIN."""
    played.order(ignoring(Attribute.COPYABLE, value=True), "readable_copies")
    device = played.token.open()
    assert device.profile.attributes.copies is Copying.READABLE
    assert any("whoever has the PIN can take keys out of this token" in quirk for quirk in device.profile.quirks)
    with device.connection.pool.session() as session:
        assert list(session.get_objects({})) == []


# -- CKA_LOCAL, CKA_PRIVATE of public halves, and what must hold -----------------------------------------------------


@pytest.mark.parametrize(("order", "value"), [("0", False), ("none", None)])
def test_local_reported_otherwise(played: Played, order: str, value: object) -> None:
    """A token that does not report CKA_LOCAL of generated keys is used if the other two attributes hold."""
    played.order(f"report {LOCAL} {order}")
    device = played.token.open()
    assert device.profile.attributes.local == (value,)
    assert any(quirk.startswith("CKA_LOCAL of generated keys is reported as") for quirk in device.profile.quirks)
    for cka_id, kind in ((new_key(device), None), (new_pair(device), PAIR)):
        attributes, deviations = device.keys.attest(cka_id, *filter(None, (kind,)))
        assert deviations == []
        assert device.keys.tolerated(attributes, *filter(None, (kind,))) == [f"CKA_LOCAL is {value} instead of True"]


@pytest.mark.parametrize("attribute", [Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE], ids=str)
@pytest.mark.parametrize("value", ["0", "none"])
def test_the_past_of_generated_keys_must_hold(played: Played, attribute: Attribute, value: str) -> None:
    """A token that does not report generated keys as always sensitive and never extractable is refused."""
    played.order(f"report {attribute:#x} {value}")
    with pytest.raises(TokenUnfitError, match=f"CKA_{attribute.name} is (False|None) instead of True"):
        played.token.open()


def test_public_halves_that_are_not_private(played: Played) -> None:
    """A public half that is not CKA_PRIVATE is tolerated, and noted when the first pair is made."""
    device = played.token.open()
    assert device.profile.attributes.quirks == ()
    played.order(f"report {Attribute.PRIVATE:#x} 0 public")
    pair = new_pair(device)
    phrase = "CKA_PRIVATE is False instead of True"
    assert device.profile.attributes.quirks == (f"public halves: {phrase}",)
    attributes, deviations = device.keys.attest_public(pair, PAIR)
    assert deviations == []
    assert device.keys.tolerated(attributes, PAIR, public=True) == [phrase]


# -- unwrapped keys -------------------------------------------------------------------------------------------------


def test_silence_about_unwrapped_keys(played: Played) -> None:
    """A token without CKA_ALWAYS_SENSITIVE of unwrapped keys (kryoptic) imports, and `attest` shows what is missing."""
    past = (Attribute.LOCAL, Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE)
    played.order(*(f"report {each:#x} none unwrapped" for each in past))
    device = played.token.open()
    assert device.profile.quirks == ()
    bench = Bench(device)
    secret = os.urandom(32)
    key = bench.bring(bench.wrap(OAEP_1, secret))
    assert opens(bench, key, secret)
    attributes, deviations = device.keys.attest(key, imported=True)
    assert deviations == []
    silent = [f"CKA_{each.name} is None instead of False" for each in past]
    assert device.keys.tolerated(attributes, imported=True) == silent
    assert device.profile.attributes.quirks == tuple(f"imported keys: {each}" for each in silent[1:])


def test_ignored_templates_are_tightened(played: Played) -> None:
    """If C_UnwrapKey always creates extractable keys, the key that stays is a tightened copy.

    It is exactly as ordered, and the instant in which the session object was extractable is named.
    """
    played.order(f"ignore_unwrapped {Attribute.EXTRACTABLE:#x} 1")
    device = played.token.open()
    bench = Bench(device)
    profile = device.imports.profiles.symmetric()
    assert profile.hardening is Hardening.BY_COPYABLE_COPY  # SoftHSM lets no copy order CKA_COPYABLE
    assert device.imports.quirks() == (Hardening.BY_COPYABLE_COPY.value,)
    assert INSTANT in Hardening.BY_COPYABLE_COPY
    for algorithm in ON_DEVICE:
        secret, before = os.urandom(32), bench.objects()
        key = bench.bring(bench.wrap(algorithm, secret))
        assert opens(bench, key, secret)
        assert bench.objects() == before + 1
        attributes, deviations = device.keys.attest(key, imported=True)
        assert deviations == []
        assert device.keys.tolerated(attributes, imported=True) == ["CKA_COPYABLE is True instead of False"]
        assert (attributes["CKA_EXTRACTABLE"], attributes["CKA_SENSITIVE"], attributes["CKA_MODIFIABLE"]) == (
            False,
            True,
            False,
        )


def test_tightening_of_other_kinds(played: Played) -> None:
    """HMAC keys and private keys are importable on such a token as well, and are tightened in the same way."""
    played.order(f"ignore_unwrapped {Attribute.EXTRACTABLE:#x} 1")
    device = played.token.open()
    hmac = (KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC)
    for kind in (hmac, PAIR, (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY)):
        device.imports.check_import(kind)
    assert device.imports.profiles.every_kind().hardening is Hardening.BY_COPYABLE_COPY
    bench = Bench(device)
    private_key = ec.generate_private_key(ec.SECP256R1())
    pkcs_8 = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for kind, secret in ((hmac, os.urandom(32)), (PAIR, pkcs_8)):
        material, new = bench.wrap(KEY_WRAP_1, secret), os.urandom(16)
        device.imports.unwrap_backing_key(bench.may(new, bench.key), material, new, "imported", kind)
        attributes, deviations = device.keys.attest(new, kind, imported=True)
        assert deviations == []
        assert (attributes["CKA_EXTRACTABLE"], attributes["CKA_SENSITIVE"]) == (False, True)


@pytest.mark.parametrize("function", ["C_SetAttributeValue", "C_CopyObject"])
def test_what_cannot_be_tightened_is_refused(played: Played, function: str) -> None:
    """If a step of the tightening is refused, imports are refused with a sentence that names the reason."""
    played.order(f"ignore_unwrapped {Attribute.EXTRACTABLE:#x} 1", f"fault {function} * return 0x10")
    device = played.token.open()
    witness = new_key(device)
    assert device.imports.wrapping_algorithms() == ()
    (quirk,) = device.imports.quirks()
    assert "CKA_EXTRACTABLE is True instead of False" in quirk
    assert "between C_UnwrapKey and C_SetAttributeValue" in quirk
    with pytest.raises(UnsupportedOperationException, match="between C_UnwrapKey and C_SetAttributeValue"):
        device.imports.profiles.of(OAEP_1)
    with pytest.raises(UnsupportedOperationException, match="CKA_EXTRACTABLE is True instead of False"):
        device.imports.check_import(PAIR)
    assert [stored_key.cka_id for stored_key in device.keys.inventory(witness)] == [witness]


# -- numbers and names ----------------------------------------------------------------------------------------------


def test_key_wrap_by_its_new_number(played: Played) -> None:
    """AES-KWP is used as 0x210B on tokens with that number, for imports and for data key pairs."""
    played.order("kwp_by_new_number")
    device = played.token.open()
    assert device.imports.profiles.symmetric().key_wrap is Mechanism.AES_KEY_WRAP_KWP
    bench = Bench(device)
    for algorithm in ON_DEVICE:
        secret = os.urandom(32)
        assert opens(bench, bench.bring(bench.wrap(algorithm, secret)), secret)
    device.pairs.data_key_pair(permit(Operation.GENERATE_DATA_KEY_PAIR), KeySpec.ECC_NIST_P256)
    assert [way.wrapping for way in device.pairs._ways.values()] == [Mechanism.AES_KEY_WRAP_KWP]


def test_ed25519_by_object_identifier(played: Played) -> None:
    """If Ed25519 is named by its object identifier, keys and data key pairs are generated, and keys recognised."""
    played.order("ed25519_by_oid")
    device = played.token.open()
    device.keys.check_kind(ED25519)
    pair = new_pair(device, ED25519)
    assert device.keys.attest(pair, ED25519)[1] == []
    assert device.keys.identify(pair) == ED25519
    signature = device.pairs.sign(permit(Operation.SIGN, pair), pair, SigningAlgorithm.ED25519_SHA_512, b"message")
    may = permit(Operation.VERIFY, pair)
    assert device.pairs.verify(may, pair, ED25519, SigningAlgorithm.ED25519_SHA_512, b"message", signature)
    device.pairs.data_key_pair(permit(Operation.GENERATE_DATA_KEY_PAIR), ED25519[0])


@pytest.mark.parametrize(
    ("code", "name"),
    [("0x140", "CKR_CURVE_NOT_SUPPORTED"), ("0x130", "CKR_DOMAIN_PARAMS_INVALID"), ("0x5", "CKR_GENERAL_ERROR")],
)
def test_curves_that_are_listed_and_not_made(played: Played, code: str, name: str) -> None:
    """A listed curve that the token does not generate is refused with its return code before anything is created."""
    device = played.token.open()
    witness = new_key(device)
    played.order(f"fault C_GenerateKeyPair * return {code}")
    with pytest.raises(UnsupportedOperationException, match=rf"ECC_NIST_P256 for SIGN_VERIFY \(it answers {name}\)"):
        device.keys.check_kind(PAIR)
    with pytest.raises(UnsupportedOperationException, match=rf"no key pairs of spec ECC_NIST_P256: it answers {name}"):
        new_pair(device)
    with pytest.raises(UnsupportedOperationException, match="no data key pairs of KeyPairSpec ECC_NIST_P384"):
        device.pairs.check_data_key_pair(KeySpec.ECC_NIST_P384)
    assert [stored_key.cka_id for stored_key in device.keys.inventory(witness)] == [witness]


def test_the_trial_leaves_nothing(device: TokenDevice) -> None:
    """Trials of every spec leave no object, on the token or in the session, and are run once."""
    specs = [spec for spec, facts in KEY_FACTS.items() if facts.public and device.connection.has(facts.generation)]
    outcomes = [device.pairs._trials.outcome(spec) for spec in specs]
    assert not any(isinstance(outcome, str) for outcome in outcomes)
    assert [device.pairs._trials.outcome(spec) for spec in specs] == outcomes
    with device.connection.pool.session() as session:
        assert list(session.get_objects({})) == []


# -- data key pairs -------------------------------------------------------------------------------------------------


def test_data_key_pairs_take_the_way_that_works(played: Played) -> None:
    """If wrapping is refused, with any code, the pair is read by attribute; wrapping is tried once per process."""
    device = played.token.open()
    may = permit(Operation.GENERATE_DATA_KEY_PAIR)
    played.order("fault C_WrapKey * return 0x70")
    device.pairs.data_key_pair(may, KeySpec.ECC_NIST_P256)
    assert [way.wrapping for way in device.pairs._ways.values()] == [None]
    played.order("fault C_WrapKey * kill")
    device.pairs.data_key_pair(may, KeySpec.ECC_NIST_P384)


def test_a_failing_way_is_tried_again(played: Played) -> None:
    """A code that may mean a device fault decides nothing: wrapping is tried again for the next pair."""
    device = played.token.open()
    may = permit(Operation.GENERATE_DATA_KEY_PAIR)
    played.order("fault C_WrapKey 1 return 0x5")
    device.pairs.data_key_pair(may, KeySpec.ECC_NIST_P256)
    assert device.pairs._ways == {}
    played.order()
    device.pairs.data_key_pair(may, KeySpec.ECC_NIST_P256)
    assert [way.wrapping for way in device.pairs._ways.values()] == [Mechanism.AES_KEY_WRAP_PAD]


def test_no_way_at_all(played: Played) -> None:
    """A token that neither wraps nor returns private keys is refused with its return code for each way."""
    device = played.token.open()
    device.pairs.check_data_key_pair(KeySpec(DataKeyPairSpec.ECC_NIST_P256))
    played.order("fault C_WrapKey * return 0x6A", f"report {Attribute.VALUE:#x} none")
    with pytest.raises(UnsupportedOperationException) as caught:
        device.pairs.data_key_pair(permit(Operation.GENERATE_DATA_KEY_PAIR), KeySpec.ECC_NIST_P256)
    assert "CKR_KEY_UNEXTRACTABLE by CKM_AES_KEY_WRAP_PAD" in str(caught.value)
    assert "by attribute" in str(caught.value)


# -- what is wrong, by whatever code --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["0x5", "0x6", "0x7", "0x20", "0x30", "0x68", "0x70", "0xC0"])
def test_wrong_signatures_by_any_code(played: Played, code: str) -> None:
    """A signature that the token refuses with any code is invalid, as long as the device works."""
    device = played.token.open()
    pair = new_pair(device, ED25519)
    algorithm, may = SigningAlgorithm.ED25519_PH_SHA_512, permit(Operation.VERIFY, pair)
    played.order(f"fault C_Verify * return {code} after")
    assert device.pairs.verify(may, pair, ED25519, algorithm, bytes(64), bytes(64)) is False


# -- NSS softokn ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nss(tmp_path: Path) -> Iterator[Session]:
    """Yield a logged-in session of a fresh NSS token; softokn is in Debian's libnss3."""
    path = next((Path(each) for each in NSS_MODULES if Path(each).is_file()), None)
    if path is None:
        pytest.skip("NSS softokn is not installed (package libnss3)")
    reserved = f"configdir='sql:{tmp_path}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
    module = modules.acquire(path, reserved=reserved)
    try:
        (token,) = (slot.get_token() for slot in module.slots() if "Certificate DB" in slot.get_token().label)
        session = token.open(rw=True, so_pin="")
        session.init_pin("correct horse")
        session.close()
        session = token.open(rw=True, user_pin="correct horse", attribute_mapper=MAPPER)
        yield session
        session.close()
    finally:
        module.release()


def test_nss_keeps_secret_keys(nss: Session) -> None:
    """NSS refuses CKA_COPYABLE of token objects, copies keys to extractable ones, and reports no key as local."""
    support = try_attributes(nss)
    assert not support.orders_copyable
    assert support.copies is Copying.READABLE
    assert support.local == (False,)
    made = generate(nss, AES_256_BACKING_KEY, b"a key on NSS    ", "a key", support)
    assert differences(made, AES_256_BACKING_KEY.expected(b"a key on NSS    ", "a key")) == [
        "CKA_COPYABLE is None instead of False",
        "CKA_LOCAL is False instead of True",
    ]
    with pytest.raises(TokenUnavailableError):  # CKR_GENERAL_ERROR
        generate(nss, AES_256_BACKING_KEY, b"another key     ", "another")


def test_nss_keeps_pairs(nss: Session) -> None:
    """NSS's refusals of secp256k1 and Ed25519 are named; its public halves are tolerated.

    They report CKA_PRIVATE as false when it is read alone, and as true when it is read together with others.
    """
    support = try_attributes(nss)
    facts = try_pair(nss, KEY_FACTS[KeySpec.ECC_NIST_P256], support)
    assert not isinstance(facts, str)
    generate_pair(nss, PairTemplate(facts, CAPABILITIES[KeyUsage.SIGN_VERIFY]), b"a pair on NSS   ", "a pair", support)
    assert try_pair(nss, KEY_FACTS[KeySpec.ECC_SECG_P256K1], support) == "it answers CKR_DOMAIN_PARAMS_INVALID"
    assert try_pair(nss, KEY_FACTS[KeySpec.ECC_NIST_EDWARDS25519], support) == "it answers CKR_MECHANISM_INVALID"
