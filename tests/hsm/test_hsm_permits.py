"""Permits: no procedure of the device does anything without a fitting one."""

import ast
import inspect
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from devices import new_key, permit

import hsmkms
from hsmkms.errors import PermitError
from hsmkms.hsm import ports
from hsmkms.hsm.ciphers import Ciphers
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.import_profiles import ImportProfiles
from hsmkms.hsm.imported import Imports
from hsmkms.hsm.imports.unwrapping import WrappedMaterial
from hsmkms.hsm.key_objects import KeyObjects
from hsmkms.hsm.keypairs import KeyPairs
from hsmkms.hsm.own_objects import OwnObjects
from hsmkms.hsm.session.connection import Connection
from hsmkms.model.enums import (
    EncryptionAlgorithm,
    KeySpec,
    KeyUsage,
    MacAlgorithm,
    Operation,
    SigningAlgorithm,
    WrappingAlgorithm,
)
from hsmkms.model.permit import LIFETIME_SECONDS, OperatorAct, Permit

SOURCE = Path(hsmkms.__file__).parent
EVERY_ACT: tuple[Operation | OperatorAct, ...] = (*Operation, *OperatorAct)

DATA_KEYS = {Operation.GENERATE_DATA_KEY, Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT}
DATA_KEY_PAIRS = {Operation.GENERATE_DATA_KEY_PAIR, Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT}
ENCRYPTIONS = {Operation.ENCRYPT, Operation.RE_ENCRYPT, *DATA_KEYS, *DATA_KEY_PAIRS}
ADMITTED: dict[str, set[Operation | OperatorAct]] = {
    "encrypt": {OperatorAct.BACKUP, OperatorAct.CREDENTIALS, *ENCRYPTIONS},
    "decrypt": {Operation.DECRYPT, Operation.RE_ENCRYPT, OperatorAct.BACKUP, OperatorAct.CREDENTIALS},
    "random": {
        Operation.GENERATE_RANDOM,
        OperatorAct.BACKUP,
        OperatorAct.CREDENTIALS,
        OperatorAct.INITIALISE,
        *DATA_KEYS,
    },
    "data_key_pair": DATA_KEY_PAIRS,
    "generate_backing_key": {
        Operation.CREATE_KEY,
        OperatorAct.BACKUP,
        OperatorAct.CREDENTIALS,
        OperatorAct.MAINTAIN,
        OperatorAct.REPORT,
    },
    "generate_wrapping_key": {Operation.GET_PARAMETERS_FOR_IMPORT},
    "destroy_wrapping_key": {
        Operation.DELETE_IMPORTED_KEY_MATERIAL,
        Operation.GET_PARAMETERS_FOR_IMPORT,
        Operation.IMPORT_KEY_MATERIAL,
        OperatorAct.MAINTAIN,
        OperatorAct.RECONCILE,
    },
    "fingerprints": {Operation.IMPORT_KEY_MATERIAL},
    "unwrap_backing_key": {Operation.IMPORT_KEY_MATERIAL},
    "generate_mac_key": {OperatorAct.INITIALISE, OperatorAct.SEAL},
    "notes": {OperatorAct.SEAL},
    "holds_note": {OperatorAct.SEAL},
    "replace_note": {OperatorAct.SEAL},
    "remove_notes": {OperatorAct.SEAL},
    "change_pin": {OperatorAct.CHANGE_PIN},
    "mac": {
        OperatorAct.BACKUP,
        OperatorAct.CREDENTIALS,
        Operation.GET_PARAMETERS_FOR_IMPORT,
        Operation.IMPORT_KEY_MATERIAL,
        OperatorAct.INITIALISE,
        OperatorAct.OPEN,
        OperatorAct.SEAL,
    },
    "sign": {Operation.SIGN, OperatorAct.REPORT},
    "verify": {Operation.VERIFY},
    "public_key": {Operation.ENCRYPT, Operation.GET_PUBLIC_KEY, Operation.RE_ENCRYPT, OperatorAct.REPORT},
    "encrypt_oaep": {Operation.ENCRYPT, Operation.GET_PUBLIC_KEY, Operation.RE_ENCRYPT, OperatorAct.REPORT},
    "decrypt_oaep": {Operation.DECRYPT, Operation.RE_ENCRYPT, OperatorAct.BACKUP, OperatorAct.CREDENTIALS},
    "agree": {Operation.DERIVE_SHARED_SECRET},
    "encapsulate": {Operation.ENCAPSULATE},
    "decapsulate": {Operation.DECAPSULATE},
    "generate_mac": {Operation.GENERATE_MAC, Operation.VERIFY_MAC},
    "destroy": {
        Operation.DELETE_IMPORTED_KEY_MATERIAL,
        Operation.IMPORT_KEY_MATERIAL,
        OperatorAct.MAINTAIN,
        OperatorAct.RECONCILE,
    },
}
ADMITTED["destroy_secret"] = ADMITTED["destroy"]
"""For what each procedure is there, typed by hand."""

