"""Objects on the token: created as ordered, read back, compared, destroyed."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import spylog
from devices import new_key, permit, require_copyable
from pkcs11.constants import Attribute, MechanismFlag, ObjectClass
from pkcs11.mechanisms import KeyType
from pkcs11.types import Session
from tokens.driver import NotPossibleError

from hsmkms.errors import ObjectLostError, TokenError
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.key_objects import KeyObjects
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY, INSTALLATION_MAC_KEY
from hsmkms.hsm.objects.objects import attest, differences, find, generate
from hsmkms.model.cipher_format import CipherFormat
from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct

BACKING_KEY = {
    "CKA_CLASS": "CKO_SECRET_KEY",
    "CKA_KEY_TYPE": "CKK_AES",
    "CKA_VALUE_LEN": 32,
    "CKA_TOKEN": True,
    "CKA_PRIVATE": True,
    "CKA_SENSITIVE": True,
    "CKA_ALWAYS_SENSITIVE": True,
    "CKA_EXTRACTABLE": False,
    "CKA_NEVER_EXTRACTABLE": True,
    "CKA_MODIFIABLE": False,
    "CKA_COPYABLE": False,
    "CKA_DESTROYABLE": True,
    "CKA_LOCAL": True,
    "CKA_KEY_GEN_MECHANISM": "CKM_AES_KEY_GEN",
    "CKA_ENCRYPT": True,
    "CKA_DECRYPT": True,
    "CKA_SIGN": False,
    "CKA_VERIFY": False,
    "CKA_WRAP": False,
    "CKA_UNWRAP": False,
    "CKA_DERIVE": False,
}
"""Typed by hand from design decision 4: a backing key can encrypt and decrypt, and nothing else."""

MAC_KEY = BACKING_KEY | {
    "CKA_KEY_TYPE": "CKK_GENERIC_SECRET",
    "CKA_KEY_GEN_MECHANISM": "CKM_GENERIC_SECRET_KEY_GEN",
    "CKA_ENCRYPT": False,
    "CKA_DECRYPT": False,
    "CKA_SIGN": True,
    "CKA_VERIFY": True,
}
COPYABLE = "CKA_? (0x00000171)"
"""How the spy, older than PKCS#11 2.40, writes CKA_COPYABLE."""


def test_backing_key_is_as_ordered(device: TokenDevice) -> None:
    """A backing key reports exactly the attributes that design decision 4 orders, and no deviation."""
    key = new_key(device, "a label")
    attributes, deviations = device.keys.attest(key)
    assert attributes == BACKING_KEY | {"CKA_ID": key.hex(), "CKA_LABEL": "a label"}
    assert deviations == []


def test_installation_key_is_as_ordered(device: TokenDevice, session: Session) -> None:
    """An installation key can sign and verify, and nothing else."""
    key = os.urandom(16)
    device.own.generate_mac_key(permit(OperatorAct.INITIALISE, key), key, "own")
    found = find(session, ObjectClass.SECRET_KEY, key)
    assert found is not None
    attributes, deviations = attest(found, INSTALLATION_MAC_KEY.expected(b"", ""))
    assert attributes == MAC_KEY | {"CKA_ID": key.hex(), "CKA_LABEL": "own"}
    assert deviations == []


def on_token(call: spylog.SpyCall) -> bool:
    """Return True if the call creates a token object."""
    return ("CKA_TOKEN", "True") in call.attributes.items()


def test_template_on_the_wire(main_job: spylog.MainJob) -> None:
    """In the spy's log the backing key's template is sensitive, not extractable, with two usages only."""
    made = [each for each in spylog.named(main_job.calls, "C_GenerateKey") if "CKM_AES_KEY_GEN" in each.text]
    (stored,) = filter(on_token, made)
    ordered = stored.attributes
    assert {name for name, value in ordered.items() if value == "True"} == {
        "CKA_TOKEN",
        "CKA_PRIVATE",
        "CKA_SENSITIVE",
        "CKA_ENCRYPT",
        "CKA_DECRYPT",
    }
    assert {name for name, value in ordered.items() if value == "False"} - {"CKA_COPYABLE"} == {
        "CKA_EXTRACTABLE",
        "CKA_MODIFIABLE",
        "CKA_SIGN",
        "CKA_VERIFY",
        "CKA_WRAP",
        "CKA_UNWRAP",
        "CKA_DERIVE",
    }
    # Newer spies know the attribute by its name.
    assert COPYABLE in ordered or ordered["CKA_COPYABLE"] == "False"
    assert stored.returned == "CKR_OK"


