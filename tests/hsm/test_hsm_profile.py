"""The probe at start, and token-check."""

from collections.abc import Callable
from contextlib import closing

import pytest
from devices import MakeToken, Token, checks_of, require_gcm
from pkcs11.constants import Attribute
from pkcs11.mechanisms import KeyType

from hsmkms.errors import TokenUnfitError
from hsmkms.hsm.checks.needed import GCM_VECTOR
from hsmkms.hsm.crypto.gcm import open_sealed
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.probing import profile as profiles
from hsmkms.hsm.session import module as modules
from hsmkms.model.token_check import Check, Outcome


def without(*mechanisms: str) -> str:
    """Return a SoftHSM configuration that hides mechanisms. SoftHSM 2.6.1 ignores the first name after the minus."""
    return f"slots.mechanisms = -,{','.join(mechanisms)}\n"


LIMITED_ON_SOFTHSM = {
    *("OAEP SHA-256", "honest lengths", "imported kinds", "ECC_NIST_EDWARDS25519"),
    *("ML_DSA_44", "ML_DSA_65", "ML_DSA_87"),
    *("ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"),
}
"""Measured with SoftHSM 2.6.1.

Nothing is post-quantum, OAEP is with SHA-1 only, CKA_VALUE_LEN is 0 for what was unwrapped, no Ed25519 key unwraps, and
there is no Ed25519ph.
"""


def other_outcomes(checks: dict[str, Check]) -> dict[str, Outcome]:
    """Return the outcome of each check except those that are known to be limited."""
    return {name: each.outcome for name, each in checks.items() if name not in LIMITED_ON_SOFTHSM}


def objects(device: TokenDevice) -> int:
    """Count the objects that a session sees, of the token and of sessions."""
    with device.connection.pool.session() as session:
        return len(list(session.get_objects({})))


def test_profile(device: TokenDevice, token: Token) -> None:
    """The probe reports names and capabilities of the token; AES-GCM was compared with an independent computation."""
    reported = device.profile
    assert (reported.label, reported.serial) == (token.label, token.serial)
    assert (reported.manufacturer, reported.model) == ("SoftHSM project", "SoftHSM v2")
    assert reported.gcm_checked
    assert reported.label_bytes >= 128
    assert {"AES_GCM", "AES_KEY_GEN", "SHA256_HMAC", "RSA_PKCS_OAEP"} <= reported.mechanisms
    assert reported.quirks == ()


def test_checks(device: TokenDevice) -> None:
    """Every check that hsmkms needs works on SoftHSM, with a name and a detail for people."""
    checks = checks_of(device)
    assert list(checks) == [
        "mechanisms",
        "random numbers",
        "AES-256 backing key",
        "AES-GCM, computed answer",
        "AES-GCM, published vector",
        "AES-GCM, IVs",
        "AES-CBC with HMAC",
        "installation key",
        "HMAC-SHA-256",
        "stored keys",
        "data objects",
        "object labels",
        "RSA_2048",
        "ECC_NIST_P256",
        "ECC_NIST_P384",
        "ECC_NIST_P521",
        "ECC_SECG_P256K1",
        "ECC_NIST_EDWARDS25519",
        "ML_DSA_44",
        "ML_DSA_65",
        "ML_DSA_87",
        "ML_KEM_512",
        "ML_KEM_768",
        "ML_KEM_1024",
        "HMAC_224",
        "HMAC_256",
        "HMAC_384",
        "HMAC_512",
        "data key pairs",
        "OAEP SHA-1",
        "OAEP SHA-256",
        "AES-KWP",
        "AES-CMAC",
        "honest lengths",
        "imported kinds",
        "refused material",
        "clean-up",
    ]
    limited = {name for name, each in checks.items() if each.outcome is Outcome.LIMITED}
    assert limited == LIMITED_ON_SOFTHSM
    assert {each.outcome for each in checks.values()} == {Outcome.WORKS, Outcome.LIMITED}
    assert all(each.detail for each in checks.values())


