"""AES-CBC with HMAC on the token: known answers, frozen ciphertexts, two keys created and destroyed together.

What every token must do, round trips and the refusal of every changed bit among it, runs on a token without AES-GCM in
test_hsm_personalities.py.
"""

import hmac
import os
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from devices import MakeToken, checks_of, new_key, permit
from hypothesis import given
from hypothesis import strategies as st
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session
from shims import NO_GCM, Played, ignoring
from test_hsm_gcm import load

from hsmkms.errors import (
    MisuseError,
    ObjectLostError,
    RejectedDataError,
    TokenError,
    TokenUnavailableError,
    TokenUnfitError,
    UnsupportedOperationException,
)
from hsmkms.hsm.checks.formats import CBC_VECTOR, SHORT_DATA
from hsmkms.hsm.crypto import cbc
from hsmkms.hsm.crypto.gcm_from_blocks import open_from_blocks
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects import cbc_pairs
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY
from hsmkms.hsm.objects.cbc_pairs import make_both, read_back_both
from hsmkms.hsm.objects.objects import find, generate, handle_of, require_there
from hsmkms.model.cipher_format import CipherFormat, format_of, mac_key_id, material_of_mac_key, new_cka_id
from hsmkms.model.enums import Operation
from hsmkms.model.token_check import Outcome

GCM, CBC = CipherFormat.AES_256_GCM, CipherFormat.AES_256_CBC_HMAC_SHA_256
AES_KEY, HMAC_KEY = bytes(range(32)), bytes(range(32, 64))

RFC_7518_KEY = bytes(range(16))
RFC_7518_AAD = b"The second principle of Auguste Kerckhoffs"
RFC_7518_IV = bytes.fromhex("1af38c2dc2b96ffdd86694092341bc04")
RFC_7518_CIPHERTEXT = bytes.fromhex(
    "c80edfa32ddf39d5ef00c0b468834279a2e46a1b8049f792f76bfe54b903a9c9a94ac9b47ad2655c5f10f9aef71427e2"
    "fc6f9b3f399a221489f16362c703233609d45ac69864e3321cf82935ac4096c86e133314c54019e8ca7980dfa4b9cf1b"
    "384c486f3a54c51078158ee5d79de59fbd34d848b3d69550a67646344427ade54b8851ffb598f7f80074b9473c82e2db"
)
RFC_7518_MAC = bytes.fromhex("652c3fa36b0a7c5b3219fab3a30bc1c4e6e54582476515f0ad9f75a2b71c73ef")
"""RFC 7518, appendix B.1: what its HMAC covers is what ours covers. The MAC is M there, before it is cut."""

FROZEN = (
    (
        b"",
        b"",
        "6465666768696a6b6c6d6e6f70717273",
        "f795f6e8802fd151a021a41150d4ab69d335ec6dbb1d612eb4e64b0290eecf562d96c59c86fe71dddd69ac010d720572",
    ),
    (
        b"frozen",
        b"hkms context",
        "7475767778797a7b7c7d7e7f80818283",
        "9ab39c49a812eda7f9bb37dc8628b1568974a577fed8f3cbd2c9add31f6349af4ef1793dc44e60cb05e7335db7be45cd",
    ),
    (
        b"sixteen bytes...",
        b"",
        "00000000000000000000000000000000",
        (
            "dc2c3649b7c1da51c5bfcf64f10b895c16802ea17260201a75a391fd26771bdc"
            "287f3591c3f0f1a5cf5f46965495e22349ba72a21203ad2d6397ceffda78b3b3"
        ),
    ),
)
"""Plaintext, additional data, IV, and ciphertext || tag under the two known keys, computed by other libraries once."""


def load_both(session: Session) -> cbc.Keys:
    """Load the two known keys as session objects of this test."""
    made = session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
            Attribute.TOKEN: False,
            Attribute.SIGN: True,
            Attribute.VALUE: HMAC_KEY,
        }
    )
    return cbc.Keys(load(session, AES_KEY), handle_of(made))


