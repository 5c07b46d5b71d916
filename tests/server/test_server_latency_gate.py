"""When the token is asked on the event loop, and when in threads."""

import pytest

from hsmkms.model.enums import Operation
from hsmkms.server.audit_gate import DECIDES
from hsmkms.server.latency_gate import QUICK_SECONDS, TRY_AFTER, TRY_SHARE, WINDOW, Pace

QUICK = 0.0001
LATE = 0.01
"""What a quick operation takes while the machine has other work."""


def paced(*seconds: float, now: float = 0.0) -> Pace:
    """The pace after operations on the loop that took so long."""
    pace = Pace()
    for each in seconds:
        pace.note(each, now)
    return pace


def slow_token(now: float = 0.0) -> Pace:
    """The pace of a token that was found slow at that moment."""
    pace = paced(*[LATE] * WINDOW, now=now)
    assert pace.slow
    return pace


def test_only_what_asks_once_is_done_on_the_loop() -> None:
    """Making a key, or what is no operation at all, goes to threads from the beginning."""
    pace = Pace()
    assert pace.inline(Operation.ENCRYPT, 0.0)
    assert not pace.inline(Operation.CREATE_KEY, 0.0)
    assert not pace.inline(None, 0.0)


@pytest.mark.parametrize("late", [1, WINDOW // 4])
def test_a_busy_machine_is_no_slow_token(late: int) -> None:
    """However often a few operations take long, the token is quick as long as most of them do not."""
    pace = paced(*([LATE] * late + [QUICK] * (WINDOW - late)) * 8)
    assert not pace.slow


def test_a_slow_token_goes_to_threads() -> None:
    """A token that takes long, or suddenly very long, keeps the loop from nothing more than a few times."""
    assert not slow_token().inline(Operation.ENCRYPT, 0.0)
    assert not paced(0.5).slow
    assert paced(0.5, 0.5).slow
    assert paced(*[QUICK] * 5, 0.5, 0.5, 0.5).slow


def test_a_slow_token_is_tried_now_and_then() -> None:
    """One operation at a time, for a hundredth of the time at most, and only while threads finish theirs."""
    pace, due = slow_token(now=1.0), 1.0 + LATE / TRY_SHARE
    assert not pace.inline(Operation.ENCRYPT, due), "no thread has finished anything, so it may hang"
    for _ in range(TRY_AFTER):
        pace.note_elsewhere()
    assert not pace.inline(Operation.ENCRYPT, due - 0.01)
    assert pace.inline(Operation.ENCRYPT, due)
    pace.note(LATE, due)
    assert not pace.inline(Operation.ENCRYPT, due)


def test_a_token_that_is_quick_again() -> None:
    """The first one that is quick alone on the loop brings all others back there."""
    pace = slow_token()
    pace.note(QUICK_SECONDS, 5.0)
    assert pace.inline(Operation.ENCRYPT, 5.0)


def test_a_busy_machine_is_no_slow_disk() -> None:
    """For the disk a few decide: who waits for it waits for the processor as well, and then mostly for that."""
    pace = Pace(decides=DECIDES)
    for _ in range(WINDOW * 8):
        for each in (QUICK, *[LATE] * 3):
            pace.note(each, 0.0)
            assert pace.here(0.0)
    for _ in range(WINDOW):
        pace.note(LATE, 0.0)
    assert not pace.here(0.0)
