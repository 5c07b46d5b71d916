"""Our own calls of PKCS#11 functions: one function list, buffers without a size query, attributes read together."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cffi
import declare
import pytest
from devices import MakeToken, SoftHsm, new_key, permit
from pkcs11 import _pkcs11
from pkcs11 import exceptions as ckr
from pkcs11.constants import Attribute, MechanismFlag, ObjectClass
from pkcs11.mechanisms import GCMParams, KeyType, Mechanism
from pkcs11.types import Session
from shims import Played
from waiting import until

from hsmkms.errors import TokenUnfitError
from hsmkms.hsm import return_codes
from hsmkms.hsm.calls import attributes, function_list, operations
from hsmkms.hsm.calls.declarations import ffi
from hsmkms.hsm.calls.mechanisms import gcm, mechanism
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY, INSTALLATION_MAC_KEY, MAPPER
from hsmkms.hsm.objects.handle_keys import HandleObject, create_object
from hsmkms.hsm.objects.objects import generate, handle_of, search, tell
from hsmkms.hsm.return_codes import BufferTooSmallError
from hsmkms.hsm.session import module as modules
from hsmkms.model.enums import Operation

REMOTE = Path("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so")
IV, AAD, PLAINTEXT = bytes(range(12)), b"authenticated", b"to be encrypted"


@pytest.fixture
def played(make_token: MakeToken, shim_path: Path) -> Played:
    """Return a fresh token behind the shim, which has no orders yet."""
    return Played.of(make_token(), shim_path)


@pytest.fixture
def token(played: Played) -> SoftHsm:
    """Return the same token."""
    return played.token


@pytest.fixture
def key(session: Session) -> Iterator[int]:
    """Return the handle of a session key for AES-GCM."""
    made = generate(session, AES_256_BACKING_KEY, b"calls", "a key of the calls", store=False)
    yield handle_of(made)
    made.destroy()


# -- the function list -----------------------------------------------------------------------------------------------


def test_list_is_the_modules_own(make_token: MakeToken) -> None:
    """The function list read from python-pkcs11's objects is the one that SoftHSM's C_GetFunctionList returns."""
    token = make_token()
    device = token.open()
    wanted = ctypes.c_void_p()
    assert ctypes.CDLL(str(token.module)).C_GetFunctionList(ctypes.byref(wanted)) == 0
    module = device.connection.module
    assert function_list.lists_of(module._library)[0] == wanted.value
    with device.connection.pool.session() as session:
        assert function_list.functions_of(session).address == wanted.value


def test_other_layout_is_refused(token: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A python-pkcs11 with another object layout is refused by name; no pointer is read from it."""
    assert function_list._LAYOUT_IS_KNOWN
    monkeypatch.setattr(function_list, "_LAYOUT_IS_KNOWN", False)
    with pytest.raises(Exception, match="this version of python-pkcs11"):
        token.open()


def test_foreign_object_has_no_functions() -> None:
    """No call goes through a pointer that no loaded module has registered."""
    with pytest.raises(KeyError):
        function_list.functions_of(_pkcs11)  # type: ignore[arg-type]


def test_declarations_are_up_to_date() -> None:
    """The stored declarations are those of scripts/declare.py: same types, sizes, members and offsets."""
    fresh = cffi.FFI()
    fresh.cdef(declare.DECLARATIONS)
    names = fresh.list_types()[0]
    assert names == ffi.list_types()[0]
    for name in names:
        new, old = fresh.typeof(name), ffi.typeof(name)
        assert fresh.sizeof(new) == ffi.sizeof(old)
        if new.kind == "struct":
            layouts = [[(n, f.offset, str(f.type)) for n, f in each.fields] for each in (new, old)]
            assert layouts[0] == layouts[1], name


