"""Lost logins, lost sessions and invalid handles: replaced once, and never mistaken for an empty token."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import devices
import functions
import pytest
from devices import Token, new_key, objects_of, permit
from pkcs11.constants import ObjectClass
from pkcs11.types import Session
from waiting import until

from hsmkms.errors import (
    ObjectLostError,
    RejectedDataError,
    SessionLostError,
    TokenError,
    TokenNotFoundError,
    TokenUnavailableError,
)
from hsmkms.hsm.calls.messages import LIFETIME_SECONDS
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.objects import find
from hsmkms.model.cipher_format import new_cka_id
from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct

Lose = Callable[[TokenDevice], None]
OTHER = bytes(15) + b"\1"


def encrypt(device: TokenDevice, key: bytes, plaintext: bytes = b"x") -> tuple[bytes, bytes]:
    """Encrypt with the key and no AAD."""
    return device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, plaintext, b"")


def decrypt(device: TokenDevice, key: bytes, sealed: tuple[bytes, bytes]) -> bytes:
    """Decrypt the result of ``encrypt``."""
    return device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, b"")


def destroy(device: TokenDevice, key: bytes) -> bool:
    """Destroy the key as reconcile does."""
    return device.keys.destroy(permit(OperatorAct.RECONCILE, key), key)


@pytest.fixture
def key(device: TokenDevice) -> bytes:
    """Return a backing key whose handle is cached."""
    key = new_key(device)
    encrypt(device, key)
    return key


@pytest.fixture
def mac_key(device: TokenDevice) -> bytes:
    """Return an installation key."""
    mac_key = os.urandom(16)
    device.own.generate_mac_key(permit(OperatorAct.INITIALISE, mac_key), mac_key, "hsmkms test installation")
    return mac_key


def test_encrypt_and_decrypt_continue(device: TokenDevice, key: bytes, lose: Lose) -> None:
    """After a loss the next encryption and the next decryption succeed."""
    sealed = encrypt(device, key, b"before")
    lose(device)
    assert decrypt(device, key, sealed) == b"before"
    lose(device)
    assert decrypt(device, key, encrypt(device, key, b"after")) == b"after"


@pytest.mark.parametrize("warm", [True, False], ids=["with a warm pool", "with an empty pool"])
def test_every_procedure_continues(device: TokenDevice, key: bytes, mac_key: bytes, lose: Lose, *, warm: bool) -> None:
    """After a loss every other procedure returns the same result as before it."""
    attested = device.keys.attest(key)
    answer = device.own.mac(permit(OperatorAct.OPEN, mac_key), mac_key, b"challenge")
    listed = {each.cka_id for each in device.keys.inventory(mac_key)}
    steps: list[Callable[[], bool]] = [
        lambda: device.keys.holds(key),
        lambda: not device.keys.holds(OTHER),
        lambda: device.keys.attest(key) == attested,
        lambda: device.own.mac(permit(OperatorAct.OPEN, mac_key), mac_key, b"challenge") == answer,
        lambda: {each.cka_id for each in device.keys.inventory(mac_key)} == listed,
        lambda: len(device.ciphers.random(permit(Operation.GENERATE_RANDOM), 9)) == 9,
        lambda: device.connection.checks(needed_only=True).passed,
        lambda: device.connection.limits() is not None,
        lambda: len(device.connection.mechanisms()) > 10,
        lambda: new_key(device) != key,
        lambda: destroy(device, key),
        lambda: not destroy(device, key),
    ]
    for number, step in enumerate(steps):
        if not warm:
            device.connection.pool.discard_idle()
        lose(device)
        assert step(), number


def test_lost_login_is_not_an_empty_token(device: TokenDevice, key: bytes, lose: Lose) -> None:
    """No call reports a key as absent that is hidden by a lost login, while the login cannot be restored."""
    lose(device)
    device.connection._recover = lambda: None  # type: ignore[method-assign]  # as if the token refused a new login for now
    device.connection._reconnector.begin = lambda: None  # type: ignore[method-assign]
    for act in (device.keys.holds, device.keys.attest, device.keys.inventory):
        with pytest.raises(TokenUnavailableError):
            act(key)
    with pytest.raises(TokenUnavailableError):
        destroy(device, key)
    with pytest.raises(TokenUnavailableError):
        encrypt(device, key)


@pytest.mark.parametrize("mended", ["", "mended by another thread", "mended, under the same handle"])
def test_login_lost_during_a_search(
    device: TokenDevice, key: bytes, monkeypatch: pytest.MonkeyPatch, mended: str
) -> None:
    """A login that is lost during a search, even if it is restored at its end, makes no key look absent.

    Handles of sessions prove nothing: opencryptoki gives that of the closed session to the new one.
    """
    searched = []

    def find_logged_out(*arguments: Any) -> object:  # noqa: ANN401 - what find takes
        searched.append(arguments)
        if len(searched) > 1:
            return find(*arguments)
        assert functions.log_out(device) == 0
        found = find(*arguments)
        if mended:
            before = device.connection.login_handle
            device.connection._recover()
            if mended.endswith("handle"):
                device.connection.login_handle = before
        return found

    monkeypatch.setattr("hsmkms.hsm.session.connection.find", find_logged_out)
    device.connection.handles.forget(key)  # so that it is searched for
    assert device.keys.holds(key)
    assert len(searched) == 1 + objects_of(key)


def test_repeated_exactly_once(device: TokenDevice, key: bytes, lose: Lose, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that loses its session each time is tried twice, not more; its error says that the session was lost."""
    tries = []
    take = device.connection.pool.take

    def take_and_lose() -> Session:
        session = take()
        tries.append(session)
        lose(device)
        return session

    monkeypatch.setattr(device.connection.pool, "take", take_and_lose)
    for act in (
        lambda: encrypt(device, key),
        lambda: decrypt(device, key, (bytes(12), bytes(20))),
        lambda: device.keys.holds(key),
        lambda: device.keys.inventory(key),
        lambda: destroy(device, key),
    ):
        tries.clear()
        with pytest.raises(TokenError):
            act()
        assert len(tries) == 2


