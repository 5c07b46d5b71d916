"""Handle cache: each key is searched for once, whatever else is on the token."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import devices
import pytest
import spylog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from devices import MakeToken, Token, checks_of, new_key, objects_of, permit, require_copyable
from pkcs11.constants import Attribute, CertificateType, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session
from pkcs11.util.ec import encode_named_curve_parameters

from hsmkms.errors import ObjectLostError, TokenError, TokenUnavailableError
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY, HARDENED, _TolerantMapper
from hsmkms.hsm.objects.objects import tell
from hsmkms.hsm.session import connection, handles
from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct

OBJECTS = int(os.environ.get("HSMKMS_TEST_OBJECTS", "1000"))
"""Further ones cost the token time, and the test shows the same: it counts calls."""


def _counting(count: Counter[str], name: str, real: Callable[..., object]) -> Callable[..., object]:
    def counted(*arguments: object) -> object:
        count[name] += 1
        return real(*arguments)

    return counted


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the searches of the index for one key ("find") or for all ("list_keys")."""
    count: Counter[str] = Counter()
    for name in ("find", "list_keys"):
        monkeypatch.setattr(handles, name, _counting(count, name, getattr(handles, name)))
    return count


def encrypt(device: TokenDevice, *keys: bytes) -> None:
    """Encrypt once with each key."""
    for key in keys:
        device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"x", b"")


def test_made_keys_are_known(device: TokenDevice, searches: Counter[str]) -> None:
    """A key created by this process is never searched for."""
    encrypt(device, new_key(device), new_key(device))
    assert not searches