def test_nothing_is_left(device: TokenDevice) -> None:
    """Neither probe nor checks leave an object, on the token or in the session."""
    assert objects(device) == 0
    checks_of(device)
    assert objects(device) == 0


@pytest.mark.parametrize("missing", ["AES_KEY_GEN", "GENERIC_SECRET_KEY_GEN", "SHA256_HMAC"])
def test_token_without_a_needed_mechanism(make_token: MakeToken, missing: str) -> None:
    """A token without a needed mechanism is refused with the mechanism's name, and nothing stays open."""
    token = make_token(configuration=without(f"CKM_{missing}"))
    with pytest.raises(TokenUnfitError, match=f"the token has no {missing}:"):
        token.open()
    assert not modules._registry._open


def test_token_without_aes_ecb(make_token: MakeToken) -> None:
    """Without AES-ECB there is no known answer: the profile says so, and the check is limited, not failed."""
    device = make_token(configuration=without("CKM_AES_ECB")).open()
    assert not device.profile.gcm_checked
    assert len(device.profile.quirks) == 1
    assert "AES-ECB" in device.profile.quirks[0]
    outcomes = other_outcomes(checks_of(device))
    assert outcomes.pop("AES-GCM, computed answer") is Outcome.LIMITED
    assert set(outcomes.values()) == {Outcome.WORKS}


@pytest.mark.parametrize(
    ("name", "spoiled"),
    [
        ("expected_gcm", lambda *_: bytes(56)),
        ("open_sealed", lambda *arguments: open_sealed(*arguments)[::-1]),
        ("open_sealed", lambda _session, _handle, _iv, _body, _aad: profiles._PLAINTEXT),
    ],
    ids=["wrong answer", "lost plaintext", "changed data accepted"],
)
def test_token_with_wrong_gcm(
    token: Token, monkeypatch: pytest.MonkeyPatch, name: str, spoiled: Callable[..., bytes]
) -> None:
    """A token whose AES-GCM has wrong results, loses plaintext, or accepts changed data is refused at start."""
    with closing(token.open()) as device:
        require_gcm(device)
    monkeypatch.setattr(profiles, name, spoiled)
    with pytest.raises(TokenUnfitError, match="AES-GCM"):
        token.open()
    assert not modules._registry._open
    monkeypatch.undo()
    assert objects(token.open()) == 0


def test_failed_check_is_reported(device: TokenDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed check is reported, and the others are still run."""
    monkeypatch.setitem(GCM_VECTOR, "sealed", "00" * 76)
    outcomes = other_outcomes(checks_of(device))
    assert outcomes.pop("AES-GCM, published vector") is Outcome.FAILED
    assert set(outcomes.values()) == {Outcome.WORKS}


def test_mechanisms(device: TokenDevice) -> None:
    """Mechanisms are listed in order of their names, with key sizes and uses."""
    mechanisms = {each.name: each for each in device.connection.mechanisms()}
    assert list(mechanisms) == sorted(mechanisms)
    assert {"ENCRYPT", "DECRYPT"} <= set(mechanisms["AES_GCM"].uses)
    assert (mechanisms["AES_GCM"].min_key_size, mechanisms["AES_GCM"].max_key_size) == (16, 32)
    assert "GENERATE" in mechanisms["AES_KEY_GEN"].uses
    assert mechanisms.keys() == device.profile.mechanisms
    assert "MD5" in mechanisms


def test_limits(device: TokenDevice) -> None:
    """SoftHSM reports no limits: each is None rather than a number that means "unknown"."""
    limits = device.connection.limits()
    assert limits is not None
    assert limits.max_sessions is None
    assert limits.free_private_memory is None


def test_labels(device: TokenDevice) -> None:
    """A label of the length in the profile is kept whole."""
    label = "é" * (device.profile.label_bytes // 2)
    with device.connection.pool.session() as session:
        session.generate_key(KeyType.AES, 256, label=label, store=False)
        (found,) = session.get_objects({Attribute.LABEL: label})
        assert found[Attribute.LABEL] == label