def test_remote_module_has_one_connection(make_token: MakeToken) -> None:
    """With p11-kit's remote module, where each function list is a connection, login and keys use one connection."""
    if not REMOTE.exists() or shutil.which("p11-kit") is None:
        pytest.skip("p11-kit is not installed (Debian: p11-kit, p11-kit-modules)")
    token = make_token()
    socket = token.folder / "p11-kit"
    server = subprocess.Popen(
        ["p11-kit", "server", "--foreground", "--name", socket, "--provider", token.module, "pkcs11:"],
        env=os.environ | token.environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        until(socket.exists, 30)
        module = modules.acquire(REMOTE, environment={"P11_KIT_SERVER_ADDRESS": f"unix:path={socket}"})
        (slot,) = [each for each in module.slots() if each.get_token().label == token.label]
        session = slot.get_token().open(rw=True, user_pin=token.pin, attribute_mapper=MAPPER)
        assert module.cryptoki.logged_in(session.handle)  # type: ignore[attr-defined]
        made = generate(session, INSTALLATION_MAC_KEY, b"remote", "a key behind p11-kit")
        mac = operations.sign(session, handle_of(made), mechanism(Mechanism.SHA256_HMAC), b"message")
        (handle,) = search(session, {Attribute.ID: b"remote"})
        assert operations.sign(session, handle_of(handle), mechanism(Mechanism.SHA256_HMAC), b"message") == mac
        module.release()
    finally:
        server.terminate()
        server.wait(30)


# -- return codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x05, "GeneralError"),
        (0x68, "UnknownReturnCodeError"),
        (0x140, "CurveNotSupportedError"),
        (0x150, "BufferTooSmallError"),
        (0x190, "NotInitializedError"),
        (0x201, "TokenResourceExceededError"),
        (0x80000123, "UnknownReturnCodeError"),
    ],
)
def test_code_has_its_exception(code: int, name: str) -> None:
    """A code is raised as the class of its name; one without a class keeps its number for the log."""
    error = return_codes.error_of(code)
    assert type(error).__name__ == name
    assert (f"{code:08x}" in str(error)) is (name == "UnknownReturnCodeError")


def test_codes_are_those_of_the_other_library(played: Played) -> None:
    """Each code that a module returns becomes the class that python-pkcs11 raises for it."""
    device = played.token.open()
    with device.connection.pool.session() as session:
        for code, kind in return_codes.EXCEPTIONS.items():
            played.order(f"fault C_GenerateRandom * return {code:#x}")
            with pytest.raises(ckr.PKCS11Error) as caught:
                session.generate_random(64)
            if kind.__module__ == ckr.__name__:
                assert type(caught.value) is kind, hex(code)
            else:
                assert type(caught.value) is ckr.PKCS11Error, "python-pkcs11 has a class of its own now"
        played.order()


# -- operations ------------------------------------------------------------------------------------------------------


def test_operations_are_those_of_the_other_library(session: Session, key: int) -> None:
    """AES-GCM has the same results as python-pkcs11, for all lengths of IV and additional data."""
    for iv, aad in ((IV, AAD), (IV, b""), (IV, bytes(5000)), (bytes(8), AAD)):
        built = mechanism(Mechanism.AES_GCM, GCMParams(iv, aad, 128))
        sealed = operations.encrypt(session, key, built, PLAINTEXT)
        assert operations.encrypt(session, key, gcm(iv, aad), PLAINTEXT) == sealed
        assert len(sealed) == len(PLAINTEXT) + 16
        assert operations.decrypt(session, key, gcm(iv, aad), sealed) == PLAINTEXT
    (key_object,) = session.get_objects({Attribute.LABEL: "a key of the calls"})
    parameters = GCMParams(IV, AAD, 128)
    expected = key_object.encrypt(PLAINTEXT, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)  # type: ignore[attr-defined]
    assert expected == operations.encrypt(session, key, gcm(IV, AAD), PLAINTEXT)


def test_large_output(session: Session, key: int) -> None:
    """Data larger than a thread's own buffer is encrypted and decrypted as well."""
    data = os.urandom(3 * operations.ROOM)
    sealed = operations.encrypt(session, key, gcm(IV, AAD), data, len(data) + 16)
    assert operations.decrypt(session, key, gcm(IV, AAD), sealed, len(sealed)) == data