def expected(iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return ciphertext and tag as computed by other libraries."""
    missing = 16 - len(plaintext) % 16
    encryptor = Cipher(algorithms.AES(AES_KEY), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(plaintext + bytes([missing]) * missing) + encryptor.finalize()
    covered = aad + iv + ciphertext + (8 * len(aad)).to_bytes(8, "big")
    return ciphertext + hmac.digest(HMAC_KEY, covered, "sha256")


# -- answers that others have published -----------------------------------------------------------------------------


def test_published_mac() -> None:
    """The HMAC covers exactly the bytes that RFC 7518 specifies."""
    covered = cbc.mac_input(RFC_7518_AAD, RFC_7518_IV, RFC_7518_CIPHERTEXT)
    assert hmac.digest(RFC_7518_KEY, covered, "sha256") == RFC_7518_MAC


def test_published_ciphertext(session: Session) -> None:
    """The token's ciphertext is NIST's, followed by one block of padding."""
    key, iv, plaintext, ciphertext = (bytes.fromhex(CBC_VECTOR[each]) for each in CBC_VECTOR)
    keys = cbc.Keys(load(session, key), load_both(session).authenticating)
    sealed = cbc.seal(session, keys, iv, plaintext, b"")
    assert sealed[: len(plaintext)] == ciphertext
    assert len(sealed) == len(plaintext) + 16 + 32
    assert cbc.open_sealed(session, keys, iv, sealed, b"") == plaintext


@pytest.mark.parametrize("frozen", FROZEN, ids=[each[0].decode() or "empty" for each in FROZEN])
def test_frozen_ciphertexts(session: Session, frozen: tuple[bytes, bytes, str, str]) -> None:
    """Frozen ciphertexts decrypt, and the same plaintexts encrypt to the same bytes."""
    keys, (plaintext, aad, iv, body) = load_both(session), frozen
    assert cbc.open_sealed(session, keys, bytes.fromhex(iv), bytes.fromhex(body), aad) == plaintext
    assert cbc.seal(session, keys, bytes.fromhex(iv), plaintext, aad).hex() == body


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4095, 4096])
def test_sizes(session: Session, size: int) -> None:
    """From 0 to 4,096 bytes, with and without additional data, the token has the same results as other libraries."""
    keys, plaintext = load_both(session), b"p" * size
    for aad in (b"", b"a" * 20, b"a" * 9000):
        iv = session.generate_random(128)
        sealed = cbc.seal(session, keys, iv, plaintext, aad)
        assert sealed == expected(iv, plaintext, aad)
        assert cbc.open_sealed(session, keys, iv, sealed, aad) == plaintext


def test_longest_plaintext(session: Session) -> None:
    """More than 4,096 bytes are refused: the allowed number of encryptions depends on that limit."""
    with pytest.raises(MisuseError, match="4097 bytes were to be encrypted at once"):
        cbc.seal(session, load_both(session), bytes(16), b"p" * 4097, b"")


@given(first=st.tuples(st.binary(), st.binary()), second=st.tuples(st.binary(), st.binary()))
def test_no_two_inputs_are_one(first: tuple[bytes, bytes], second: tuple[bytes, bytes]) -> None:
    """No two different pairs of additional data and ciphertext have the same HMAC input."""
    inputs = {cbc.mac_input(aad, bytes(16), ciphertext) for aad, ciphertext in (first, second)}
    assert len(inputs) == len({first, second})


def test_authentic_data_that_is_not_padded(session: Session) -> None:
    """Data with a valid HMAC but no padding is a fault of the token (its two keys do not fit), not bad data."""
    keys, iv = load_both(session), bytes(16)
    encryptor = Cipher(algorithms.AES(AES_KEY), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(bytes(16))
    tag = hmac.digest(HMAC_KEY, cbc.mac_input(b"", iv, ciphertext), "sha256")
    with pytest.raises(TokenError, match="does not decrypt what it encrypted") as caught:
        cbc.open_sealed(session, keys, iv, ciphertext + tag, b"")
    assert not isinstance(caught.value, RejectedDataError)


def test_nothing_is_decrypted_before_it_is_verified(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong tag is refused before the token decrypts anything."""
    keys, iv = load_both(session), bytes(16)
    sealed = cbc.seal(session, keys, iv, b"plaintext", b"")
    decrypted: list[int] = []
    monkeypatch.setattr(cbc, "decrypt", lambda *_: decrypted.append(1))
    with pytest.raises(RejectedDataError):
        cbc.open_sealed(session, keys, iv, sealed[:-1] + bytes((sealed[-1] ^ 1,)), b"")
    assert not decrypted


@given(uuid4=st.uuids(version=4))
def test_ids(uuid4: UUID) -> None:
    """A CKA_ID determines its format and the HMAC key's CKA_ID, and vice versa; a random one has no HMAC key."""
    random = uuid4.bytes
    assert (format_of(random), mac_key_id(random), material_of_mac_key(random)) == (GCM, None, None)
    assert format_of(new_cka_id()) is GCM
    made = new_cka_id(CBC)
    other = mac_key_id(made)
    assert other is not None
    assert (format_of(made), material_of_mac_key(made)) == (CBC, None)
    assert (mac_key_id(other), material_of_mac_key(other)) == (None, made)
    assert [a == b for a, b in zip(made, other, strict=True)].count(False) == 1 + (made[7] != other[7])


# -- on a token without AES-GCM -------------------------------------------------------------------------------------


@pytest.fixture
def played(make_token: MakeToken, shim_path: Path) -> Played:
    """Return a token without AES-GCM."""
    return Played.of(make_token(), shim_path, *NO_GCM.orders)


def two_ids(cka_id: bytes) -> tuple[bytes, bytes]:
    """Return the CKA_IDs of both objects of a material."""
    other = mac_key_id(cka_id)
    assert other is not None
    return cka_id, other


def on_token(device: TokenDevice, cka_id: bytes) -> list[bool]:
    """Return whether each of both objects is on the token."""
    with device.connection.pool.session() as session:
        return [find(session, ObjectClass.SECRET_KEY, each) is not None for each in two_ids(cka_id)]


def test_two_keys_for_one_material(played: Played) -> None:
    """Both are created as ordered, non-extractable, with only their own usages, and are destroyed together."""
    device = played.token.open()
    key = new_key(device)
    attributes, deviations = device.keys.attest(key)
    assert deviations == []
    assert (attributes["CKA_ENCRYPT"], attributes["CKA_SIGN"]) == (True, False)
    of_mac_key = device.keys.attest_mac_key(key)
    usages = {name for name in of_mac_key if of_mac_key[name] is True}
    expected_true = {"TOKEN", "PRIVATE", "SENSITIVE", "SIGN", "LOCAL", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE"}
    assert usages == {f"CKA_{name}" for name in expected_true} | {"CKA_DESTROYABLE"}
    assert of_mac_key["CKA_KEY_TYPE"] == "CKK_GENERIC_SECRET"
    assert device.keys.holds(key)
    assert [each.is_key for each in device.keys.inventory(key)].count(True) == 1
    assert device.keys.destroy(permit(Operation.DELETE_IMPORTED_KEY_MATERIAL, key), key)
    assert on_token(device, key) == [False, False]


@pytest.mark.parametrize("which", [0, 1], ids=["encrypting key", "HMAC key"])
def test_one_of_two_is_missing(played: Played, which: int) -> None:
    """A material that lacks one of its keys counts as missing: it neither encrypts nor decrypts; `attest` says so."""
    device = played.token.open()
    witness, key = new_key(device), new_key(device)
    sealed = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"secret", b"")
    with device.connection.pool.session() as session:
        found = find(session, ObjectClass.SECRET_KEY, two_ids(key)[which])
        assert found is not None
        found.destroy()
    device.connection.forget(two_ids(key)[which])
    with pytest.raises(ObjectLostError):
        device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, b"")
    with pytest.raises(ObjectLostError):
        device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"secret", b"")
    assert not device.keys.holds(key)
    assert [each.cka_id for each in device.keys.inventory(witness) if each.is_key] == [witness]
    assert [each.is_key for each in device.keys.inventory(witness) if each.cka_id == key] == [False]
    if which:
        assert device.keys.attest(key)[1] == [
            "HMAC key: it is not on the token, without which nothing of this material decrypts"
        ]