def test_generation_is_never_repeated(
    device: TokenDevice, key: bytes, lose: Lose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation that loses its session is tried once; no object stays on the token, and the next one succeeds."""
    tries, other = [], new_cka_id(device.profile.cipher_format)
    take = device.connection.pool.take

    def take_and_lose() -> Session:
        session = take()
        tries.append(session)
        lose(device)
        return session

    with monkeypatch.context() as patch:
        patch.setattr(device.connection.pool, "take", take_and_lose)
        with pytest.raises(SessionLostError):
            device.keys.generate_backing_key(permit(Operation.CREATE_KEY, other), other, "never")
    assert len(tries) == 1
    assert not device.keys.holds(other)
    assert device.keys.holds(key)
    assert device.keys.holds(new_key(device))


def test_losses_leak_no_sessions(device: TokenDevice, key: bytes, lose: Lose) -> None:
    """However often the login is lost, no dead login session stays open."""

    def living() -> int:
        return sum(functions.is_open(device, handle) for handle in range(1, 500))

    before = living()
    for _ in range(10):
        lose(device)
        encrypt(device, key)
    assert living() == before


def test_destroyed_in_another_session(device: TokenDevice, key: bytes) -> None:
    """A key that was destroyed without the device is ObjectLostError, with a cached handle and without one."""
    sealed = encrypt(device, key)
    with device.connection.pool.session() as session:
        found = find(session, ObjectClass.SECRET_KEY, key)
        assert found is not None
        found.destroy()
    for _ in range(2):
        with pytest.raises(ObjectLostError, match="not on the token now"):
            decrypt(device, key, sealed)
        with pytest.raises(ObjectLostError):
            encrypt(device, key)
    assert not device.keys.holds(key)
    assert device.keys.holds(new_key(device))


def test_destroyed_by_another_process(device: TokenDevice, key: bytes, token: Token, programs: Path) -> None:
    """The same when another process destroyed it."""
    assert devices.run(programs / "remake_key.py", token, key=key.hex(), again=False)
    with pytest.raises(ObjectLostError):
        encrypt(device, key)
    assert not device.keys.holds(key)


def test_made_again_by_another_process(device: TokenDevice, key: bytes, token: Token, programs: Path) -> None:
    """A key that was destroyed and created again is found by its CKA_ID, under its new handle."""
    old = encrypt(device, key, b"old")
    assert devices.run(programs / "remake_key.py", token, key=key.hex(), again=True)
    assert decrypt(device, key, encrypt(device, key, b"new")) == b"new"
    with pytest.raises(RejectedDataError):
        decrypt(device, key, old)


def test_destroyed_while_an_operation_is_active(
    device: TokenDevice, key: bytes, token: Token, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was destroyed elsewhere no longer encrypts, even in an active operation (which NSS continues)."""
    now = [0.0]
    monkeypatch.setattr(device.connection.messages, "_clock", lambda: now[0])
    for _ in range(3):
        encrypt(device, key, b"plaintext")
    assert devices.run(programs / "remake_key.py", token, key=key.hex(), again=False)
    now[0] += LIFETIME_SECONDS
    with pytest.raises(ObjectLostError):
        encrypt(device, key, b"plaintext")


def test_token_that_is_away(device: TokenDevice, key: bytes, lose: Lose, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that disappears is unavailable for every kind of call, until it is back."""

    def away(*_: object) -> NoReturn:
        raise TokenNotFoundError("no token fits")

    sealed = encrypt(device, key)
    with monkeypatch.context() as patch:
        patch.setattr("hsmkms.hsm.session.token_login.choose", away)
        lose(device)
        for act in (lambda: decrypt(device, key, sealed), device.connection.ready, lambda: device.keys.holds(key)):
            with pytest.raises(TokenUnavailableError):
                act()
    until(lambda: not device.connection.sessions().away, 5)
    assert decrypt(device, key, sealed)