def test_one_search_per_key(token: Token, searches: Counter[str]) -> None:
    """An object is searched for only at its first use; after several searches the token is enumerated, once."""
    device = token.open()
    keys = [new_key(device) for _ in range(12)]
    device.close()
    device = token.open()
    first, per_key = handles.ENUMERATE_AFTER - 1, objects_of(keys[0])
    for number, key in enumerate(keys[: first // per_key], 1):
        encrypt(device, key, key, key)
        assert searches == {"find": number * per_key}
    for _ in range(3):
        encrypt(device, *keys)
        assert searches == {"find": first, "list_keys": 1}
    encrypt(device, new_key(device))
    assert searches == {"find": first, "list_keys": 1}


def test_a_label_is_read_where_a_key_is_found(
    token: Token, searches: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label of a key that was searched for is known without another search, until the key is forgotten."""
    device = token.open()
    key = new_key(device, "hsmkms one")
    device.close()
    device = token.open()
    monkeypatch.setattr(connection, "find", _counting(searches, "find", connection.find))
    encrypt(device, key)
    assert device.keys.is_labelled(key, "hsmkms one")
    assert not device.keys.is_labelled(key, "hsmkms two")
    assert searches == {"find": objects_of(key)}
    device.keys._labels.clear()
    device.connection.handles.forget(key)
    assert device.keys.is_labelled(key, "hsmkms one")
    assert searches == {"find": objects_of(key) + 1}


def test_searches_on_the_token(make_token: MakeToken, spy_path: Path, programs: Path) -> None:
    """In the spy's log thirty encryptions with ten keys make three searches and one enumeration of three kinds."""
    token = make_token()
    device = token.open()
    keys = [new_key(device).hex() for _ in range(10)]
    device.close()
    log = token.folder / "spy.log"
    assert devices.run(programs / "searches.py", token.spied(spy_path, log), keys=keys) == "done"
    calls = spylog.read(log)
    assert len(spylog.named(calls, "C_FindObjectsInit")) == handles.ENUMERATE_AFTER - 1 + 3
    assert len(spylog.named(calls, "C_Login")) == 1


def test_enumerated_anew(device: TokenDevice, searches: Counter[str]) -> None:
    """After all handles were dropped, many keys are again found by one enumeration."""
    keys = [new_key(device) for _ in range(12)]
    for _ in range(2):
        searches.clear()
        device.connection.handles.forget_all()
        encrypt(device, *keys)
        assert searches == {"find": handles.ENUMERATE_AFTER - 1, "list_keys": 1}


def test_many_objects(token: Token, searches: Counter[str]) -> None:
    """With a thousand objects on the token, forty keys take three searches and one enumeration in all."""
    device = token.open()
    require_copyable(device)
    with device.connection.pool.session() as session:
        for number in range(OBJECTS):
            foreign_key(session, id=number.to_bytes(16), label=f"hsmkms key {number}")
    device.close()
    device = token.open()
    keys = [number.to_bytes(16) for number in range(1, OBJECTS, max(1, OBJECTS // 40))]
    for _ in range(3):
        encrypt(device, *keys)
        assert searches == {"find": handles.ENUMERATE_AFTER - 1, "list_keys": 1}
    assert len(device.keys.inventory(keys[0])) == OBJECTS


# -- foreign objects ------------------------------------------------------------------------------------------------


class RawMapper(_TolerantMapper):
    """Writes and reads labels as bytes, to create labels that are no text."""

    def __init__(self) -> None:
        super().__init__()
        self.register_handler(Attribute.LABEL, lambda label: label or b"", bytes)


def foreign_key(session: Session, **attributes: object) -> None:
    """Create a key that differs from a backing key only in its label."""
    session.generate_key(
        KeyType.AES, 256, store=True, capabilities=AES_256_BACKING_KEY.capabilities, template=HARDENED, **attributes
    )


def certificate() -> bytes:
    """Return a self-signed certificate in DER."""
    key, name = Ed25519PrivateKey.generate(), x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(key, None).public_bytes(Encoding.DER)


def add_foreign_objects(device: TokenDevice) -> int:
    """Create objects of every kind that other applications leave on a token; return their number."""
    with closing(device.connection.token.open(rw=True, attribute_mapper=RawMapper())) as session:
        templates: list[dict[Attribute, Any]] = [
            {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: b"data", Attribute.VALUE: b"\0\1"},
            {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: b"", Attribute.VALUE: b"", Attribute.PRIVATE: False},
            {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: b"\xff\xfe", Attribute.VALUE: bytes(5000)},
            {
                Attribute.CLASS: ObjectClass.CERTIFICATE,
                Attribute.CERTIFICATE_TYPE: CertificateType.X_509,
                Attribute.LABEL: b"\x80 certificate",
                Attribute.SUBJECT: b"\x30\x00",
                Attribute.ID: b"hsmkms",
                Attribute.VALUE: certificate(),
            },
            *(
                {
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
                    Attribute.LABEL: label,
                    Attribute.ID: cka_id,
                    Attribute.VALUE: b"not ours at all",
                    Attribute.SENSITIVE: False,
                    Attribute.EXTRACTABLE: True,
                }
                for label, cka_id in ((b"", b""), (b"\xc3\x28", b"\xff"), (b"\0" * 300, b"same"), (b"twice", b"same"))
            ),
        ]
        for template in templates:
            session.create_object({Attribute.TOKEN: True, **template})
        session.generate_keypair(KeyType.RSA, 1024, store=True, id=b"pair", label=b"\xe9")
        has_curves = device.connection.has(Mechanism.EC_KEY_PAIR_GEN)
        if has_curves:
            parameters = session.create_domain_parameters(
                KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
            )
            parameters.generate_keypair(store=True, label=b"pair")
        session.generate_key(
            KeyType.DES3, store=True, template={Attribute.START_DATE: date(2020, 1, 1), Attribute.LABEL: b""}
        )
    return len(templates) + 3 + 2 * has_curves


def snapshot(device: TokenDevice) -> set[tuple[Any, ...]]:
    """Return every object on the token with all its readable attributes."""
    with closing(device.connection.token.open(attribute_mapper=RawMapper())) as session:
        return {
            (each.handle, *(f"{name.name}={value!r}" for name, value in tell(each, tuple(Attribute)).items()))
            for each in session.get_objects({Attribute.TOKEN: True})
        }


def test_foreign_objects(token: Token) -> None:
    """Foreign objects break nothing, are listed if they are keys with an id, and are never changed."""
    device = token.open()
    count = add_foreign_objects(device)
    before = snapshot(device)
    assert len(before) == count
    keys = [new_key(device) for _ in range(handles.ENUMERATE_AFTER + 3)]
    device.connection.handles.forget_all()
    encrypt(device, *keys)
    listed = device.keys.inventory(keys[0])
    assert {each.cka_id for each in listed} == {*keys, b"\xff", b"same", b"pair"}
    assert Counter(each.cka_id for each in listed)[b"same"] == 2
    assert not any(each.failed for each in checks_of(device).values())
    for key in keys:
        assert device.keys.attest(key)[1] == []
        assert device.keys.destroy(permit(OperatorAct.RECONCILE, key), key)
    device.close()
    device = token.open()
    assert {each[1:] for each in snapshot(device)} == {each[1:] for each in before}


def test_key_that_exists_twice(device: TokenDevice) -> None:
    """Two keys with one CKA_ID are an error that names it, only for this key, also after an enumeration."""
    keys = [new_key(device) for _ in range(handles.ENUMERATE_AFTER + 1)]
    twice = keys[0]
    require_copyable(device)
    with device.connection.pool.session() as session:
        foreign_key(session, id=twice, label="the second")
    device.connection.handles.forget_all()
    for _ in range(2):
        for act in (
            lambda: encrypt(device, twice),
            lambda: device.keys.attest(twice),
            lambda: device.keys.holds(twice),
        ):
            with pytest.raises(TokenError, match=f"2 objects with CKA_ID {twice.hex()}"):
                act()
        with pytest.raises(TokenError):
            device.keys.destroy(permit(OperatorAct.RECONCILE, twice), twice)
        encrypt(device, *keys[1:])
    assert Counter(each.cka_id for each in device.keys.inventory(twice))[twice] == 2


def test_inventory_needs_its_witness(device: TokenDevice) -> None:
    """An inventory without the installation's own key proves nothing and is refused."""
    key = new_key(device)
    with pytest.raises(TokenUnavailableError, match="does not show the installation's own key"):
        device.keys.inventory(bytes(16))
    assert [each.cka_id for each in device.keys.inventory(key) if each.is_key] == [key]


def test_inventory_while_keys_come_and_go(device: TokenDevice, token: Token, programs: Path) -> None:
    """A listing has all keys that stay, however many another process creates and destroys meanwhile."""
    keys = {new_key(device) for _ in range(5)}
    witness = next(iter(keys))
    process = devices.start(programs / "come_and_go.py", token, seconds=1.5)
    process.stdin.write("go\n")
    process.stdin.flush()
    listings = 0
    while process.poll() is None:
        assert keys <= {each.cka_id for each in device.keys.inventory(witness)}
        listings += 1
    assert devices.finish(process) > 20
    assert listings > 20
    assert {each.cka_id for each in device.keys.inventory(witness)} == keys


def test_unknown_key(device: TokenDevice) -> None:
    """A key that is not on the token is ObjectLostError, before the enumeration and after it."""
    for _ in range(handles.ENUMERATE_AFTER + 2):
        with pytest.raises(ObjectLostError):
            encrypt(device, bytes(16))