@pytest.mark.parametrize("code", ["0x40", "0x41"], ids=["encrypted data invalid", "encrypted data length range"])
def test_authentic_data_that_is_refused(played: Played, code: str) -> None:
    """If the token refuses data with a valid HMAC, that is a fault of the token, not a bad ciphertext."""
    device = played.token.open()
    key = new_key(device)
    sealed = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"secret", b"")
    played.order(*NO_GCM.orders, f"fault C_Decrypt * return {code}")
    with pytest.raises(TokenError, match="does not decrypt what it encrypted") as caught:
        device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, b"")
    assert not isinstance(caught.value, RejectedDataError)
    played.order(*NO_GCM.orders)
    assert device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, b"") == b"secret"


@pytest.mark.parametrize("mechanism", ["HMAC", "AES-CBC"])
def test_token_that_takes_little_data(played: Played, mechanism: str) -> None:
    """If the token takes less data at once, the error names the remedy, and `token-check` reports it before."""
    device = played.token.open()
    key = new_key(device)
    short = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"secret", b"")
    long = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"p" * 4096, b"")
    played.order(*NO_GCM.orders, "sign_at_most 2048" if mechanism == "HMAC" else "fault C_Encrypt * return 0x21")
    with pytest.raises(UnsupportedOperationException, match="use a shorter encryption context"):
        device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"p" * 4096, b"")
    assert device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *short, b"") == b"secret"
    if mechanism == "HMAC":
        with pytest.raises(UnsupportedOperationException, match="use a shorter encryption context"):
            device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *long, b"")
        checked = checks_of(device)["AES-CBC with HMAC"]
        assert (checked.outcome, checked.detail) == (Outcome.LIMITED, SHORT_DATA)


