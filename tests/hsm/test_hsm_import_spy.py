"""Calls between hsmkms and the token during an import, as pkcs11-spy logs them.

``pkcs11-spy`` (OpenSC) stands between both and writes down every call with its arguments.
"""

import re
from pathlib import Path
from typing import Any

import devices
import pytest
import spylog
from devices import NewToken, Token
from msgspec import Struct

from hsmkms.hsm.crypto.oaep_padding import remove_padding
from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_256
from hsmkms.model.enums import WrappingAlgorithm

ON_DEVICE = (WrappingAlgorithm.RSAES_OAEP_SHA_1, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1)
THROUGH_THE_HOST = (WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256)


class Spied(Struct, frozen=True, kw_only=True):
    """Report of the import job, and the calls that the spy logged."""

    imports: dict[str, dict[str, Any]]
    refusal: str
    secret: str
    calls: list[spylog.SpyCall]

    def unwrapped(self) -> list[spylog.SpyCall]:
        """Return all calls that unwrap a key."""
        return [call for call in spylog.named(self.calls, "C_UnwrapKey") if call.returned == "CKR_OK"]

    def stayed(self) -> list[spylog.SpyCall]:
        """Return those that create a token object."""
        return list(filter(stays, self.unwrapped()))


def stays(call: spylog.SpyCall) -> bool:
    """Return True if the call creates a token object."""
    return ("CKA_TOKEN", "True") in call.attributes.items()


def dumped(text: str) -> bytes:
    """Return all bytes that a part of the log has in hexadecimal, concatenated, in both layouts of the spy."""
    lines = re.findall(r"^    (?:[0-9A-F]{8}  )?((?:[0-9A-F]{2} ?)+)(?=$| )", text, re.MULTILINE)
    return bytes.fromhex("".join(lines))


def seen(job: Spied, secret: bytes) -> bool:
    """Return whether the log contains the secret, in any parameter of any call."""
    return any(secret in dumped(call.text) for call in job.calls)


def spy_on(token: Token, spy_path: Path, programs: Path, *, host_unwrap: bool) -> Spied:
    """Run the import job through the spy."""
    log = token.folder / "spy.log"
    output = devices.run(programs / "import_job.py", token.spied(spy_path, log), host_unwrap=host_unwrap)
    return Spied(calls=spylog.read(log), **output)


@pytest.fixture(scope="module")
def spied(new_token: NewToken, spy_path: Path, programs: Path) -> Spied:
    """Run the import job without ``host_unwrap``."""
    return spy_on(new_token("spied-import"), spy_path, programs, host_unwrap=False)


@pytest.fixture(scope="module")
def spied_host(new_token: NewToken, spy_path: Path, programs: Path) -> Spied:
    """Run the import job with ``host_unwrap``."""
    return spy_on(new_token("spied-host-import"), spy_path, programs, host_unwrap=True)


def test_spied_imports_work(spied: Spied, spied_host: Spied) -> None:
    """The logged job has successful imports, and one that was refused."""
    for job, algorithms, on_device in (
        (spied, ON_DEVICE, {True}),
        (spied_host, (*ON_DEVICE, *THROUGH_THE_HOST), {True, False}),
    ):
        assert tuple(job.imports) == algorithms
        assert {each["on_device"] for each in job.imports.values()} == on_device
        assert all(each["works"] and not each["deviations"] for each in job.imports.values())
        assert all(each["fingerprints"] == each["expected"] for each in job.imports.values())
        assert job.refusal == "RejectedDataError"
        assert len(job.stayed()) == len(algorithms)


def test_what_stays_is_unwrapped_as_ordered(spied: Spied, spied_host: Spied) -> None:
    """Token objects come from C_UnwrapKey: sensitive, not extractable, with two usages only."""
    for call in (*spied.stayed(), *spied_host.stayed()):
        yes = {name for name, value in call.attributes.items() if value == "True"}
        no = {name for name, value in call.attributes.items() if value == "False"}
        assert yes == {"CKA_TOKEN", "CKA_PRIVATE", "CKA_SENSITIVE", "CKA_ENCRYPT", "CKA_DECRYPT"}
        usages = {f"CKA_{name}" for name in ("SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE")}
        assert no - {"CKA_COPYABLE"} == usages | {"CKA_EXTRACTABLE", "CKA_MODIFIABLE"}


def test_session_copies_can_do_one_thing(spied: Spied, spied_host: Spied) -> None:
    """All other unwrapped keys are session objects, sensitive, not extractable, that only sign or only unwrap."""
    usages = {f"CKA_{name}" for name in ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE")}
    for job in (spied, spied_host):
        copies = [each for each in job.unwrapped() if not stays(each)]
        assert copies
        for call in copies:
            assert (call.attributes["CKA_SENSITIVE"], call.attributes["CKA_EXTRACTABLE"]) == ("True", "False")
            able = {name for name in usages if call.attributes[name] == "True"}
            assert able in ({"CKA_SIGN"}, {"CKA_UNWRAP"})


def test_material_does_not_pass_through_the_host(spied: Spied) -> None:
    """No object is created from bytes, wrapped or read, and RSA decrypts nothing: no call contains the material."""
    forbidden = ("C_CreateObject", "C_WrapKey", "C_DeriveKey", "C_SetAttributeValue")
    assert spylog.named(spied.calls, *forbidden) == []
    assert spylog.refused_copies(spied.calls) == 2  # one of each process: the other tries refused material
    started = spylog.named(spied.calls, "C_DecryptInit")
    assert started
    assert all("CKM_AES_GCM" in each.text for each in started)
    read = {name for call in spylog.named(spied.calls, "C_GetAttributeValue") for name in call.attributes}
    assert "CKA_VALUE" not in read
    assert not seen(spied, bytes.fromhex(spied.secret))


def test_host_unwrap_creates_no_object(spied_host: Spied) -> None:
    """With ``host_unwrap`` raw RSA is decrypted, and the bytes return by C_UnwrapKey, never by C_CreateObject."""
    assert spylog.named(spied_host.calls, "C_CreateObject") == []
    started = [call for call in spylog.named(spied_host.calls, "C_DecryptInit") if "CKM_RSA_X_509" in call.text]
    assert started
    raw = [call for call in spylog.named(spied_host.calls, "C_Decrypt") if "pData[*pulDataLen]" in call.text]
    blocks = [dumped(each.text.partition("pData[*pulDataLen]")[2]) for each in raw]
    opened = [remove_padding(block, OAEP_SHA_256) for block in blocks if len(block) == 256]
    assert bytes.fromhex(spied_host.secret) in opened


def test_the_search_for_secrets_finds(spied: Spied) -> None:
    """The search for secrets finds data passed to the token: a plaintext, and the label of a key."""
    assert seen(spied, b"plaintext")
    assert seen(spied, b"hsmkms spied import")
