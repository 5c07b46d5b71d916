"""Evidence from the device: what really passes between hsmkms and the token while it does its main job.

``pkcs11-spy`` (OpenSC) stands between both and writes down every call with its arguments.
"""

import re
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct
from service_sites import REGION, Site, run

from hsmkms.config.settings import AuditSettings
from hsmkms.store import keys
from hsmkms.wiring.stores import open_store

PLAINTEXT = b"the plaintext of the main job, spied upon"
LIBRARIES = Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"), Path("/opt/homebrew/lib")

_CALL = re.compile(r"^\d+: (C_\w+)\n", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^    (CKA_\S+(?: \(0x[0-9a-f]+\))?) +(\S+)", re.MULTILINE)
_DUMP = re.compile(r"^    [0-9a-f]{8}  ((?:[0-9A-F]{2} )+)", re.MULTILINE)


class SpyCall(Struct, frozen=True):
    """One call, and all that was logged of it."""

    name: str
    text: str

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes that it names, with what the log shows of their values."""
        return dict(_ATTRIBUTE.findall(self.text))

    def dump(self, parameter: str) -> bytes:
        """The bytes of a parameter that the log shows as a hex dump."""
        _, _, after = self.text.partition(parameter)
        lines = after.split("\n")[1:]
        taken = [match[1] for match in map(_DUMP.match, lines[: _dump_length(lines)]) if match]
        return bytes.fromhex("".join(taken))


def _dump_length(lines: list[str]) -> int:
    return next((number for number, line in enumerate(lines) if not _DUMP.match(line)), len(lines))


class Spied(Struct, frozen=True):
    """The calls of the main job, in their order, the id of the key that it made, and the CKA_ID of its object."""

    calls: list[SpyCall]
    key_id: str
    cka_id: bytes

    def named(self, *names: str) -> list[SpyCall]:
        """The calls of these functions."""
        return [call for call in self.calls if call.name in names]

    @property
    def backing_key(self) -> tuple[SpyCall, str]:
        """The call that generated the backing key, and the handle that it got."""
        (made,) = (call for call in self.named("C_GenerateKey") if call.dump("CKA_ID") == self.cka_id)
        return made, handle_in(made)


def handle_in(call: SpyCall) -> str:
    """The handle of the key or object that the call made or took."""
    handle = re.search(r"h(?:Key|Object) = (0x[0-9a-f]+)", call.text)
    assert handle is not None
    return handle[1]


def spy_path() -> Path:
    """The spy's library; the test fails without it, as it is installed with the other tools of the tests."""
    for folder in LIBRARIES:
        modules = sorted(folder.glob("**/pkcs11-spy.so")) + sorted(folder.glob("pkcs11-spy.dylib"))
        if modules:
            return modules[0]
    pytest.fail("pkcs11-spy.so is not installed: install the package opensc-pkcs11")


@pytest.fixture(scope="module")
def spied(tmp_path_factory: pytest.TempPathFactory) -> Spied:
    """The main job, done once under the spy's eyes in a process of its own; without the audit log's data objects."""
    site = Site.make(tmp_path_factory.mktemp("spied") / "site")
    log = site.folder / "spy.log"
    token = site.settings.token
    environment = token.environment | {"PKCS11SPY": str(token.module), "PKCS11SPY_OUTPUT": str(log)}
    watched = msgspec.structs.replace(token, module=spy_path(), environment=environment)
    site.varied("spied.toml", token=watched, audit=AuditSettings(durability="off"))
    (output,) = run("main_job", site.folder / "spied.toml")
    assert output["opened"] is True
    _, *parts = _CALL.split(log.read_text(errors="replace"))
    calls = [SpyCall(*each) for each in zip(parts[::2], parts[1::2], strict=True)]
    return Spied(calls, output["key"], _cka_id(site, output["key"]))


def _cka_id(site: Site, key_id: str) -> bytes:
    with closing(open_store(site.settings)) as store, store.reading() as conn:
        record = keys.fetch(conn, REGION, key_id)
    assert record is not None
    (only,) = record.materials
    return only.cka_id


def test_initialised_for_threads(spied: Spied) -> None:
    """The module's first call is C_Initialize with CKF_OS_LOCKING_OK; it is logged out and finalised at the end."""
    first = spied.named("C_Initialize")[0]
    assert "CKF_OS_LOCKING_OK" in first.text
    assert "Returned:  0 CKR_OK" in first.text
    assert len(spied.named("C_Login")) == 1
    assert spied.calls[-1].name == "C_Finalize"


def test_backing_key_template(spied: Spied) -> None:
    """The backing key is generated on the token with the template of the design, and no other usage."""
    made, _ = spied.backing_key
    assert "CKM_AES_KEY_GEN" in made.text
    assert "Returned:  0 CKR_OK" in made.text
    template = made.attributes
    yes = ("TOKEN", "PRIVATE", "SENSITIVE", "ENCRYPT", "DECRYPT")
    no = ("EXTRACTABLE", "MODIFIABLE", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE")
    expected = {f"CKA_{name}": "True" for name in yes} | {f"CKA_{name}": "False" for name in no}
    assert {name: template.get(name) for name in expected} == expected
    assert template["CKA_CLASS"] == "CKO_SECRET_KEY"
    assert made.dump("CKA_VALUE_LEN")[:1] == bytes((32,))
    copyable = "CKA_COPYABLE" if "CKA_COPYABLE" in template else "CKA_? (0x00000171)"
    assert copyable in template


def test_every_key_is_sensitive(spied: Spied) -> None:
    """Whatever is generated, also for the tests at start, is sensitive and not extractable."""
    generated = spied.named("C_GenerateKey")
    assert generated
    for call in generated:
        assert (call.attributes["CKA_SENSITIVE"], call.attributes["CKA_EXTRACTABLE"]) == ("True", "False")


def test_backing_key_is_read_back(spied: Spied) -> None:
    """After its generation the decisive attributes are asked for, before the key is used."""
    made, handle = spied.backing_key
    after = spied.calls[spied.calls.index(made) + 1 :]
    before_use = after[: next(number for number, call in enumerate(after) if call.name == "C_EncryptInit")]
    asked = {
        name
        for call in before_use
        if call.name == "C_GetAttributeValue" and f"hObject = {handle}\n" in call.text
        for name in call.attributes
    }
    assert asked >= {"CKA_SENSITIVE", "CKA_EXTRACTABLE", "CKA_ENCRYPT", "CKA_WRAP", "CKA_DERIVE", "CKA_PRIVATE"}


def test_no_value_is_asked_for(spied: Spied) -> None:
    """No call asks for key material, none brings any, and none wraps, unwraps, derives or changes a key.

    Nor is a key copied, but for the session key on which the token's way of copying is tried.
    """
    for call in spied.named("C_GetAttributeValue"):
        assert "CKA_VALUE" not in call.attributes
    forbidden = {
        "C_CreateObject",
        "C_SetAttributeValue",
        "C_WrapKey",
        "C_UnwrapKey",
        "C_DeriveKey",
        "C_GetOperationState",
    }
    assert forbidden.isdisjoint({call.name for call in spied.calls})
    session_key = ("CKA_TOKEN", "False")
    tried = {handle_in(call) for call in spied.named("C_GenerateKey") if session_key in call.attributes.items()}
    assert {handle_in(call) for call in spied.named("C_CopyObject")} <= tried


def test_encryption_is_on_the_token(spied: Spied) -> None:
    """Each encryption is C_EncryptInit with AES-GCM under the backing key, and C_Encrypt of the plaintext."""
    _, handle = spied.backing_key
    pairs = [
        (call, spied.calls[number + 1])
        for number, call in enumerate(spied.calls)
        if call.name == "C_EncryptInit" and f"[in] hKey = {handle}\n" in call.text
    ]
    assert len(pairs) == 4
    for init, encrypt in pairs:
        assert "CKM_AES_GCM" in init.text
        assert "ulTagBits = 128" in init.text
        assert spied.key_id.encode() in init.dump("pAAD[ulAADLen]")
        assert encrypt.name == "C_Encrypt"
    plaintexts = [encrypt.dump("pData[ulDataLen]") for _, encrypt in pairs]
    assert plaintexts[:3] == [PLAINTEXT] * 3
    assert len(plaintexts[3]) == 32


def test_ivs_come_from_the_token(spied: Spied) -> None:
    """Every IV has 96 bits, was drawn with C_GenerateRandom before, and is used once; so is the data key."""
    _, handle = spied.backing_key
    inits = [call for call in spied.named("C_EncryptInit") if f"[in] hKey = {handle}\n" in call.text]
    ivs = [call.dump("pIv[ulIvLen]") for call in inits]
    drawn = b"|".join(call.dump("RandomData[ulRandomLen]") for call in spied.named("C_GenerateRandom"))
    assert {len(iv) for iv in ivs} == {12}
    assert len(set(ivs)) == len(ivs) == 4
    assert all(drawn.count(iv) == 1 for iv in ivs)
    data_key = spied.calls[spied.calls.index(inits[3]) + 1].dump("pData[ulDataLen]")
    assert drawn.count(data_key) == 1


def test_decryption_is_on_the_token(spied: Spied) -> None:
    """Each decryption is C_DecryptInit under the backing key, and C_Decrypt."""
    _, handle = spied.backing_key
    following = [
        spied.calls[number + 1].name
        for number, call in enumerate(spied.calls)
        if call.name == "C_DecryptInit" and f"[in] hKey = {handle}\n" in call.text
    ]
    assert following == ["C_Decrypt"] * 3


def test_one_search_per_key_at_most(spied: Spied) -> None:
    """A key that was just made is not searched for: its handle is known, from its first use on."""
    _, handle = spied.backing_key
    (first, *_) = (
        number
        for number, call in enumerate(spied.calls)
        if call.name == "C_EncryptInit" and f"[in] hKey = {handle}\n" in call.text
    )
    assert [call.name for call in spied.calls[first:] if call.name.startswith("C_FindObjects")] == []
