"""Message-based encryption of PKCS#11 3: one call per encryption on tokens that have it, never with a weak IV."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from devices import MakeToken, SoftHsm, new_key, permit
from shims import Played

from hsmkms.errors import ObjectLostError, RejectedDataError, TokenUnavailableError
from hsmkms.hsm.calls import messages
from hsmkms.hsm.calls.messages import Generator
from hsmkms.hsm.device import TokenDevice
from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct

AAD, PLAINTEXT = b"authenticated", b"to be encrypted"


@pytest.fixture
def played(make_token: MakeToken, shim_path: Path) -> Played:
    """Return a fresh token behind the shim, whose messages have the caller's IVs."""
    return Played.of(make_token(), shim_path, "messages caller")


@pytest.fixture
def token(played: Played) -> SoftHsm:
    """Return the same token."""
    return played.token


@pytest.fixture(autouse=True)
def long_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep message operations from becoming too old in these tests, however slow the machine is."""
    monkeypatch.setattr(messages, "LIFETIME_SECONDS", math.inf)


def encrypt(device: TokenDevice, key: bytes, plaintext: bytes = PLAINTEXT) -> tuple[bytes, bytes]:
    """Encrypt under a backing key."""
    return device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, plaintext, AAD)


def decrypt(device: TokenDevice, key: bytes, sealed: tuple[bytes, bytes]) -> bytes:
    """Decrypt a ciphertext."""
    return device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, *sealed, AAD)


@pytest.mark.parametrize(("kind", "generator"), [("caller", Generator.CALLER), ("random", Generator.RANDOM)])
def test_messages_are_used(played: Played, kind: str, generator: Generator) -> None:
    """The third encryption under a key is one call; each decrypts as usual, and no IV repeats."""
    played.order(f"messages {kind}")
    device = played.token.open()
    assert device.connection.messages.generator is generator
    key = new_key(device)
    sealed = [encrypt(device, key) for _ in range(3)]
    played.order(f"messages {kind}", "fault C_EncryptInit * return 0x30", "fault C_Encrypt 2+ return 0x30")
    sealed.append(encrypt(device, key))
    played.order(f"messages {kind}")
    assert [decrypt(device, key, each) for each in sealed] == [PLAINTEXT] * 4
    assert len({iv for iv, _ in sealed}) == 4
    assert all(any(iv) for iv, _ in sealed)


def test_lengths(device: TokenDevice) -> None:
    """Plaintexts of 0 to 4,096 bytes are encrypted by message."""
    key = new_key(device)
    for size in (1, 1, 1, 0, 16, 4096):
        sealed = encrypt(device, key, bytes(size))
        assert len(sealed[1]) == size + 16
        assert decrypt(device, key, sealed) == bytes(size)


@pytest.mark.parametrize("kind", ["counted", "wrong"])
def test_weak_generators_are_refused(played: Played, kind: str) -> None:
    """A token whose random IVs count up, or that replaces the given IV, encrypts by two calls."""
    played.order(f"messages {kind}")
    device = played.token.open()
    assert device.connection.messages.generator is None
    key = new_key(device)
    assert [decrypt(device, key, encrypt(device, key)) for _ in range(3)] == [PLAINTEXT] * 3


def test_other_operations_between(device: TokenDevice) -> None:
    """A message operation is ended before its session does anything else; this token allows no other operation."""
    first, second = new_key(device), new_key(device)
    between: list[Callable[[], object]] = [
        lambda: decrypt(device, first, encrypt(device, first)),
        lambda: encrypt(device, second),
        lambda: new_key(device),
        lambda: device.keys.inventory(first),
        lambda: device.connection.checks(needed_only=True),
    ]
    for act in between:
        sealed = [encrypt(device, first) for _ in range(3)]
        act()
        sealed += [encrypt(device, first) for _ in range(3)]
        assert [decrypt(device, first, each) for each in sealed] == [PLAINTEXT] * 6
    assert device.connection.sessions().opened == 1


def test_alternating_keys_begin_no_message(device: TokenDevice, played: Played) -> None:
    """With alternating keys in a session each encryption makes two calls, and no message operation is begun."""
    keys = [new_key(device), new_key(device)]
    for key in keys:
        encrypt(device, key)
    # From here on the token refuses messages with the caller's IV: one that is attempted clears ``generator``.
    played.order("messages random", "fault C_EncryptInit 5+ return 0x30", "fault C_Encrypt 5+ return 0x30")
    encrypted = [(key, encrypt(device, key)) for key in keys * 2]
    assert device.connection.messages.generator is Generator.CALLER
    played.order("messages caller")
    assert [decrypt(device, key, sealed) for key, sealed in encrypted] == [PLAINTEXT] * 4


def test_handle_of_another_key(device: TokenDevice) -> None:
    """If a key gets the handle of one whose message operation is active, nothing is encrypted under the other key."""
    old, new = new_key(device), new_key(device)
    for _ in range(3):
        encrypt(device, old)
    handles = device.connection.handles
    known = handles.lookup(old)
    assert known is not None
    handles.remember(new, known)  # as if the module had given it to the new key
    device.keys.destroy(permit(OperatorAct.RECONCILE, old), old)
    sealed = encrypt(device, new)
    assert decrypt(device, new, sealed) == PLAINTEXT
    with pytest.raises(RejectedDataError):
        decrypt(device, new, (sealed[0], sealed[1][:-1] + bytes((sealed[1][-1] ^ 1,))))


def test_key_made_again_under_another_handle(device: TokenDevice) -> None:
    """A key that was created again is used instead of the old one of the same CKA_ID, whose operation is active."""
    old, new = new_key(device), new_key(device)
    for _ in range(3):
        encrypt(device, old)
    handles = device.connection.handles
    encrypted_by_new = encrypt(device, new)
    known = handles.lookup(new)
    assert known is not None
    assert decrypt(device, new, encrypted_by_new) == PLAINTEXT
    for _ in range(3):
        encrypt(device, old)
    handles.remember(old, known)  # as if it had been destroyed, made again, and found again in another session
    assert [decrypt(device, new, encrypt(device, old)) for _ in range(3)] == [PLAINTEXT] * 3


def test_dropped_key_begins_anew(device: TokenDevice, played: Played) -> None:
    """Once a key was dropped from the caches no session continues its operation, whatever handle it gets."""
    key = new_key(device)
    for _ in range(3):
        encrypt(device, key)
    handles = device.connection.handles
    known = handles.lookup(key)
    device.connection.forget(key)
    handles.remember(key, known or 0)  # NSS gives the handle of a destroyed key to the next one
    played.order("messages caller", "fault C_EncryptInit * return 0x30")
    with pytest.raises(TokenUnavailableError):
        encrypt(device, key)


def test_operation_has_an_end(device: TokenDevice, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second the operation is begun again, so that a key that another program destroyed no longer encrypts."""
    now = [100.0]
    monkeypatch.setattr(messages, "LIFETIME_SECONDS", 1.0)
    monkeypatch.setattr(device.connection.messages, "_clock", lambda: now[0])
    key = new_key(device)
    for _ in range(3):
        encrypt(device, key)
    gone = ("messages caller", "fault C_EncryptInit * return 0x60")  # CKR_KEY_HANDLE_INVALID
    played.order(*gone)
    now[0] += 0.9
    encrypt(device, key)
    now[0] += 0.2
    with pytest.raises(ObjectLostError):
        encrypt(device, key)


def test_lost_session(device: TokenDevice, lose: Callable[[TokenDevice], None]) -> None:
    """Encryption goes on after the sessions with their message operations were lost."""
    key = new_key(device)
    for _ in range(3):
        encrypt(device, key)
    lose(device)
    assert [decrypt(device, key, encrypt(device, key)) for _ in range(3)] == [PLAINTEXT] * 3


def test_token_that_can_no_more(device: TokenDevice, played: Played) -> None:
    """If a token refuses messages later, encryptions take two calls from then on."""
    key = new_key(device)
    for _ in range(3):
        encrypt(device, key)
    played.order("messages random")  # the caller's IV is refused now
    assert decrypt(device, key, encrypt(device, key)) == PLAINTEXT
    assert device.connection.messages.generator is None
