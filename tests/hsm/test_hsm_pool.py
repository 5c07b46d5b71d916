"""The pool of sessions: bounded, with a limited wait, and closed permanently."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from devices import Token
from pkcs11.constants import TokenFlag
from pkcs11.exceptions import GeneralError, SessionCount
from pkcs11.types import Session

from hsmkms.errors import ClosedError, ThrottlingException, TokenUnavailableError
from hsmkms.hsm.session.login import open_session
from hsmkms.hsm.session.pool import SessionPool
from hsmkms.hsm.session.token_choice import choose

MakePool = Callable[..., SessionPool]


@pytest.fixture
def opened() -> list[Session]:
    """Return the list of sessions that the pool opens."""
    return []


@pytest.fixture
def make_pool(token: Token, opened: list[Session]) -> Iterator[MakePool]:
    """Return a function that creates pools of sessions on a token: ``make_pool(size, wait_seconds)``."""
    module = token.load()
    chosen = choose(module, token.settings().choice)
    assert chosen.flags & TokenFlag.TOKEN_INITIALIZED

    def opener() -> Session:
        session = open_session(chosen)
        opened.append(session)
        return session

    yield lambda size, wait_seconds=300.0: SessionPool(opener, size, wait_seconds)
    module.release()


def test_sessions_open_when_needed(make_pool: MakePool, opened: list[Session]) -> None:
    """No session is opened before it is needed, and an idle one is lent before another is opened."""
    pool = make_pool(4)
    assert not opened
    for _ in range(10):
        pool.put(pool.take())
    assert len(opened) == 1


def test_last_in_first_out(make_pool: MakePool) -> None:
    """The session returned last is lent next."""
    pool = make_pool(3)
    sessions = [pool.take() for _ in range(3)]
    for session in sessions:
        pool.put(session)
    assert [pool.take() for _ in range(3)] == sessions[::-1]


def test_never_more_than_size(make_pool: MakePool, opened: list[Session]) -> None:
    """Sixteen threads on three sessions: never more than three are open, none is lent twice, every thread finishes."""
    pool = make_pool(3)
    lent: set[int] = set()
    faults: list[str] = []
    turns = [0] * 16

    def borrow(number: int) -> None:
        for _ in range(300):
            session = pool.take()
            if session.handle in lent:
                faults.append("lent twice")
            lent.add(session.handle)
            if len(lent) > 3:
                faults.append("too many")
            session.generate_random(64)
            lent.discard(session.handle)
            pool.put(session)
            turns[number] += 1

    threads = [threading.Thread(target=borrow, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert turns == [300] * 16
    assert len(opened) <= 3


def test_waiting_ends(make_pool: MakePool) -> None:
    """A thread without a free session waits as long as configured, not less, then gets ThrottlingException."""
    pool = make_pool(1, 0.3)
    pool.take()
    start = time.monotonic()
    with pytest.raises(ThrottlingException, match=r"all 1 sessions .* token\.max_sessions"):
        pool.take()
    assert time.monotonic() - start >= 0.3


def test_waiter_is_woken(make_pool: MakePool) -> None:
    """A returned session goes to a waiting thread at once."""
    pool = make_pool(1, 300)
    session = pool.take()
    got: list[Session] = []
    thread = threading.Thread(target=lambda: got.append(pool.take()))
    thread.start()
    while not pool._waiting:
        time.sleep(0.001)
    pool.put(session)
    thread.join(60)
    assert got == [session]


def test_discard_frees_a_place(make_pool: MakePool, opened: list[Session]) -> None:
    """A discarded session makes room for a fresh one, also for a thread that waits."""
    pool = make_pool(1, 300)
    dead = pool.take()
    got: list[Session] = []
    thread = threading.Thread(target=lambda: got.append(pool.take()))
    thread.start()
    while not pool._waiting:
        time.sleep(0.001)
    pool.discard(dead)
    thread.join(60)
    assert len(opened) == 2
    assert got == [opened[1]]
    assert got[0] != dead


def test_discard_drops_idle_sessions(make_pool: MakePool, opened: list[Session]) -> None:
    """Idle sessions are dropped with a dead one: none of them is lent again, and all places are free again."""
    pool = make_pool(3)
    sessions = [pool.take() for _ in range(3)]
    pool.put(sessions[0])
    pool.put(sessions[1])
    pool.discard(sessions[2])
    fresh = [pool.take() for _ in range(3)]
    assert not set(map(id, fresh)) & set(map(id, sessions))
    assert len(opened) == 6


def test_discard_idle_spares_the_borrowed(make_pool: MakePool, opened: list[Session]) -> None:
    """Dropping the idle sessions keeps a borrowed one and its place."""
    pool = make_pool(2, 0.05)
    borrowed, idle = pool.take(), pool.take()
    pool.put(idle)
    pool.discard_idle()
    assert pool.take() is opened[2]
    with pytest.raises(ThrottlingException):
        pool.take()
    assert len(borrowed.generate_random(64)) == 8


def test_context_manager_gives_back(make_pool: MakePool) -> None:
    """A session borrowed for a block is returned, even if the block raises."""
    pool = make_pool(1, 0.05)

    def fail() -> None:
        with pool.session():
            raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            fail()
    assert pool._opened == 1


def test_closed_pool(make_pool: MakePool) -> None:
    """A closed pool lends no session, and waiting threads get the error at once."""
    pool = make_pool(1, 300)
    pool.take()
    errors: list[str] = []

    def wait() -> None:
        try:
            pool.take()
        except ClosedError as exc:
            errors.append(str(exc))

    thread = threading.Thread(target=wait)
    thread.start()
    while not pool._waiting:
        time.sleep(0.001)
    pool.close()
    thread.join(60)
    assert len(errors) == 1
    with pytest.raises(ClosedError):
        pool.take()


def test_token_with_fewer_sessions(make_pool: MakePool, opened: list[Session]) -> None:
    """If the token runs out of sessions before the pool does, the pool works with those that it has."""
    pool = make_pool(5, 0.05)
    real = pool._open_session

    def limited() -> Session:
        if len(opened) == 2:
            raise SessionCount
        return real()

    pool._open_session = limited
    first, second = pool.take(), pool.take()
    with pytest.raises(ThrottlingException, match="all 2 sessions"):
        pool.take()
    pool.put(first)
    assert pool.take() is first
    assert second in opened


@pytest.mark.parametrize("fault", [SessionCount, GeneralError])
def test_no_session_at_all(make_pool: MakePool, fault: type[Exception]) -> None:
    """If the token opens no session at all, the error is TokenUnavailableError, and the next attempt is possible."""
    pool = make_pool(2, 0.05)
    real = pool._open_session

    def failing() -> Session:
        raise fault

    pool._open_session = failing
    with pytest.raises(TokenUnavailableError):
        pool.take()
    pool._open_session = real
    pool.take()
    pool.take()
