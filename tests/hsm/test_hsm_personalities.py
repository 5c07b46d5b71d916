"""Tokens with deviations: the device suite on each of them, and how hsmkms adapts.

The personalities, each with the reason for it, are in shims.py. What no token may do is in test_hsm_unfit.py.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import wrapped
from devices import SLOW_CHECKS, MakeToken, Token, checks_of, new_key, permit
from pkcs11.types import Session
from shims import (
    CUT_LABELS,
    EIGHT_SESSIONS,
    EIGHT_UNTOLD,
    EVERYTHING,
    HONEST_LENGTHS,
    IV_ORIGINS,
    NO_CMAC,
    NO_GCM,
    OAEP_SHA_256,
    PERSONALITIES,
    SHORT_LABELS,
    UNASKED_NO_CMAC,
    WRITTEN_BACK,
    Personality,
    Played,
)

# The tests of the device, run here once more: the fixtures below put another token in the place of SoftHSM.
from test_hsm_gcm import (  # noqa: F401
    assert_refused,
    test_another_key,
    test_every_bit_counts,
    test_largest_plaintext,
    test_round_trip,
    test_wrong_lengths,
)
from test_hsm_handles import test_inventory_needs_its_witness  # noqa: F401
from test_hsm_login import test_second_opening_shares_the_login  # noqa: F401
from test_hsm_loss import (  # noqa: F401
    key,
    test_encrypt_and_decrypt_continue,
    test_generation_is_never_repeated,
    test_losses_leak_no_sessions,
)
from test_hsm_objects import (  # noqa: F401
    test_backing_key_is_as_ordered,
    test_destroy,
    test_installation_key_is_as_ordered,
    test_mac,
)
from test_hsm_unwrapping import CANNOT_OPEN, WRONG_LENGTH, Bench, opens

from hsmkms.errors import RejectedDataError, RejectedMaterialError
from hsmkms.hsm.ciphers import GcmCipher
from hsmkms.hsm.crypto.token_iv import IvOrigin
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.imports.wrapping import Lengths
from hsmkms.model.cipher_format import CipherFormat
from hsmkms.model.enums import Operation, WrappingAlgorithm
from hsmkms.model.token_check import Outcome

SHA_1 = (WrappingAlgorithm.RSAES_OAEP_SHA_1, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1)
SHA_256 = (WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256)


@pytest.fixture
def personality(request: pytest.FixtureRequest) -> Personality:
    """Return the personality of this test's token."""
    chosen: Personality = request.node.callspec.params["token"]
    return chosen


@pytest.fixture(params=PERSONALITIES, ids=lambda each: each.name)
def token(request: pytest.FixtureRequest, make_token: MakeToken, shim_path: Path) -> Token:
    """Return a fresh token of each personality."""
    return Played.of(make_token(), shim_path, *request.param.orders).token


def on(*personalities: Personality) -> pytest.MarkDecorator:
    """Run a test on these personalities only."""
    return pytest.mark.parametrize("token", personalities, indirect=True, ids=lambda each: each.name)


# -- probing --------------------------------------------------------------------------------------------------------


def test_profile_has_the_personality(device: TokenDevice, personality: Personality) -> None:
    """The probe at start determines who chooses IVs and how long labels may be, and describes each quirk."""
    profile = device.profile
    short = "labels 32 cut" in personality.orders or "labels 32 refused" in personality.orders
    assert profile.iv_origin is IV_ORIGINS.get(personality.name, IvOrigin.CALLER)
    assert (profile.label_bytes == 32) is short
    assert profile.gcm_checked is (personality not in (EVERYTHING, NO_GCM))
    assert (profile.cipher_format is CipherFormat.AES_256_GCM) is (personality is not NO_GCM)
    chooses = profile.iv_origin is not IvOrigin.CALLER
    assert len(profile.quirks) == chooses + short + (not profile.gcm_checked)
    assert any("chooses the IVs" in quirk for quirk in profile.quirks) is chooses