def test_probe_leaves_session_objects_only(main_job: spylog.MainJob) -> None:
    """The probe at start creates only session objects, and destroys them at once."""
    made = spylog.named(main_job.calls, "C_GenerateKey")
    assert sum(map(on_token, made)) == 2
    temporary = len(made) - 2
    assert len(spylog.named(main_job.calls, "C_DestroyObject")) == temporary + 1


def test_material_stays_on_the_token(main_job: spylog.MainJob) -> None:
    """In the whole main job no object is created from bytes, none is wrapped, and CKA_VALUE is never read.

    The one attempt to copy is that of the probe, with its own session key, and the token refuses it.
    """
    assert main_job.opened == "a line of a real file"
    assert main_job.deviations == []
    forbidden = ("C_CreateObject", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey", "C_SetAttributeValue")
    assert spylog.named(main_job.calls, *forbidden) == []
    assert spylog.refused_copies(main_job.calls) == 1
    read = {name for each in spylog.named(main_job.calls, "C_GetAttributeValue") for name in each.attributes}
    assert "CKA_ID" in read
    assert "CKA_VALUE" not in read


def test_encryption_is_done_by_the_token(main_job: spylog.MainJob) -> None:
    """C_Encrypt gets the plaintext and C_Decrypt returns it, with AES-GCM, a 96-bit IV and a 128-bit tag."""
    if main_job.cipher_format != CipherFormat.AES_256_GCM:
        raise NotPossibleError("the token has no AES-GCM")
    encrypted = [each for each in spylog.named(main_job.calls, "C_Encrypt") if " a line of a real" in each.text]
    decrypted = [each for each in spylog.named(main_job.calls, "C_Decrypt") if " a line of a real" in each.text]
    assert encrypted
    assert decrypted
    assert {each.returned for each in (*encrypted, *decrypted)} == {"CKR_OK"}
    started = [each for each in spylog.named(main_job.calls, "C_EncryptInit") if "purpose=test" in each.text]
    assert len(started) == 1
    for expected in ("CKM_AES_GCM", "ulIvBits = 0x60", "ulTagBits = 128"):
        assert expected in started[0].text


def by_hand(session: Session, **changes: object) -> bytes:
    """Create a key as another tool would, like a backing key but for ``changes``; return its CKA_ID."""
    cka_id = os.urandom(16)
    template = {
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.MODIFIABLE: False,
        Attribute.COPYABLE: False,
    }
    arguments: dict[str, Any] = {"bits": 256, "key_type": KeyType.AES, "capabilities": AES_256_BACKING_KEY.capabilities}
    arguments |= {name: value for name, value in changes.items() if name in arguments}
    template |= {Attribute[name]: value for name, value in changes.items() if name not in arguments}
    bits, key_type = arguments.pop("bits"), arguments.pop("key_type")
    session.generate_key(key_type, bits, id=cka_id, label="made by hand", store=True, template=template, **arguments)
    return cka_id


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, set()),
        ({"SENSITIVE": False}, {"CKA_SENSITIVE is False", "CKA_ALWAYS_SENSITIVE is False"}),
        ({"EXTRACTABLE": True}, {"CKA_EXTRACTABLE is True", "CKA_NEVER_EXTRACTABLE is False"}),
        ({"MODIFIABLE": True}, {"CKA_MODIFIABLE is True"}),
        ({"COPYABLE": True}, {"CKA_COPYABLE is True"}),
        ({"PRIVATE": False}, {"CKA_PRIVATE is False"}),
        ({"bits": 128}, {"CKA_VALUE_LEN is 16"}),
        ({"WRAP": True, "UNWRAP": True}, {"CKA_WRAP is True", "CKA_UNWRAP is True"}),
        ({"capabilities": MechanismFlag.ENCRYPT}, {"CKA_DECRYPT is False"}),
        ({"capabilities": AES_256_BACKING_KEY.capabilities | MechanismFlag.DERIVE}, {"CKA_DERIVE is True"}),
        ({"key_type": KeyType.GENERIC_SECRET}, {"CKA_KEY_TYPE is 16"}),
    ],
)
def test_deviations_are_named(device: TokenDevice, session: Session, changes: dict[str, Any], wrong: set[str]) -> None:
    """Each attribute that is not as ordered is named with its value, and no other is named."""
    require_copyable(device)
    key = by_hand(session, **changes)
    _, deviations = device.keys.attest(key)
    assert {each.partition(" instead of ")[0] for each in deviations} == wrong