def test_plaintext_is_overwritten(session: Session, key: int) -> None:
    """After a decryption, a refused one, and a MAC (some become keys) the thread's buffer has only zeros."""
    sealed = operations.encrypt(session, key, gcm(IV, AAD), PLAINTEXT)
    assert operations.decrypt(session, key, gcm(IV, AAD), sealed) == PLAINTEXT
    assert not any(bytes(ffi.buffer(operations.SCRATCH.out)))
    with pytest.raises(ckr.PKCS11Error):
        operations.decrypt(session, key, gcm(IV, b"others"), sealed)
    assert not any(bytes(ffi.buffer(operations.SCRATCH.out)))
    made = session.generate_key(KeyType.GENERIC_SECRET, 256, capabilities=MechanismFlag.SIGN, store=False)
    assert any(operations.sign(session, handle_of(made), mechanism(Mechanism.SHA256_HMAC), b"message"))
    assert not any(bytes(ffi.buffer(operations.SCRATCH.out)))


def test_small_buffer_gets_one_retry(session: Session, played: Played) -> None:
    """A token that wants a larger buffer gets one of the size that it names, once, within the same operation."""
    made = session.generate_key(KeyType.GENERIC_SECRET, 256, capabilities=MechanismFlag.SIGN, store=False)
    by, handle = mechanism(Mechanism.SHA256_HMAC), handle_of(made)
    wanted = operations.sign(session, handle, by, b"message")
    played.order(f"room {operations.ROOM + 1}")
    assert operations.sign(session, handle, by, b"message") == wanted
    played.order("fault C_Sign 1 return 0x150")
    with pytest.raises(BufferTooSmallError):
        operations.sign(session, handle, by, b"message")


def test_absurd_size_is_refused(session: Session, played: Played) -> None:
    """A token that asks for more than a mebibyte does not get it."""
    made = session.generate_key(KeyType.GENERIC_SECRET, 256, capabilities=MechanismFlag.SIGN, store=False)
    played.order(f"room {operations.MOST + 1}")
    with pytest.raises(BufferTooSmallError):
        operations.sign(session, handle_of(made), mechanism(Mechanism.SHA256_HMAC), b"message")


def test_objects_are_copied_and_changed(session: Session) -> None:
    """A copy has the changes that it was ordered with, and an attribute of an object can be changed."""
    made = create_object(
        session,
        {
            Attribute.CLASS: ObjectClass.DATA,
            Attribute.APPLICATION: "calls",
            Attribute.LABEL: "first",
            Attribute.VALUE: b"value",
        },
    )
    copied = made.copy({Attribute.LABEL: "second"})
    assert copied.handle != made.handle
    assert tell(copied, (Attribute.LABEL, Attribute.VALUE)) == {Attribute.LABEL: "second", Attribute.VALUE: b"value"}
    copied[Attribute.LABEL] = "third"
    assert copied[Attribute.LABEL] == "third"
    assert made[Attribute.LABEL] == "first"
    with pytest.raises(ckr.AttributeReadOnly):
        copied[Attribute.CLASS] = ObjectClass.SECRET_KEY
    copied.destroy()
    with pytest.raises(ckr.ObjectHandleInvalid):
        copied[Attribute.LABEL]


# -- attributes ------------------------------------------------------------------------------------------------------

READ = (
    Attribute.CLASS,
    Attribute.SENSITIVE,
    Attribute.COPYABLE,
    Attribute.EXTRACTABLE,
    Attribute.LABEL,
    Attribute.ID,
    Attribute.KEY_TYPE,
)


@pytest.mark.parametrize("manner", ["marked", "stops", "refused"])
def test_others_are_given(session: Session, key: int, played: Played, manner: str) -> None:
    """An attribute that the token does not know leaves the others readable, with each return code."""
    wanted = attributes.read_several(session, key, READ)
    assert None not in wanted.values()
    played.order(f"unknown {Attribute.COPYABLE:#x} {manner}")
    for _ in range(2):  # the second time it is known how the module refuses
        assert attributes.read_several(session, key, READ) == {**wanted, Attribute.COPYABLE: None}


def test_untouched_is_not_read(session: Session, key: int, played: Played) -> None:
    """An attribute that the token left unwritten, and refuses alone, has no value: zeros in the buffer do not count."""
    played.order(f"unknown {Attribute.CLASS:#x} stops", "fault C_GetAttributeValue 2+ return 0x5")
    assert attributes.read_several(session, key, READ) == dict.fromkeys(READ)