def test_checks(device: TokenDevice, session: Session, personality: Personality) -> None:
    """``token-check`` finds no failure, reports what is done in another way, and leaves no object."""
    # RSA keys are tried on the token that has all quirks, and not on each: generating them takes longest of all.
    checks = checks_of(device, without=SLOW_CHECKS if personality is EVERYTHING else (*SLOW_CHECKS, "RSA_2048"))
    assert {name: each.detail for name, each in checks.items() if each.failed} == {}
    limited = {name for name, each in checks.items() if each.outcome is Outcome.LIMITED}
    orders = personality.orders
    assert ("OAEP SHA-256" in limited) is ("oaep_sha_256" not in orders)
    assert ("honest lengths" in limited) is ("lengths honest" not in orders)
    assert ("AES-CMAC" in limited) is (NO_CMAC.orders[0] in orders)
    assert ("object labels" in limited) is (device.profile.label_bytes == 32)
    assert checks["mechanisms"].detail.endswith(f"; ciphertext format {device.profile.cipher_format}")
    assert ("AES-GCM, IVs" in limited) is (personality is NO_GCM)
    assert (checks["AES-CBC with HMAC"].detail == "not used: the token has AES-GCM") is (personality is not NO_GCM)
    if personality is NO_GCM:
        compared = "equals an independent computation and a published vector; a changed message is refused"
        assert checks["AES-CBC with HMAC"].detail == compared
        assert list(session.get_objects({})) == []
        return
    chooses = device.profile.iv_origin is not IvOrigin.CALLER
    assert ("chooses the IVs" in checks["AES-GCM, IVs"].detail) is chooses
    assert checks["AES-GCM, published vector"].detail == "published vector" + ", decrypted only" * chooses
    assert list(session.get_objects({})) == []


@pytest.mark.parametrize("name", IV_ORIGINS)
def test_ivs_of_the_token(make_token: MakeToken, shim_path: Path, name: str) -> None:
    """The returned IV is the one that the token chose: it decrypts, is never zero, and never repeats."""
    (personality,) = (each for each in PERSONALITIES if each.name == name)
    device = Played.of(make_token(), shim_path, *personality.orders).token.open()
    cka_id = new_key(device)
    counted: list[int] = []
    made = [
        device.ciphers.encrypt(
            permit(Operation.ENCRYPT, cka_id), cka_id, b"x" * size, b"a\0d", lambda: counted.append(1)
        )
        for size in range(1, 200)
    ]
    assert len(counted) == 199
    assert len({iv for iv, _ in made}) == 199
    assert bytes(12) not in {iv for iv, _ in made}
    for size, (iv, body) in enumerate(made, 1):
        assert (len(iv), len(body)) == (12, size + 16)
        assert device.ciphers.decrypt(permit(Operation.DECRYPT, cka_id), cka_id, iv, body, b"a\0d") == b"x" * size
    gcm = device.ciphers._formats[CipherFormat.AES_256_GCM]
    assert isinstance(gcm, GcmCipher)
    assert not gcm._ivs._ready