def test_label_and_id_count_at_generation(device: TokenDevice, session: Session) -> None:
    """Compared in full, CKA_ID and CKA_LABEL count too; an object with another CKA_ID is not one to be destroyed."""
    require_copyable(device)
    key = by_hand(session)
    found = find(session, ObjectClass.SECRET_KEY, key)
    assert found is not None
    assert differences(found, AES_256_BACKING_KEY.expected(key, "made by hand")) == []
    assert differences(found, AES_256_BACKING_KEY.expected(key, "another")) == [
        "CKA_LABEL is 'made by hand' instead of 'another'"
    ]
    with pytest.raises(TokenError, match="has another CKA_ID, so it was left as it is"):
        differences(found, AES_256_BACKING_KEY.expected(b"x", "made by hand"))


def test_destroy(device: TokenDevice) -> None:
    """Destroying returns whether the key was there; afterwards only that key is gone."""
    key, neighbour = new_key(device), new_key(device)
    assert device.keys.holds(key)
    assert device.keys.destroy(permit(OperatorAct.RECONCILE, key), key)
    assert not device.keys.holds(key)
    assert device.connection.handles.lookup(key) is None
    assert not device.keys.destroy(permit(OperatorAct.RECONCILE, key), key)
    assert device.keys.holds(neighbour)


@pytest.mark.parametrize("look", [KeyObjects.attest, KeyObjects.holds])
def test_missing_key(device: TokenDevice, look: Callable[[KeyObjects, bytes], Any]) -> None:
    """A missing key is ObjectLostError for attest and False for holds."""
    if look is KeyObjects.holds:
        assert look(device.keys, bytes(16)) is False
        return
    with pytest.raises(ObjectLostError):
        look(device.keys, bytes(16))


def test_attest_counts_keys(device: TokenDevice, session: Session) -> None:
    """Two keys with one CKA_ID cannot be attested: which of them is meant is unknown."""
    key = new_key(device)
    generate(session, AES_256_BACKING_KEY, key, "again", device.profile.attributes)
    with pytest.raises(TokenError, match="2 objects with CKA_ID"):
        device.keys.attest(key)


def test_mac(device: TokenDevice) -> None:
    """The installation key's MAC has 32 bytes, is deterministic, and differs for other messages and keys."""
    keys = [os.urandom(16) for _ in range(2)]
    for key in keys:
        device.own.generate_mac_key(permit(OperatorAct.INITIALISE, key), key, "own")
    answers = {
        device.own.mac(permit(OperatorAct.OPEN, key), key, message) for key in keys for message in (b"a", b"b", b"")
    }
    assert len(answers) == 6
    assert {len(each) for each in answers} == {32}
    assert device.own.mac(permit(OperatorAct.INITIALISE, keys[0]), keys[0], b"a") in answers


@pytest.mark.parametrize("count", [1, 32, 1024])
def test_random(device: TokenDevice, count: int) -> None:
    """``random`` returns as many bytes as requested, new ones each time."""
    drawn = [device.ciphers.random(permit(Operation.GENERATE_RANDOM), count) for _ in range(2)]
    assert [len(each) for each in drawn] == [count] * 2
    assert count == 1 or drawn[0] != drawn[1]
