"""Checks of a token before and after a key is created: waiting threads share one."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from devices import MakeToken
from test_hsm_two_tokens import Known
from waiting import until

from hsmkms.errors import TokenUnavailableError
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.session.identity import Shown

MANY = 12


class CountedLock:
    """A lock that counts the threads that acquire it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self.came = 0

    def acquire(self, timeout: float) -> bool:
        """Acquire it."""
        with self._counting:
            self.came += 1
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Release it."""
        self._lock.release()


class Looks:
    """A listener of a device: each check waits for its release, and may fail."""

    def __init__(self, device: TokenDevice) -> None:
        self.begun = 0
        self.shown = frozenset[bytes]()
        self.go_on = threading.Event()
        self.fault: TokenUnavailableError | None = None
        device.connection.require(Known(device), self.look)
        self.lock = device.connection._notifying = CountedLock()  # type: ignore[assignment]

    def look(self, shown: frozenset[bytes]) -> None:
        """Check the token."""
        self.begun += 1
        self.shown = shown
        assert self.go_on.wait(60)
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def device(make_token: MakeToken) -> Iterator[TokenDevice]:
    """Return a token with a long timeout for its users."""
    opened = make_token().open(session_wait_seconds=60)
    yield opened
    opened.close()


def test_waiting_threads_share_one_check(device: TokenDevice) -> None:
    """Threads that ask during a check wait for the next one, which all of them share."""
    looks = Looks(device)
    with ThreadPoolExecutor(MANY + 1) as pool:
        first = pool.submit(device.connection._notify_listeners, always=True)
        until(lambda: looks.begun == 1, 60)
        others = [pool.submit(device.connection._notify_listeners, always=True) for _ in range(MANY)]
        until(lambda: looks.lock.came == 1 + MANY, 60)
        looks.go_on.set()
        for each in (first, *others):
            each.result(60)
    assert looks.begun == 2
    device.connection._notify_listeners(always=True)
    assert looks.begun == 3


def test_failed_check_counts_for_no_thread(device: TokenDevice) -> None:
    """A failed check proves nothing: each waiting thread checks again, and fails by itself."""
    looks = Looks(device)
    looks.fault = TokenUnavailableError("away")
    with ThreadPoolExecutor(MANY + 1) as pool:
        first = pool.submit(device.connection._notify_listeners, always=True)
        until(lambda: looks.begun == 1, 60)
        others = [pool.submit(device.connection._notify_listeners, always=True) for _ in range(MANY)]
        until(lambda: looks.lock.came == 1 + MANY, 60)
        looks.go_on.set()
        for each in (first, *others):
            with pytest.raises(TokenUnavailableError):
                each.result(60)
    assert looks.begun == 1 + MANY


def test_login_needs_its_own_check(device: TokenDevice) -> None:
    """A check that began before another login does not count after it."""
    looks = Looks(device)
    looks.go_on.set()
    device.connection._notify_listeners(always=True)
    device.connection._news = object()
    device.connection._notify_listeners()
    assert looks.begun == 2
    device.connection._notify_listeners()
    assert looks.begun == 2


def test_what_was_shown_before_a_login_does_not_count(device: TokenDevice) -> None:
    """A check need not repeat what its caller has just read, unless that was before another login."""
    looks = Looks(device)
    looks.go_on.set()
    seen = Shown(device.connection._news, frozenset({b"seen"}))
    device.connection._notify_listeners(always=True, shown=seen)
    assert looks.shown == {b"seen"}
    device.connection._news = object()
    device.connection._notify_listeners(always=True, shown=seen)
    assert looks.shown == frozenset()