P256 = (KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
KEM = (KeySpec.ML_KEM_768, KeyUsage.ENCAPSULATE_DECAPSULATE)

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "encrypt": (b"plaintext", b"aad"),
    "decrypt": (bytes(12), bytes(20), b"aad"),
    "random": (),
    "data_key_pair": (),
    "generate_backing_key": ("label",),
    "generate_wrapping_key": ("label", 2048),
    "destroy_wrapping_key": (),
    "fingerprints": ("key id",),
    "unwrap_backing_key": (bytes(16), "label"),
    "generate_mac_key": ("label",),
    "mac": (b"message",),
    "sign": (SigningAlgorithm.ECDSA_SHA_256, bytes(32)),
    "verify": (P256, SigningAlgorithm.ECDSA_SHA_256, bytes(32), b"signature"),
    "public_key": (P256,),
    "encrypt_oaep": (KeySpec.RSA_2048, EncryptionAlgorithm.RSAES_OAEP_SHA_1, b"plaintext"),
    "decrypt_oaep": (KeySpec.RSA_2048, EncryptionAlgorithm.RSAES_OAEP_SHA_1, bytes(256)),
    "agree": (KeySpec.ECC_NIST_P256, ec.generate_private_key(ec.SECP256R1()).public_key()),
    "encapsulate": (KEM,),
    "decapsulate": (bytes(1088),),
    "generate_mac": (MacAlgorithm.HMAC_SHA_256, b"message"),
    "notes": (),
    "holds_note": (b"value",),
    "replace_note": ("label", b"value"),
    "remove_notes": (),
    "change_pin": ("new",),
    "destroy": (),
    "destroy_secret": (),
}
NEEDS_NO_OBJECT = {"change_pin", "data_key_pair", "random", "notes", "holds_note", "replace_note", "remove_notes"}
TAKES_MATERIAL = {"fingerprints", "unwrap_backing_key"}
"""Those that are shown the wrapping key within what it wraps."""


PARTS: dict[str, type] = {
    "ciphers": Ciphers,
    "connection": Connection,
    "imports": Imports,
    "keys": KeyObjects,
    "own": OwnObjects,
    "pairs": KeyPairs,
}
"""The parts of a device, by their names in it."""
PORTS: dict[str, type] = {
    "ciphers": ports.Encrypting,
    "connection": ports.Login,
    "imports": ports.Unwrapping,
    "keys": ports.Keys,
    "own": ports.Own,
    "pairs": ports.Signing,
}
"""What those who use a device see of each."""


def procedures() -> dict[str, str]:
    """Return the public procedures that take a permit, each with its part of the device."""
    return {
        name: part
        for part, kind in PARTS.items()
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and "permit" in inspect.signature(member).parameters
    }


def offered() -> set[str]:
    """Return the names of everything that a device's parts offer."""
    return {name for port in PORTS.values() for name in vars(port) if not name.startswith("_")}


def call(device: TokenDevice, name: str, shown: Permit, key: bytes) -> object:
    """Call a procedure on ``key``."""
    first: object = 16 if name in NEEDS_NO_OBJECT else key
    if name == "data_key_pair":
        first = KeySpec.ECC_NIST_P256
    if name in TAKES_MATERIAL:
        first = WrappedMaterial(key, WrappingAlgorithm.RSAES_OAEP_SHA_1, b"")
    return getattr(getattr(device, procedures()[name]), name)(shown, first, *ARGUMENTS[name])


