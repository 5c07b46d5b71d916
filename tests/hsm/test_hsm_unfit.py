"""Tokens that hsmkms refuses, simulated by the shim: each error names the fault, and no object stays."""

import os
from pathlib import Path

import pytest
from devices import PIN, MakeToken, Token, new_key, permit
from pkcs11.constants import Attribute
from shims import Played, ignoring
from test_hsm_login import WRONG, Reader
from test_hsm_unwrapping import OAEP_1, WRONG_LENGTH, Bench

from hsmkms.errors import PinError, RejectedMaterialError, TokenError, TokenUnfitError, UnsupportedOperationException
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.login import LoginGate
from hsmkms.model.enums import KeySpec, KeyUsage, Operation


@pytest.fixture
def played(make_token: MakeToken, shim_path: Path) -> Played:
    """Return a fresh token behind the shim, which has no orders yet."""
    return Played.of(make_token(), shim_path)


@pytest.fixture
def token(played: Played) -> Token:
    """Return the same token."""
    return played.token


def test_sessions_that_share_no_login(played: Played) -> None:
    """A token on which only the login's own session is logged in is refused: a lost login could not be detected.

    Seen on freehsm-c 2.0.0.
    """
    played.order("fault C_GetSessionInfo 1 return 0xb3")
    with pytest.raises(TokenUnfitError, match="does not share the login"):
        played.token.open()
    assert not modules._registry._open


# -- initialisation vectors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        ("iv untold", "neither with an IV of ours nor with one of its own"),
        ("iv untold zeroed", "neither with an IV of ours nor with one of its own"),
        ("iv appended long", "nor with one of its own that has 12 bytes"),
        ("iv written_back repeated", "chooses the same IV for two encryptions"),
        ("iv appended repeated", "chooses the same IV for two encryptions"),
    ],
)
def test_unfit_ivs(played: Played, order: str, sentence: str) -> None:
    """A token that chooses IVs without reporting them, not of 96 bits, or repeated, is refused at start."""
    played.order(order)
    with pytest.raises(TokenUnfitError, match=sentence):
        played.token.open()
    assert not modules._registry._open


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("iv caller", "iv appended"),
        ("iv appended", "iv caller"),
        ("iv appended", "iv untold"),
        ("iv prepended", "iv written_back"),
        ("iv written_back", "iv caller"),
        ("iv written_back", "iv untold"),
    ],
)
def test_token_that_changes_its_ways(played: Played, before: str, after: str) -> None:
    """A token that encrypts otherwise than in its probe creates no ciphertext that cannot be decrypted."""
    played.order(before)
    device = played.token.open()
    key = new_key(device)
    sealed = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"before", b"")
    played.order(after)
    with pytest.raises(TokenError, match="encrypts in another way than when it was tried"):
        device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"after", b"")
    assert device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, b"") == b"before"
    played.order(before)
    assert device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"again", b"")
    assert device.connection.sessions().opened == 1


# -- attributes that are ignored ------------------------------------------------------------------------------------

IGNORED = [
    (Attribute.EXTRACTABLE, True),
    (Attribute.SENSITIVE, False),
    (Attribute.MODIFIABLE, True),
    (Attribute.PRIVATE, False),
    (Attribute.WRAP, True),
    (Attribute.DERIVE, True),
]


@pytest.mark.parametrize(("attribute", "value"), IGNORED, ids=str)
def test_ignored_attribute(played: Played, attribute: Attribute, *, value: bool) -> None:
    """A token that ignores ordered attributes is refused at start; one that begins to is detected at the next key.

    The key is destroyed, none is known, and the session is given back.
    """
    played.order(ignoring(attribute, value=value))
    wrong = f"CKA_{attribute.name} is {value} instead of {not value}"
    with pytest.raises(TokenUnfitError, match=wrong):
        played.token.open()
    assert not modules._registry._open
    played.order()
    device = played.token.open()
    witness, key = new_key(device), os.urandom(16)
    played.order(ignoring(attribute, value=value))
    for _ in range(3):
        with pytest.raises(TokenUnfitError, match=wrong):
            device.keys.generate_backing_key(permit(Operation.CREATE_KEY, key), key, "never")
    assert not device.keys.holds(key)
    assert device.connection.handles.lookup(key) is None
    assert [stored_key.cka_id for stored_key in device.keys.inventory(witness)] == [witness]
    assert device.connection.pool._opened == 1
    played.order()
    assert device.keys.holds(new_key(device))


@pytest.mark.parametrize(
    ("attribute", "value"), [(Attribute.EXTRACTABLE, True), (Attribute.DERIVE, True), (Attribute.SIGN, True)], ids=str
)
def test_wrapping_key_with_an_ignored_attribute(played: Played, attribute: Attribute, *, value: bool) -> None:
    """The same for wrapping keys: the error names the attribute, and the private half is destroyed."""
    device = played.token.open()
    witness, key = new_key(device), os.urandom(16)
    played.order(ignoring(attribute, value=value))
    with pytest.raises(TokenUnfitError, match=f"not as ordered .CKA_{attribute.name} is {value} instead of "):
        device.imports.generate_wrapping_key(permit(Operation.GET_PARAMETERS_FOR_IMPORT, key), key, "never", 2048)
    assert [stored_key.cka_id for stored_key in device.keys.inventory(witness)] == [witness]


