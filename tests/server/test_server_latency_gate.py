"""When the token is asked on the event loop, and when in threads."""

import pytest

from hsmkms.model.enums import Operation
from hsmkms.server.audit_gate import DECIDES
from hsmkms.server.latency_gate import QUICK_SECONDS, TRY_AFTER, TRY_SHARE, WINDOW, LatencyGate
from hsmkms.service.pipeline import QUICK

QUICK_LATENCY = 0.0001
LATE = 0.01
"""What a quick operation takes while the machine has other work."""


def paced(*seconds: float, now: float = 0.0) -> LatencyGate:
    """The gate after operations on the loop that took so long."""
    gate = LatencyGate()
    for each in seconds:
        gate.note(each, now)
    return gate


def may_run(gate: LatencyGate, now: float) -> bool:
    """Whether an operation may run on the loop, as the application and the audit gate decide it."""
    return not gate.slow or gate.may_try(now)


def slow_token(now: float = 0.0) -> LatencyGate:
    """The gate of a token that was found slow at that moment."""
    gate = paced(*[LATE] * WINDOW, now=now)
    assert gate.slow
    return gate


def test_only_what_asks_once_is_done_on_the_loop() -> None:
    """Key creation, and a request without an operation, run in threads from the beginning."""
    assert Operation.ENCRYPT in QUICK
    assert Operation.CREATE_KEY not in QUICK
    assert None not in QUICK
    assert may_run(LatencyGate(), 0.0)


@pytest.mark.parametrize("late", [1, WINDOW // 4])
def test_a_busy_machine_is_no_slow_token(late: int) -> None:
    """However often a few operations take long, the token is quick as long as most of them do not."""
    gate = paced(*([LATE] * late + [QUICK_LATENCY] * (WINDOW - late)) * 8)
    assert not gate.slow


def test_a_slow_token_goes_to_threads() -> None:
    """A token that takes long, or suddenly very long, keeps the loop from nothing more than a few times."""
    assert not may_run(slow_token(), 0.0)
    assert not paced(0.5).slow
    assert paced(0.5, 0.5).slow
    assert paced(*[QUICK_LATENCY] * 5, 0.5, 0.5, 0.5).slow


def test_a_slow_token_is_tried_now_and_then() -> None:
    """One operation at a time, for a hundredth of the time at most, and only while threads finish others."""
    gate, due = slow_token(now=1.0), 1.0 + LATE / TRY_SHARE
    assert not may_run(gate, due), "no thread has finished anything, so it may hang"
    for _ in range(TRY_AFTER):
        gate.note_in_thread()
    assert not may_run(gate, due - 0.01)
    assert may_run(gate, due)
    gate.note(LATE, due)
    assert not may_run(gate, due)


def test_a_token_that_is_quick_again() -> None:
    """The first one that is quick alone on the loop brings all others back there."""
    gate = slow_token()
    gate.note(QUICK_SECONDS, 5.0)
    assert may_run(gate, 5.0)


def test_a_busy_machine_is_no_slow_disk() -> None:
    """For the disk a few decide: who waits for it waits for the processor as well, and then mostly for that."""
    gate = LatencyGate(decides=DECIDES)
    for _ in range(WINDOW * 8):
        for each in (QUICK_LATENCY, *[LATE] * 3):
            gate.note(each, 0.0)
            assert may_run(gate, 0.0)
    for _ in range(WINDOW):
        gate.note(LATE, 0.0)
    assert not may_run(gate, 0.0)
