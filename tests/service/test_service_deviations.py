"""The service on tokens that deviate in their attributes: everything works, and the operator is shown each deviation.

What is tolerated and what is not is tested attribute by attribute in tests/hsm/test_hsm_deviations.py.
"""

from typing import Any

import pytest
from lifecycle import backing_keys, new_empty_key, rotate
from pkcs11.constants import Attribute
from service_sites import new_key, seal, unseal
from shims import Personality
from test_service_audit import records
from test_service_crash import restored_copy
from test_service_tokens import NewPlayed, all_as_made, import_, order
from test_service_tokens import new_played as new_played  # noqa: PLC0414 - the fixture

from hsmkms.errors import KMSInvalidStateException, UnsupportedOperationException
from hsmkms.kms import Kms
from hsmkms.model.enums import KeySpec, KeyUsage, WrappingAlgorithm
from hsmkms.service.keys.backing import QUIRKS_EVENT

DEVIATING = Personality(
    name="deviating",
    orders=(
        f"refuse {Attribute.COPYABLE:#x} 0x12",
        f"report {Attribute.LOCAL:#x} 0",
        f"report {Attribute.ALWAYS_SENSITIVE:#x} none unwrapped",
        f"report {Attribute.PRIVATE:#x} 0 public",
        f"ignore_unwrapped {Attribute.EXTRACTABLE:#x} 1",
        "kwp_by_new_number",
        "ed25519_by_oid",
    ),
    reason="NSS, kryoptic and opencryptoki 3.27 in one",
)
PAIR: dict[str, Any] = {"key_spec": KeySpec.ECC_NIST_P256, "key_usage": KeyUsage.SIGN_VERIFY}


def quirk_events(kms: Kms) -> list[dict[str, Any]]:
    """What the audit log has of new backing keys that deviate."""
    return [record["serviceEventDetails"] for record in records(kms) if record["eventName"] == QUIRKS_EVENT]


def test_story(new_played: NewPlayed) -> None:
    """Keys are made, rotate and are imported; `attest`, `token-info` and the audit log show each deviation."""
    with new_played(DEVIATING).open() as kms:
        key_id = new_key(kms).key_id
        sealed = seal(kms, key_id)
        rotate(kms, key_id)
        imported = new_empty_key(kms)
        import_(kms, imported, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1)
        pair = new_key(kms, **PAIR).key_id
        edwards = new_key(kms, key_spec=KeySpec.ECC_NIST_EDWARDS25519, key_usage=KeyUsage.SIGN_VERIFY).key_id
        assert unseal(kms, sealed) == b"secret"
        assert unseal(kms, seal(kms, imported)) == b"secret"
        assert all_as_made(kms, key_id, imported, pair, edwards)

        local, copyable = "CKA_LOCAL is False instead of True", "CKA_COPYABLE is True instead of False"
        (attested,) = kms.operator.attest(imported)
        assert sorted(attested.quirks) == ["CKA_ALWAYS_SENSITIVE is None instead of False", copyable]
        (attested,) = kms.operator.attest(pair)
        public = [f"public half: {each}" for each in ("CKA_PRIVATE is False instead of True", copyable)]
        assert attested.quirks == [copyable, local, *public]

        quirks = kms.operator.token_info().profile.quirks
        for begin in (
            "CKA_COPYABLE is unknown",
            "CKA_LOCAL of generated",
            "C_UnwrapKey makes",
            "public halves: CKA_PRI",
        ):
            assert len([each for each in quirks if each.startswith(begin)]) == 1, quirks

        events = quirk_events(kms)
        assert [event["keyId"] for event in events] == [key_id, key_id, imported, pair, edwards]
        assert all(any("CKA_LOCAL" in quirk for quirk in event["tokenQuirks"]) for event in events)
        tightened = [any("C_UnwrapKey makes" in quirk for quirk in event["tokenQuirks"]) for event in events]
        assert tightened == [False, False, True, False, False]


def test_nothing_is_shown_where_nothing_deviates(new_played: NewPlayed) -> None:
    """On a token that makes keys as ordered `attest` shows no quirk, and no record has one."""
    with new_played().open() as kms:
        key_id = new_key(kms).key_id
        assert [backing_key.quirks for backing_key in kms.operator.attest(key_id)] == [[]]
        assert kms.operator.token_info().profile.quirks == ()
        assert quirk_events(kms) == []


def test_no_adoption_where_local_is_not_reported(new_played: NewPlayed) -> None:
    """Where the token does not report which keys it generated, an orphan is never adopted: its origin is unknown."""
    site = new_played(Personality(name="local", orders=(f"report {Attribute.LOCAL:#x} 0",), reason="NSS"))
    key_id, sealed = restored_copy(site, lambda kms: (made := new_key(kms).key_id, seal(kms, made)))
    assert sealed
    with site.open() as kms:
        (finding,) = kms.operator.find_differences()
        assert finding.key_id == key_id
        with pytest.raises(KMSInvalidStateException, match=r"does not report which keys it generated itself \(CKA_LOC"):
            kms.operator.mend(finding)


@pytest.mark.parametrize(
    ("members", "function", "code", "words"),
    [
        (PAIR, "C_GenerateKeyPair", "0x140", "it answers CKR_CURVE_NOT_SUPPORTED"),
        ({}, "C_GenerateKey", "0x71", "CKR_MECHANISM_PARAM_INVALID"),
        ({}, "C_GenerateKey", "0x68", "CKR_KEY_FUNCTION_NOT_PERMITTED"),
        (
            {"key_spec": KeySpec.RSA_2048, "key_usage": KeyUsage.SIGN_VERIFY},
            *("C_GenerateKeyPair", "0x62", "CKR_KEY_SIZE_RANGE"),
        ),
    ],
    ids=["curve", "parameter", "function", "key size"],
)
def test_refusals_clear_the_intent(
    new_played: NewPlayed, members: dict[str, Any], function: str, code: str, words: str
) -> None:
    """What the token refuses is an UnsupportedOperationException with its word, and nothing of the key is left."""
    site = new_played()
    with site.open() as kms:
        there = new_key(kms).key_id
        order(site, f"fault {function} * return {code}")
        with pytest.raises(UnsupportedOperationException, match=words):
            new_key(kms, **members)
        order(site)
        assert set(backing_keys(kms)) == {there}
        assert kms.operator.find_differences() == []