@on(WRITTEN_BACK)
def test_bad_ciphertexts_use_up_no_iv(device: TokenDevice, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the token chooses IVs, the check after a bad ciphertext does not encrypt with the backing key."""
    cka_id = new_key(device)
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, cka_id), cka_id, b"x", b"")
    used: list[int] = []
    monkeypatch.setattr("hsmkms.hsm.crypto.decrypt_faults.encrypt_sample", lambda _session, handle: used.append(handle))
    assert_refused(device, cka_id, iv, body[::-1], b"")
    assert len(used) == 1
    assert used[0] != device.connection.handles.lookup(cka_id)
    assert len(list(session.get_objects({}))) == 1


# -- importing key material -----------------------------------------------------------------------------------------


@on(UNASKED_NO_CMAC, NO_CMAC, OAEP_SHA_256, HONEST_LENGTHS, EVERYTHING)
def test_imported_material(device: TokenDevice, personality: Personality) -> None:
    """Material is imported by each algorithm of the token with its fingerprints, and wrong material is refused."""
    orders = personality.orders
    bench = Bench(device)
    algorithms = (*SHA_256, *SHA_1) if "oaep_sha_256" in orders else SHA_1
    assert device.imports.wrapping_algorithms() == algorithms
    assert all(device.imports.on_device(each) for each in algorithms)
    profile = device.imports.profiles.symmetric()
    assert profile.lengths is (Lengths.HONEST if "lengths honest" in orders else Lengths.PROBED)
    names = [prf.name for prf in profile.prfs]
    assert names == ["AES_CMAC"] * (NO_CMAC.orders[0] not in orders) + ["SHA256_HMAC"]
    for algorithm in algorithms:
        secret = os.urandom(32)
        material, before = bench.wrap(algorithm, secret), bench.objects()
        expected = wrapped.expected_fingerprints(secret, "key id")
        assert bench.fingerprints(material) == {name: expected[name] for name in names}
        cka_id = bench.bring(material)
        assert opens(bench, cka_id, secret)
        attributes, deviations = device.keys.attest(cka_id, imported=True)
        assert deviations == []
        assert attributes["CKA_VALUE_LEN"] == (32 if profile.lengths is Lengths.HONEST else 0)
        assert bench.objects() == before + 1
        for length in (1, 16, 31, 33):
            bench.assert_refused(bench.wrap(algorithm, os.urandom(length)), RejectedMaterialError, WRONG_LENGTH)
        changed = bytes((material.ciphertext[0] ^ 1,)) + material.ciphertext[1:]
        bench.assert_refused(bench.material(algorithm, changed), RejectedDataError, CANNOT_OPEN)


# -- few sessions ---------------------------------------------------------------------------------------------------


@on(EIGHT_SESSIONS, EIGHT_UNTOLD)
def test_more_threads_than_the_token_has_sessions(device: TokenDevice, personality: Personality) -> None:
    """Twenty threads share a token of eight sessions, one with the login, whether it reports the limit or not."""
    limits = device.connection.limits()
    assert limits is not None
    assert limits.max_sessions == (8 if personality is EIGHT_SESSIONS else None)
    cka_id = new_key(device)
    done: list[bytes] = []
    together = threading.Barrier(20)

    def work() -> None:
        together.wait(120)
        for _ in range(20):
            iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, cka_id), cka_id, b"mine", b"")
            done.append(device.ciphers.decrypt(permit(Operation.DECRYPT, cka_id), cka_id, iv, body, b""))

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert done == [b"mine"] * 400
    taken = [device.connection.pool.take() for _ in range(7)]
    assert device.connection.sessions().opened == 7
    for each in taken:
        device.connection.pool.put(each)


def test_two_sessions_are_enough(make_token: MakeToken, shim_path: Path, lose: Callable[[TokenDevice], None]) -> None:
    """One session holds the login, and all calls use the other, also after a loss."""
    device = Played.of(make_token(), shim_path, "sessions 2").token.open()
    bench = Bench(device)
    lose(device)
    cka_id = bench.bring(bench.wrap(SHA_1[0], bytes(32)))
    lose(device)
    assert opens(bench, cka_id, bytes(32))
    assert device.connection.sessions().opened == 1


# -- short labels ---------------------------------------------------------------------------------------------------


@on(CUT_LABELS, SHORT_LABELS)
def test_label_of_32_bytes(device: TokenDevice) -> None:
    """A label of exactly 32 bytes is kept and listed; the service creates no longer ones (test_service_tokens.py)."""
    label = "l" * 32
    cka_id = new_key(device, label)
    (inventory,) = device.keys.inventory(cka_id)
    assert inventory.label == label
