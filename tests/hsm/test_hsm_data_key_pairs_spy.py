"""Calls between hsmkms and the token while data key pairs are generated, as pkcs11-spy logs them."""

import re
from pathlib import Path

import devices
import pytest
import spylog
from devices import NewToken


@pytest.fixture(scope="module")
def calls(new_token: NewToken, spy_path: Path, programs: Path) -> list[spylog.SpyCall]:
    """Return the calls logged while pairs of RSA, P-256 and Ed25519 were generated."""
    token = new_token("spied-data-key-pairs")
    log = token.folder / "spy.log"
    output = devices.run(programs / "data_key_pairs_job.py", token.spied(spy_path, log))
    assert output["right"]
    return spylog.read(log)


def test_private_keys_leave_wrapped(calls: list[spylog.SpyCall]) -> None:
    """The pairs are session objects, sensitive wherever the token wraps them: SoftHSM does not wrap Ed25519."""
    every = [call.text.partition("pPrivateKeyTemplate")[2] for call in spylog.named(calls, "C_GenerateKeyPair")]
    made = [each for each in every if re.search(r"CKA_EXTRACTABLE +True", each)]
    assert len(every) == len(made) + 2  # one trial for P-256 and one for Ed25519, neither of them extractable
    sensitive = [bool(re.search(r"CKA_SENSITIVE +True", each)) for each in made]
    assert sensitive == [True, True, True, False]
    assert all(re.search(r"CKA_TOKEN +False", each) for each in made)
    wrapped = [call.returned for call in spylog.named(calls, "C_WrapKey")]
    assert wrapped.count("CKR_KEY_NOT_WRAPPABLE") == 1
    assert {"CKR_OK", "CKR_KEY_NOT_WRAPPABLE"} == set(wrapped)


def test_nothing_outlives_the_call(calls: list[spylog.SpyCall]) -> None:
    """Each half and each transport key is destroyed; transport keys are used once and can only wrap."""
    transports = spylog.named(calls, "C_CreateObject")
    assert len(transports) == 3
    for transport in transports:
        assert re.search(r"CKA_SENSITIVE +True", transport.text)
        assert re.search(r"CKA_EXTRACTABLE +False", transport.text)
        assert re.search(r"CKA_TOKEN +False", transport.text)
    destroyed = spylog.named(calls, "C_DestroyObject")
    assert len(destroyed) >= 2 * 4 + 3
    assert {each.returned for each in destroyed} == {"CKR_OK"}