@pytest.fixture
def key(device: TokenDevice, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return a key; from then on borrowing a session of the device fails the test."""
    key = new_key(device)

    def forbidden() -> NoReturn:
        raise AssertionError("a session was borrowed")

    monkeypatch.setattr(device.connection.pool, "take", forbidden)
    return key


def test_every_procedure_is_in_the_tables() -> None:
    """No procedure is missing from the tables of this file."""
    assert set(procedures()) == set(ADMITTED) == set(ARGUMENTS)


@pytest.mark.parametrize("name", sorted(ADMITTED))
def test_operations_that_do_not_fit(device: TokenDevice, key: bytes, name: str) -> None:
    """A permit for an operation that does not fit the procedure is refused before a call to the token."""
    for act in set(EVERY_ACT) - ADMITTED[name]:
        with pytest.raises(PermitError, match=f"a permit for {act} was shown where one of"):
            call(device, name, permit(act, key), key)


@pytest.mark.parametrize("name", sorted(set(ADMITTED) - NEEDS_NO_OBJECT))
def test_objects_that_are_not_covered(device: TokenDevice, key: bytes, name: str) -> None:
    """A permit for other objects, or for none, is refused before a call to the token."""
    for act in ADMITTED[name]:
        for others in ((), (bytes(16),), (key[:-1],), (key.hex().encode(),)):
            with pytest.raises(PermitError, match=f"does not cover the object {key.hex()}"):
                call(device, name, permit(act, *others), key)


@pytest.mark.parametrize("name", sorted(ADMITTED))
def test_permits_run_out(device: TokenDevice, key: bytes, name: str) -> None:
    """An expired permit is refused before a call to the token."""
    for act in ADMITTED[name]:
        with pytest.raises(PermitError, match="has run out"):
            call(device, name, permit(act, key, seconds=-0.001), key)


@pytest.mark.parametrize("name", sorted(ADMITTED))
def test_fitting_permits_reach_the_token(device: TokenDevice, key: bytes, name: str) -> None:
    """A fitting permit reaches the token, so that the tests above do not pass by refusing everything."""
    for act in ADMITTED[name]:
        with pytest.raises(AssertionError, match="a session was borrowed"):
            call(device, name, permit(act, key, bytes(16)), key)


def test_an_import_needs_both_objects(device: TokenDevice, key: bytes) -> None:
    """Unwrapping into a new object needs a permit for that object as well as for the wrapping key."""
    new = os.urandom(16)
    wrapped = WrappedMaterial(key, WrappingAlgorithm.RSAES_OAEP_SHA_1, b"")
    for covered, missing in ((key, new), (new, key)):
        with pytest.raises(PermitError, match=f"does not cover the object {missing.hex()}"):
            device.imports.unwrap_backing_key(permit(Operation.IMPORT_KEY_MATERIAL, covered), wrapped, new, "label")


def test_refusal_changes_nothing(device: TokenDevice) -> None:
    """After every kind of refusal the token has the same objects as before."""
    key, other = new_key(device), os.urandom(16)
    inventory = {stored_key.cka_id for stored_key in device.keys.inventory(key)}
    for name, acts in ADMITTED.items():
        unfit = next(act for act in EVERY_ACT if act not in acts)
        for shown in (permit(unfit, key, other), *(permit(act, key, other, seconds=-1) for act in acts)):
            for target in (key, other):
                with pytest.raises(PermitError):
                    call(device, name, shown, target)
    assert {stored_key.cka_id for stored_key in device.keys.inventory(key)} == inventory


def test_permit_covers_several() -> None:
    """A permit for several objects is valid for each of them, and for one operation only."""
    shown = permit(Operation.RE_ENCRYPT, b"a", b"b")
    for cka_id in (b"a", b"b", None):
        shown.require(frozenset({Operation.RE_ENCRYPT}), cka_id)
    with pytest.raises(PermitError):
        shown.require(frozenset({Operation.RE_ENCRYPT}), b"c")
    assert LIFETIME_SECONDS == 60


# -- by reading the source ------------------------------------------------------------------------------------------

ACTS_ON_THE_TOKEN = {
    "seal",
    "open_sealed",
    "use",
    "generate",
    "generate_pair",
    "make_both",
    "destroy",
    "sign",
    "generate_random",
    "create_object",
    "unwrap_key",
    "probe_import",
    "probe_kinds",
    "agree",
    "decapsulate",
    "encapsulate_on_token",
    "make_data_key_pair",
    "open_on_token",
    "open_here",
    "disproof",
    "signs_prehashed",
    "fingerprints",
    "keep",
    "keep_secret",
    "keep_note",
    "read_notes",
    "is_note_at",
    "remove_notes",
    "set_pin",
    "try_pair",
}
"""Names of calls that use, make or destroy an object on the token, or draw from its generator."""

SHOWS_THE_TOKEN_ONLY = {
    "check_import",
    "checks",
    "wrapping_algorithms",
    "refusal",
    "on_device",
    "attest",
    "attest_mac_key",
    "attest_public",
    "check_signing",
    "check_kind",
    "check_data_key_pair",
    "quirks",
    "tolerated",
}
"""Make session objects of their own and destroy them: the probes, which determine what the token can do."""


def methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    """Return the methods of a class by name."""
    return {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}


def called(node: ast.AST) -> set[str]:
    """Return the names of everything that is called in a piece of source."""
    return {
        each.func.attr if isinstance(each.func, ast.Attribute) else each.func.id
        for each in ast.walk(node)
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute | ast.Name)
    }


def device_methods() -> dict[str, ast.FunctionDef]:
    """Return the methods of a device's parts as syntax trees."""
    methods_by_name: dict[str, ast.FunctionDef] = {}
    for part in (*PARTS.values(), ImportProfiles):
        tree = ast.parse(Path(inspect.getfile(part)).read_text())
        (written,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == part.__name__)
        methods_by_name |= methods(written)
    return methods_by_name


def reaching() -> set[str]:
    """Return the names of the device's methods that act on the token, directly or through another method."""
    methods = device_methods()
    reach = {name for name, node in methods.items() if called(node) & (ACTS_ON_THE_TOKEN | {"run_checks"})}
    while more := {name for name, node in methods.items() if called(node) & reach} - reach:
        reach |= more
    return reach


def test_acts_on_the_token_take_a_permit() -> None:
    """Every public procedure that acts on the token takes a permit, and checks it before anything else."""
    assert (reaching() & offered()) - SHOWS_THE_TOKEN_ONLY == set(procedures())
    for name in procedures():
        _docstring, first, *_ = device_methods()[name].body
        assert ast.unparse(first).startswith("permit.require(MAY_"), name


def test_the_analysis_includes_private_helpers() -> None:
    """The analysis of the source above includes private helpers, so that it would detect a new procedure."""
    assert {"encrypt", "decrypt", "destroy", "generate_backing_key", "checks"} <= reaching()
    assert {"fingerprints", "unwrap_backing_key", "destroy_object", "symmetric"} <= reaching()
    assert "holds" not in reaching()


def test_only_the_ports_are_imported() -> None:
    """Only wiring opens devices; all other code outside of hsm/ imports ports.py, and no class of a part."""
    classes = {"TokenDevice", "ImportProfiles", *(part.__name__ for part in PARTS.values())}
    modules = {"hsmkms.hsm.device", *(part.__module__ for part in (*PARTS.values(), ImportProfiles))}
    for path in SOURCE.rglob("*.py"):
        inside = path.relative_to(SOURCE).parts[0]
        if inside in {"hsm", "wiring"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                assert classes.isdisjoint(name.name for name in node.names), path


def test_a_device_has_what_it_offers(device: TokenDevice) -> None:
    """Each part of an open device has everything that its port offers."""
    for part, port in PORTS.items():
        assert [
            name for name in vars(port) if not name.startswith("_") and not hasattr(getattr(device, part), name)
        ] == []


MAY_MAKE_PERMITS = {"service/pipeline.py", "service/runtime/permits.py"}
"""The second makes those that no user asked for; it takes an OperatorAct, so none for an operation of the API."""


def test_permits_are_made_in_few_places() -> None:
    """Permits are made only by the pipeline, and by one function for the installation's own work."""
    makers = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _is_permit(node.func)
    }
    assert makers == MAY_MAKE_PERMITS


def _is_permit(function: ast.expr) -> bool:
    return (isinstance(function, ast.Name) and function.id == "Permit") or (
        isinstance(function, ast.Attribute) and function.attr == "Permit"
    )


def test_permits_are_not_imported_under_another_name() -> None:
    """No module evades the test above by importing Permit under another name, or by ``replace``."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not any(name.name == "Permit" and name.asname for name in node.names), path
            if isinstance(node, ast.Call) and called(node) & {"replace"}:
                assert not any("permit" in ast.unparse(argument).lower() for argument in node.args), path
