"""Calls between hsmkms and the token while key pairs are generated and used, as pkcs11-spy logs them.

``pkcs11-spy`` (OpenSC) stands between both and writes down every call with its arguments.
"""

import re
from contextlib import closing
from pathlib import Path

import devices
import pytest
import spylog
from devices import NewToken
from msgspec import Struct

from hsmkms.model.enums import KeySpec, KeyUsage

PRIVATE_PARTS = {
    "CKA_PRIVATE_EXPONENT",
    "CKA_PRIME_1",
    "CKA_PRIME_2",
    "CKA_EXPONENT_1",
    "CKA_EXPONENT_2",
    "CKA_COEFFICIENT",
}


class Spied(Struct, frozen=True, kw_only=True):
    """Report of the job, and the calls that the spy logged."""

    right: bool
    secret: str
    calls: list[spylog.SpyCall]

    def named(self, *names: str) -> list[spylog.SpyCall]:
        """Return the calls of these functions."""
        return spylog.named(self.calls, *names)


@pytest.fixture(scope="module")
def spied(new_token: NewToken, spy_path: Path, programs: Path) -> Spied:
    """Run the job once through the spy in a process of its own."""
    token = new_token("spied-pairs")
    with closing(token.open()) as device:
        device.keys.check_kind((KeySpec.ECC_NIST_P256, KeyUsage.KEY_AGREEMENT))  # skipped if the token has no curves
    log = token.folder / "spy.log"
    output = devices.run(programs / "pairs_job.py", token.spied(spy_path, log))
    return Spied(calls=spylog.read(log), **output)


def test_spied_operations_work(spied: Spied) -> None:
    """The logged operations succeeded."""
    assert spied.right
    assert len(spied.secret) == 64


def test_pairs_are_generated_on_the_token(spied: Spied) -> None:
    """C_GenerateKeyPair creates every pair, with a private half that is sensitive and never extractable."""
    made = spied.named("C_GenerateKeyPair")
    assert [each.returned for each in made] == ["CKR_OK"] * 5  # three keys, one to try the curve, one to try OAEP
    for call in made:
        private = call.text.partition("pPrivateKeyTemplate")[2]
        assert re.search(r"CKA_SENSITIVE +True", private)
        assert re.search(r"CKA_EXTRACTABLE +False", private)
        assert re.search(r"CKA_MODIFIABLE +False", private)


def test_no_private_value_is_read_or_brought(spied: Spied) -> None:
    """No call reads a private value, creates, wraps, unwraps or copies a key, or changes an attribute."""
    for call in spied.named("C_GetAttributeValue"):
        assert PRIVATE_PARTS.isdisjoint(call.attributes)
    forbidden = ("C_CreateObject", "C_SetAttributeValue", "C_WrapKey", "C_UnwrapKey")
    assert spied.named(*forbidden) == []
    assert spylog.refused_copies(spied.calls) == 1


def test_the_only_values_read_are_shared_secrets(spied: Spied) -> None:
    """CKA_VALUE is read only of the result of C_DeriveKey, which is destroyed at once."""
    derived = spied.named("C_DeriveKey")
    assert len(derived) == 2  # the proof that the halves belong together, and the API's own
    handles = {made for each in derived for made in re.findall(r"\[out\] hKey = (0x[0-9a-f]+)", each.text)}
    reads = [each for each in spied.named("C_GetAttributeValue") if "CKA_VALUE" in each.attributes]
    assert reads
    for each in reads:
        handle = re.search(r"hObject = (0x[0-9a-f]+)", each.text)
        assert handle is not None
        assert handle[1] in handles
    last = max(number for number, each in enumerate(spied.calls) if each in reads)
    assert "C_DestroyObject" in [each.name for each in spied.calls[last + 1 : last + 3]]