def test_refused_second_key_leaves_nothing(played: Played) -> None:
    """If the token creates the first key and refuses the second, the first is destroyed."""
    device = played.token.open()
    key = new_cka_id(CBC)
    played.order(*NO_GCM.orders, "fault C_GenerateKey 2 return 0x71")
    with pytest.raises(UnsupportedOperationException, match="CKR_MECHANISM_PARAM_INVALID"):
        device.keys.generate_backing_key(permit(Operation.CREATE_KEY, key), key, "refused")
    played.order(*NO_GCM.orders)
    assert on_token(device, key) == [False, False]


@pytest.mark.parametrize("which", [0, 1], ids=["encrypting key", "HMAC key"])
def test_one_of_two_is_unfit(played: Played, which: int) -> None:
    """If one of both is not as ordered, the error names the ignored attribute, and both are destroyed."""
    device = played.token.open()
    key, usage = new_cka_id(CBC), (Attribute.SIGN, Attribute.ENCRYPT)[which]
    played.order(*NO_GCM.orders, ignoring(usage, value=True))
    with pytest.raises(TokenUnfitError, match=rf"CKA_{usage.name} is True instead of False"):
        device.keys.generate_backing_key(permit(Operation.CREATE_KEY, key), key, "unfit")
    played.order(*NO_GCM.orders)
    assert on_token(device, key) == [False, False]


@pytest.mark.parametrize("first_is_swapped", [True, False])
def test_swapped_while_two_are_made(device: TokenDevice, session: Session, *, first_is_swapped: bool) -> None:
    """On a token that was swapped a handle may be another object's, which is never destroyed."""
    key, label, other, support = new_cka_id(CBC), "swapped", os.urandom(16), device.profile.attributes
    both = make_both(session, key, label, support)
    stranger = generate(session, AES_256_BACKING_KEY, other, label, support)
    changed = cbc_pairs.Both(stranger, both[1]) if first_is_swapped else cbc_pairs.Both(both[0], stranger)
    with pytest.raises(TokenError, match="has another CKA_ID, so it was left as it is") as caught:
        read_back_both(changed, key, label, support)
    assert not isinstance(caught.value, TokenUnfitError)
    unfit = cbc_pairs.Both(both[0], stranger)
    with pytest.raises(TokenError, match="has another CKA_ID, so it was left as it is"):
        read_back_both(unfit, key, "another label", support)
    assert find(session, ObjectClass.SECRET_KEY, other) is not None
    for each in (both[1], stranger):
        each.destroy()


def test_swapped_after_the_proof(device: TokenDevice, session: Session) -> None:
    """An imported key counts as present only with its CKA_ID: its handle may be another object's by now."""
    key = os.urandom(16)
    made = generate(session, AES_256_BACKING_KEY, key, "swapped", device.profile.attributes)
    assert require_there(made, key) is made
    with pytest.raises(TokenError, match="has another CKA_ID"):
        require_there(made, os.urandom(16))
    made.destroy()
    with pytest.raises(TokenUnavailableError):
        require_there(made, key)


def test_interrupted_creation_is_repeated(played: Played) -> None:
    """An HMAC key that an interrupted creation has left is replaced when the same material is made again."""
    device = played.token.open()
    key = new_cka_id(CBC)
    played.order(*NO_GCM.orders, "fault C_GenerateKey 2 return 0x71", "fault C_DestroyObject 1 return 0x5")
    with pytest.raises(TokenError, match="keeps it: `hsmkms reconcile` shows it"):
        device.keys.generate_backing_key(permit(Operation.CREATE_KEY, key), key, "interrupted")
    played.order(*NO_GCM.orders)
    assert on_token(device, key) == [False, True]
    device.keys.generate_backing_key(permit(Operation.CREATE_KEY, key), key, "interrupted")
    assert on_token(device, key) == [True, True]
    sealed = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"secret", b"")
    assert device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, b"") == b"secret"