@pytest.mark.parametrize(
    ("orders", "calls"),
    [((), 1), ((f"unknown {Attribute.COPYABLE:#x} marked",), 2), ((f"unknown {Attribute.COPYABLE:#x} refused",), 2)],
)
def test_number_of_calls(session: Session, key: int, played: Played, orders: tuple[str, ...], calls: int) -> None:
    """All attributes take one call, plus one for each attribute that the token is known not to support."""
    played.order(*orders)
    wanted = attributes.read_several(session, key, READ)
    played.order(*orders, f"fault C_GetAttributeValue {calls + 1}+ return 0x30")
    assert attributes.read_several(session, key, READ) == wanted


def test_buffers_of_numbers(session: Session, key: int, played: Played) -> None:
    """A token that takes no larger buffer for a number (NSS softokn) gives all attributes with one call."""
    names = (*READ, Attribute.VALUE_LEN)
    wanted = attributes.read_several(session, key, names)
    assert None not in wanted.values()
    played.order("exact_numbers", "fault C_GetAttributeValue 2+ return 0x30")
    assert attributes.read_several(session, key, names) == wanted
    played.order("exact_numbers")
    assert [attributes.read_one(session, key, name) for name in names] == list(wanted.values())


@pytest.mark.parametrize("manner", ["empty", "unwritten"])
def test_ok_is_no_value(session: Session, key: int, played: Played, manner: str) -> None:
    """If a token returns CKR_OK without a value, the attribute has none: read together or alone, for every type."""
    names = (Attribute.EXTRACTABLE, Attribute.SENSITIVE, Attribute.CLASS, Attribute.KEY_TYPE)
    played.order(*(f"unknown {name:#x} {manner}" for name in names))
    key_object = HandleObject(session, key)
    assert tell(key_object, (*names, Attribute.LABEL)) == {
        **dict.fromkeys(names),
        Attribute.LABEL: "a key of the calls",
    }
    for name in names:
        with pytest.raises((ValueError, ckr.FunctionFailed)):
            key_object[name]


def test_read_back_is_not_fooled_by_silence(device: TokenDevice, played: Played) -> None:
    """A token that returns CKR_OK without a value of CKA_EXTRACTABLE gets no key: a missing value is not false."""
    for manner in ("empty", "unwritten"):
        played.order(f"unknown {Attribute.EXTRACTABLE:#x} {manner}")
        with pytest.raises(TokenUnfitError, match="CKA_EXTRACTABLE is None instead of False"):
            new_key(device)


def test_long_values(session: Session, played: Played) -> None:
    """A value that does not fit the buffer of several is read alone, and one that fits no buffer by its size."""
    for size in (attributes.ROOM, attributes.ROOM_ALONE + 1):
        value = os.urandom(size)
        made = session.create_object({Attribute.CLASS: 0, Attribute.APPLICATION: "calls", Attribute.VALUE: value})
        assert attributes.read_several(session, handle_of(made), (Attribute.CLASS, Attribute.VALUE)) == {
            Attribute.CLASS: bytes(8),
            Attribute.VALUE: value,
        }
    assert played.waiting() == 0


def test_lost_object_takes_one_call(session: Session, played: Played) -> None:
    """Reading a missing object's attributes takes one call, and gives no values."""
    played.order("fault C_GetAttributeValue 2+ hang")
    assert attributes.read_several(session, 999_999, READ) == dict.fromkeys(READ)


def test_unavailable_with_ok(session: Session, key: int, played: Played) -> None:
    """Reading one attribute raises the token's own error."""
    played.order(f"unknown {Attribute.COPYABLE:#x} marked")
    with pytest.raises(ckr.AttributeTypeInvalid):
        attributes.read_one(session, key, Attribute.COPYABLE)


def test_read_back_sees_what_the_token_ignored(device: TokenDevice, played: Played) -> None:
    """An attribute that the token ignored is detected when read together, as when read alone."""
    cka_id = new_key(device)
    played.order(f"ignore {Attribute.EXTRACTABLE:#x} 1")
    with pytest.raises(Exception, match="CKA_EXTRACTABLE is True instead of False"):
        new_key(device)
    assert device.keys.attest(cka_id)[1] == []
    assert device.ciphers.encrypt(permit(Operation.ENCRYPT, cka_id), cka_id, PLAINTEXT, AAD)