def test_every_ignored_attribute_is_named(played: Played) -> None:
    """The first error also names the second attribute."""
    played.order(ignoring(Attribute.EXTRACTABLE, value=True), ignoring(Attribute.DERIVE, value=True))
    with pytest.raises(TokenUnfitError) as caught:
        played.token.open()
    for phrase in ("CKA_EXTRACTABLE is True", "CKA_NEVER_EXTRACTABLE is False", "CKA_DERIVE is True"):
        assert phrase in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [
        (Attribute.EXTRACTABLE, "a session copy that is not as ordered .CKA_EXTRACTABLE is True"),
        (Attribute.MODIFIABLE, "a session copy that is not as ordered .CKA_MODIFIABLE is True"),
        (Attribute.DERIVE, "a key that is not as ordered .CKA_DERIVE is True"),
    ],
    ids=str,
)
def test_imported_key_with_an_ignored_attribute(played: Played, attribute: Attribute, sentence: str) -> None:
    """No material is imported on such a token: neither the key nor a session copy that is not as ordered stays."""
    device = played.token.open()
    bench = Bench(device)
    material, before = bench.wrap(OAEP_1, os.urandom(32)), bench.objects()
    device.imports.wrapping_algorithms()
    played.order(ignoring(attribute, value=True))
    with pytest.raises(TokenUnfitError, match=sentence):
        bench.bring(material)
    assert bench.objects() == before
    played.order()
    assert bench.bring(material)


def test_private_key_that_takes_another_usage(played: Played) -> None:
    """A token that gives an imported private key another usage imports none, and says so before a key is created."""
    device = played.token.open()
    assert device.imports.wrapping_algorithms()
    played.order(ignoring(Attribute.UNWRAP, value=True))
    with pytest.raises(UnsupportedOperationException, match="cannot import keys of KeySpec ECC_NIST_P256"):
        device.imports.check_import((KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY))


# -- lengths --------------------------------------------------------------------------------------------------------


def test_honest_token_decides_by_the_length(played: Played) -> None:
    """On a token that reports lengths honestly the report decides, and a key without a reported length is refused."""
    played.order("lengths honest")
    bench = Bench(played.token.open())
    material = bench.wrap(OAEP_1, os.urandom(32))
    key = bench.bring(material)
    for length in (0, 16, 31, 33):
        played.order(f"lengths {length}")
        bench.assert_refused(material, RejectedMaterialError, WRONG_LENGTH)
        assert bench.device.keys.attest(key, imported=True)[1] == [f"CKA_VALUE_LEN is {length} instead of 32"]
    played.order("lengths honest")
    assert list(bench.fingerprints(material)) == ["AES_CMAC", "SHA256_HMAC"]


# -- PIN counters ---------------------------------------------------------------------------------------------------


def test_pin_counters(played: Played, caplog: pytest.LogCaptureFixture) -> None:
    """The gate does not use a token's last PIN attempt; after a confirmation a right PIN resets the counter."""
    played.order("pin_tries 3")
    mark = played.token.folder / "pin-refused.json"
    with pytest.raises(PinError, match="refused the PIN"):
        TokenDevice.open(played.token.settings(), Reader(WRONG))
    mark.unlink()
    assert "a wrong PIN was given" not in caplog.text
    with pytest.raises(PinError, match="refused the PIN"):
        TokenDevice.open(played.token.settings(), Reader(WRONG))
    assert "a wrong PIN was given" in caplog.text
    mark.unlink()
    reader = Reader(PIN)
    with pytest.raises(PinError, match="one more wrong PIN locks token 'hsmkms test', so none is tried"):
        TokenDevice.open(played.token.settings(), reader)
    assert reader.asked == 0
    TokenDevice.open(played.token.settings(), reader, accept_final_try=True).close()
    assert reader.asked == 1
    played.token.open().close()


def test_locked_pin(played: Played) -> None:
    """A locked PIN is reported as such and not read again, whatever the operator confirms; the officer unlocks it."""
    played.order("pin_tries 1")
    with pytest.raises(PinError, match="one more wrong PIN locks"):
        TokenDevice.open(played.token.settings(), Reader(WRONG))
    with pytest.raises(PinError, match=r"refused the PIN \(PinIncorrect\)"):
        TokenDevice.open(played.token.settings(), Reader(WRONG), accept_final_try=True)
    (played.token.folder / "pin-refused.json").unlink()
    reader = Reader(PIN)
    for accept_final_try in (False, True):
        with pytest.raises(PinError, match="the user PIN of token 'hsmkms test' is locked: its security officer"):
            TokenDevice.open(played.token.settings(), reader, accept_final_try=accept_final_try)
    assert reader.asked == 0
    assert LoginGate(played.token.folder).mark() is None