def test_no_other_format_on_a_token(played: Played) -> None:
    """No token creates material in a format other than its own: with AES-GCM there is no AES-CBC."""
    device = played.token.open()
    for orders, foreign in ((NO_GCM.orders, GCM), ((), CBC)):
        device.close()
        played.order(*orders)
        device = played.token.open()
        key = new_cka_id(foreign)
        with pytest.raises(UnsupportedOperationException, match=f"and this one was to be for {foreign}"):
            device.keys.generate_backing_key(permit(Operation.CREATE_KEY, key), key, "foreign")


@pytest.mark.parametrize("orders", [("iv untold",), ("iv written_back repeated",)], ids=str)
def test_no_downgrade(played: Played, orders: tuple[str, ...]) -> None:
    """A token whose AES-GCM is wrong is refused: AES-CBC is not used instead."""
    played.order(*orders)
    with pytest.raises(TokenUnfitError):
        played.token.open()


def test_neither(played: Played) -> None:
    """A token with neither is refused by the names of both."""
    played.order(*NO_GCM.orders, f"hide {Mechanism.AES_CBC:#x}")
    with pytest.raises(TokenUnfitError, match="the token has no AES_GCM or AES_CBC: hsmkms cannot keep keys on it"):
        played.token.open()


@pytest.mark.parametrize("code", ["0x54", "0x70"], ids=["function not supported", "mechanism invalid"])
def test_token_that_generates_nothing(played: Played, code: str) -> None:
    """A token that lists the mechanisms but refuses C_GenerateKey (tpm2-pkcs11) is refused with that reason."""
    played.order(*NO_GCM.orders, f"fault C_GenerateKey * return {code}")
    with pytest.raises(TokenUnfitError, match="it generates no secret keys itself"):
        played.token.open()


def test_wrong_cbc(played: Played) -> None:
    """A token with nonstandard AES-CBC ciphertexts is refused at start."""
    played.order(*NO_GCM.orders, "fault C_Encrypt * truncate 1 after")
    with pytest.raises(TokenError):
        played.token.open()


# -- a token that loses AES-GCM -------------------------------------------------------------------------------------


def test_gcm_from_blocks(session: Session) -> None:
    """AES-GCM ciphertexts are decrypted from single blocks, and changed ones are refused."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - the other side of this test alone

    key, iv = load(session, AES_KEY), bytes(range(12))
    for size, aad in ((1, b""), (16, b"aad"), (17, b"a" * 100), (4096, b"context")):
        sealed = AESGCM(AES_KEY).encrypt(iv, b"p" * size, aad)
        assert open_from_blocks(session, key, iv, sealed, aad) == b"p" * size
        for changed in (bytes((sealed[0] ^ 1,)) + sealed[1:], sealed[:-1], sealed[:-1] + bytes((sealed[-1] ^ 1,)), b""):
            with pytest.raises(RejectedDataError):
                open_from_blocks(session, key, iv, changed, aad)


def test_lost_gcm(played: Played) -> None:
    """After the token has lost AES-GCM, old ciphertexts decrypt, and the old key no longer encrypts."""
    played.order()
    device = played.token.open()
    key = new_key(device)
    sealed = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"before", b"aad")
    device.close()
    played.order(*NO_GCM.orders)
    device = played.token.open()
    assert device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, b"aad") == b"before"
    with pytest.raises(RejectedDataError):
        device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, b"other")
    assert device.ciphers.usable_formats == {CBC}
    with pytest.raises(UnsupportedOperationException, match="This token has no AES-GCM any more"):
        device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"after", b"")


def test_lost_cbc(played: Played) -> None:
    """After a token has gained AES-GCM and lost AES-CBC, the old key's error says so, for both directions."""
    device = played.token.open()
    key = new_key(device)
    sealed = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"before", b"aad")
    device.close()
    played.order(f"hide {Mechanism.AES_CBC:#x}")
    device = played.token.open()
    assert device.ciphers.usable_formats == {GCM}
    for act in (
        lambda: device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"after", b""),
        lambda: device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, b"aad"),
    ):
        with pytest.raises(UnsupportedOperationException, match="This token has no AES-CBC any more"):
            act()


def test_material_that_is_there_is_not_made_again(played: Played) -> None:
    """A creation repeated by mistake destroys neither key of complete material, which still decrypts."""
    device = played.token.open()
    key = new_key(device)
    sealed = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"secret", b"")
    with pytest.raises(TokenError, match="complete with its HMAC key, so none was made in its place"):
        device.keys.generate_backing_key(permit(Operation.CREATE_KEY, key), key, "again")
    again = played.token.open()
    assert again.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, b"") == b"secret"
