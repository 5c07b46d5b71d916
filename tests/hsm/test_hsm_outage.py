"""A token that fails, disappears and returns: calls fail fast with a named error, and one thread reconnects."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devices import PIN, Token, new_key, permit
from msgspec import Struct
from shims import Played
from waiting import until

from hsmkms.errors import HsmKmsError, PinError, TokenUnavailableError
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.session.reconnect import Reconnector
from hsmkms.model.enums import Operation

# A search that failed is ended by python-pkcs11 when its iterator is collected, and that fails as well.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

AWAY = "fault * * return 0x32"
PATIENCE = 60
"""Seconds after which a test gives up. How soon a token is back is for test_pauses_grow."""


class Bench(Struct):
    """An open token behind the shim with one key on it."""

    played: Played
    device: TokenDevice
    key: bytes

    def works(self) -> bool:
        """Return whether an encryption and its decryption succeed."""
        iv, body = self.device.ciphers.encrypt(permit(Operation.ENCRYPT, self.key), self.key, b"x", b"")
        return self.device.ciphers.decrypt(permit(Operation.DECRYPT, self.key), self.key, iv, body, b"") == b"x"

    def fails(self) -> str:
        """Return the message of an encryption that must fail."""
        with pytest.raises((TokenUnavailableError, PinError)) as caught:
            self.works()
        assert caught.value.code == "DependencyTimeoutException"
        return str(caught.value)

    def is_away(self) -> bool:
        """Return whether calls fail fast."""
        return bool(self.device.connection.sessions().away)

    def comes_back(self) -> None:
        """End the faults; the token is soon in use again, and the reconnect thread stops."""
        self.played.order()
        until(lambda: not self.is_away(), PATIENCE)
        until(lambda: self.device.connection._reconnector._thread is None, PATIENCE)
        assert self.works()


@pytest.fixture
def logins() -> list[float]:
    """Return the times at which the PIN was read."""
    return []


@pytest.fixture
def bench(token: Token, shim_path: Path, logins: list[float]) -> Iterator[Bench]:
    """Return a token behind the shim with a key that was used."""
    played = Played.of(token, shim_path)

    def read_pin() -> str:
        logins.append(time.monotonic())
        return PIN

    device = TokenDevice.open(played.token.settings(session_wait_seconds=1.0), read_pin)
    bench = Bench(played, device, new_key(device))
    assert bench.works()
    yield bench
    played.order()
    device.close()


@pytest.mark.parametrize(
    "orders",
    [
        pytest.param((AWAY,), id="token not present"),
        pytest.param(("fault * * return 0x30",), id="device error"),
        pytest.param(("fault * * return 0xe1",), id="token not recognised"),
        pytest.param(("fault * until-initialized return 0x190",), id="not initialised"),
        pytest.param(("fault * until-initialized return 0x32",), id="back after initialisation only"),
        pytest.param(("fault * until-initialized return 0xb3",), id="no session lives until initialisation"),
    ],
)
def test_comes_back(bench: Bench, orders: tuple[str, ...], logins: list[float]) -> None:
    """While the token is away calls fail fast without a login each; after its return they work."""
    sealed = bench.device.ciphers.encrypt(permit(Operation.ENCRYPT, bench.key), bench.key, b"kept", b"")
    bench.played.order(*orders)
    bench.fails()
    before = len(logins)
    if "until-initialized" not in orders[0]:
        until(bench.is_away, PATIENCE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                bench.device.connection.handles, "lookup", lambda _: pytest.fail("they fail without asking the token")
            )
            for _ in range(200):
                bench.fails()
        assert len(logins) - before < 100, "there is no login for each call"
        bench.comes_back()
    until(lambda: bench.device.connection._reconnector._thread is None, PATIENCE)
    assert bench.device.ciphers.decrypt(permit(Operation.DECRYPT, bench.key), bench.key, *sealed, b"") == b"kept"
    assert bench.works()
    assert bench.device.connection.sessions().outages == 1


def test_refused_pin_is_not_repeated(bench: Bench, logins: list[float], token: Token) -> None:
    """A PIN that is refused during a reconnect is sent once; corrected and confirmed, everything works again."""
    bench.played.order("fault * 1 return 0xb3", "fault C_GetSessionInfo 1+ return 0xb3", "fault C_Login * return 0xa0")
    assert "PIN" in bench.fails()
    marked = len(logins)
    time.sleep(0.5)
    assert "refused the PIN" in bench.fails()
    assert len(logins) == marked, "it is not read again while the mark is there"
    bench.played.order()
    (token.folder / "pin-refused.json").unlink()
    until(lambda: not bench.is_away(), PATIENCE)
    assert bench.works()


def test_other_calls_are_never_finalised_under(bench: Bench) -> None:
    """The module is not reinitialised during a call that has not returned, and is once it has."""
    ended: list[str] = []

    def work() -> None:
        try:
            ended.append(f"well: {bench.works()}")
        except HsmKmsError as exc:
            ended.append(exc.code)

    lost = "fault * until-initialized return 0x190"
    hanging = threading.Thread(target=work)
    bench.played.order("fault C_EncryptInit 1 wait", lost)
    hanging.start()
    until(lambda: bench.played.waiting() == 1, PATIENCE)
    with pytest.raises(TokenUnavailableError):
        bench.device.keys.holds(bench.key)
    until(bench.is_away, PATIENCE)
    assert hanging.is_alive()
    bench.played.order(lost)
    hanging.join(PATIENCE)
    assert ended in (["well: True"], ["DependencyTimeoutException"])
    until(lambda: not bench.is_away(), PATIENCE)
    assert bench.works()


def test_hanging_call_keeps_only_its_thread(bench: Bench) -> None:
    """While one call hangs, others of every kind continue, and a new session can be opened."""
    bench.played.order("fault C_Encrypt 1 wait", "fault C_OpenSession 1 wait")
    slow = [threading.Thread(target=bench.works) for _ in range(2)]
    for each in slow:
        each.start()
    until(lambda: bench.played.waiting() == 2, PATIENCE)
    assert bench.works()
    assert bench.device.keys.holds(bench.key)
    assert new_key(bench.device)
    assert all(each.is_alive() for each in slow)
    bench.played.order()
    for each in slow:
        each.join(PATIENCE)


def test_many_threads_through_an_outage(bench: Bench) -> None:
    """Eight threads through three outages: all calls end well or with TokenUnavailableError; all work in the end."""
    stopped = threading.Event()
    others: list[Exception] = []
    well = [0] * 8

    def go_on(number: int) -> None:
        while not stopped.is_set():
            try:
                well[number] += bench.works()
            except TokenUnavailableError:
                time.sleep(0.001)
            except Exception as exc:  # noqa: BLE001 - the test fails with it
                others.append(exc)

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for orders in ("fault * until-initialized return 0x190", AWAY, "fault * until-initialized return 0x32"):
        bench.played.order(orders)
        until(lambda: bench.is_away() or "until" in orders, PATIENCE)  # noqa: B023 - at once
        time.sleep(0.2)
        bench.played.order()
        until(lambda: not bench.is_away(), PATIENCE)
    before = list(well)
    until(lambda: all(now > then for now, then in zip(well, before, strict=True)), PATIENCE)
    stopped.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert others == []


@pytest.mark.parametrize("reported", [True, False], ids=["reported", "untold"])
def test_token_with_few_sessions(bench: Bench, shim_path: Path, *, reported: bool) -> None:
    """Threads beyond the token's sessions wait; one that waits too long is throttled."""
    del shim_path
    bench.played.order("sessions 3" + " untold" * (not reported), "fault C_Encrypt * delay 1000")
    results: list[str] = []

    def work() -> None:
        try:
            results.append("well" if bench.works() else "?")
        except HsmKmsError as exc:
            results.append(exc.code)

    threads = [threading.Thread(target=work) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert set(results) <= {"well", "ThrottlingException"}
    assert "well" in results


@pytest.mark.parametrize("sessions", [1, 8])
def test_slow_token_serves_as_many_as_it_has_sessions(token: Token, shim_path: Path, sessions: int) -> None:
    """While calls are slow, as many run at once as there are sessions, and the others wait."""
    played = Played.of(token, shim_path)
    device = played.token.open(max_sessions=sessions, session_wait_seconds=PATIENCE)
    bench = Bench(played, device, new_key(device))
    played.order("fault C_Encrypt * wait")
    threads = [threading.Thread(target=bench.works) for _ in range(16)]
    for thread in threads:
        thread.start()
    until(lambda: device.connection.sessions().waiting == 16 - sessions, PATIENCE)
    until(lambda: played.waiting() == sessions, PATIENCE)
    played.order()
    for thread in threads:
        thread.join(PATIENCE)
    assert bench.works()
    device.close()


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between reconnect attempts grow up to two seconds."""
    pauses: list[float] = []
    reconnector = Reconnector(lambda number: number == 20)
    monkeypatch.setattr(reconnector._stopped, "wait", pauses.append)
    reconnector._run()
    assert len(pauses) == 21
    assert pauses == sorted(pauses)
    assert (pauses[0] <= 0.1, pauses[-1]) == (True, 2.0)


def test_token_whose_file_is_being_written(token: Token, shim_path: Path) -> None:
    """A token that reports a PIN but finds none has refused none: the module is loaded again."""
    played = Played.of(token, shim_path)
    played.order("fault C_Login until-initialized return 0x102")
    device = played.token.open()
    assert new_key(device)
    device.close()
    played.order("fault C_Login * return 0x102")
    with pytest.raises(TokenUnavailableError):
        played.token.open()
    played.order()
    played.token.open().close()  # no mark was left
