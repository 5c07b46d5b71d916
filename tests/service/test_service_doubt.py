"""While token or clock cannot be trusted what is due is deferred, reported, and done later."""

import traceback
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest
from lifecycle import (
    DELETION,
    DESTRUCTION,
    DONE,
    DUE,
    EXPIRY,
    HELD,
    RECOVERY,
    ROTATION,
    WRAPPING_KEY,
    YEAR,
    Due,
    at,
    away,
    cancel,
    described,
    disable,
    enable,
    material_of,
    named_by,
    outcomes,
    rotations,
    schedule,
    sweep,
    switch_on,
)
from service_sites import START, Site, StoppedClock, new_key, seal

from hsmkms.errors import TokenUnavailableError
from hsmkms.hsm.unavailable import UnavailableDevice
from hsmkms.kms import Kms
from hsmkms.rules.budget import ROTATE_AT
from hsmkms.service.runtime.clock import DriftWatch
from hsmkms.store import leases
from hsmkms.wiring import core as wiring

SECOND = timedelta(seconds=1)
TOLERANCE = timedelta(minutes=5)


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """A fresh installation with a clock that moves only on demand."""
    with site.open(clock) as opened:
        yield opened


# -- a token that is away -------------------------------------------------------------------------------------------


def test_without_a_token(site: Site, clock: StoppedClock) -> None:
    """While the token is away nothing can be sealed: all is deferred, reported, and done when it is back."""
    with site.open(clock) as kms:
        due = Due(kms, clock)
    fault = TokenUnavailableError("the token is in a drawer")
    with Kms(wiring.core_without_token(site.settings, fault, clock)) as kms:
        assert isinstance(kms._core.device, UnavailableDevice)
        assert outcomes(kms.operator.maintain(dry_run=True)) == [(*step, DUE) for step in due.steps]
        report = kms.operator.maintain()
        assert outcomes(report) == [(*step, HELD) for step in due.steps]
        assert {step.detail for step in report.steps} == {"the token is in a drawer"}
        with pytest.raises(TokenUnavailableError):  # nor can it be known whether a record is as it was written
            described(kms, due.expiring)
    with site.open(clock) as kms:
        assert described(kms, due.expiring).key_state == "PendingImport"
        assert described(kms, due.deleted).key_state == "PendingDeletion"
        assert sweep(kms) == [*((*step, DONE) for step in due.steps[1:]), (DESTRUCTION, due.expiring, DONE)]
        assert kms.operator.find_differences() == []


def test_a_fault_raised_often_does_not_grow() -> None:
    """The fault of a token that is away has the traceback of the present call alone, however often it was raised."""
    device = UnavailableDevice(TokenUnavailableError("away"))
    for _ in range(3):
        with pytest.raises(TokenUnavailableError) as caught:
            _ = device.ciphers
    assert len(list(traceback.walk_tb(caught.value.__traceback__))) == 2


def test_deletion_alone_without_a_token(site: Site, clock: StoppedClock) -> None:
    """A key that becomes due for deletion while the token is away can still be cancelled, and works again."""
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        sealed = seal(kms, key_id)
        clock.now = schedule(kms, key_id, 7)
    with Kms(wiring.core_without_token(site.settings, TokenUnavailableError("away"), clock)) as kms:
        assert sweep(kms) == [(DELETION, key_id, HELD)]
    with site.open(clock) as kms:
        assert described(kms, key_id).key_state == "PendingDeletion"
        cancel(kms, key_id)
        enable(kms, key_id)
        assert named_by(kms, sealed) is not None


def test_opening_without_a_token(site: Site) -> None:
    """The timer's way in opens the installation whether or not its token is there, and nothing else is forgiven."""
    file = site.folder / "hsmkms.toml"
    with Kms(wiring.open_core_for_maintenance(file)) as kms:
        assert not isinstance(kms._core.device, UnavailableDevice)
        assert kms.operator.maintain().steps == []
    token = wiring.config.msgspec.structs.replace(site.settings.token, serial="0123456789abcdef")
    lost = site.varied("lost.toml", token=token)
    with Kms(wiring.open_core_for_maintenance(lost.folder / "lost.toml")) as kms:
        assert isinstance(kms._core.device, UnavailableDevice)
        assert kms.operator.maintain().steps == []
        with pytest.raises(TokenUnavailableError):
            new_key(kms)
    other = site.varied("other.toml", account_id="999988887777")
    with pytest.raises(wiring.ConfigurationError):
        wiring.open_core_for_maintenance(other.folder / "other.toml")


def test_token_goes_away_in_the_middle(kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the token does not answer no later step tries it, and all of them stay due."""
    keys = sorted(new_key(kms).key_id for _ in range(3))
    for key_id in keys:
        switch_on(kms, key_id)
    clock.now = START + YEAR
    with monkeypatch.context() as patch:
        kms._core.reached = at("rotate 3", lambda: patch.setattr(kms._core.device.connection, "ready_to_make", away))
        assert sweep(kms) == [(ROTATION, keys[0], DONE), (ROTATION, keys[1], HELD), (ROTATION, keys[2], HELD)]
    assert sweep(kms) == [(ROTATION, keys[1], DONE), (ROTATION, keys[2], DONE)]


# -- a clock that cannot be trusted ---------------------------------------------------------------------------------


def test_clock_set_back(kms: Kms, clock: StoppedClock, caplog: pytest.LogCaptureFixture) -> None:
    """With a clock more than five minutes behind the database nothing rotates or is destroyed, and it is reported."""
    due = Due(kms, clock)
    ahead = clock.now + 2 * TOLERANCE
    clock.now = ahead
    new_key(kms)
    clock.now = ahead - 2 * TOLERANCE
    report = kms.operator.maintain()
    assert report.doubt is not None
    assert "set the clock right" in report.doubt
    done = {(step.kind, step.key_id): step.outcome for step in report.steps}
    assert done.pop((EXPIRY, due.expiring)) is DONE
    assert set(done.values()) == {HELD}
    assert {kind for kind, _ in done} >= {RECOVERY, ROTATION, WRAPPING_KEY, DELETION, DESTRUCTION}
    assert "nothing is rotated or destroyed" in caplog.text
    assert kms.operator.maintain(dry_run=True).doubt == report.doubt
    clock.now = ahead
    assert {outcome for _, _, outcome in sweep(kms)} == {DONE}
    assert kms.operator.find_differences() == []


@pytest.mark.parametrize(("behind", "trusted"), [(TOLERANCE, True), (TOLERANCE + SECOND, False)])
def test_tolerance(kms: Kms, clock: StoppedClock, behind: timedelta, *, trusted: bool) -> None:
    """Five minutes behind the newest date are nothing; one second more is doubt."""
    clock.advance(days=1)
    new_key(kms)
    clock.now -= behind
    assert (kms.operator.maintain().doubt is None) is trusted


def test_doubt_holds_what_nobody_asked_for(kms: Kms, clock: StoppedClock, caplog: pytest.LogCaptureFixture) -> None:
    """While the clock is in doubt EnableKey and Encrypt work, and rotate nothing; afterwards it is made good."""
    overdue, worn = new_key(kms).key_id, new_key(kms).key_id
    switch_on(kms, overdue)
    disable(kms, overdue)
    clock.now = START + YEAR + timedelta(days=1)
    new_key(kms)
    clock.now = START + YEAR
    enable(kms, overdue)
    assert "set the clock right" in caplog.text
    leases.at_least(kms._core.store, material_of(kms, worn) or "", ROTATE_AT)
    seal(kms, worn)
    assert (rotations(kms, overdue), rotations(kms, worn)) == ([], [])
    assert sweep(kms) == [(ROTATION, overdue, HELD), (ROTATION, worn, HELD)]
    clock.now = START + YEAR + timedelta(days=1)
    assert sweep(kms) == [(ROTATION, overdue, DONE), (ROTATION, worn, DONE)]


@pytest.mark.parametrize("minutes", [-6, 6])
def test_clock_moved_while_the_process_runs(site: Site, clock: StoppedClock, minutes: int) -> None:
    """A wall clock that leaves the monotonic one by more than five minutes is doubt, until the process is new."""
    passed = SimpleNamespace(seconds=50.0)
    with Kms(wiring.core_of(site.settings, clock, lambda: passed.seconds)) as kms:
        key_id = new_key(kms).key_id
        leases.at_least(kms._core.store, material_of(kms, key_id) or "", ROTATE_AT)
        clock.advance(hours=1)
        passed.seconds += 3600
        assert kms.operator.maintain(dry_run=True).doubt is None
        clock.advance(minutes=minutes)
        report = kms.operator.maintain()
        assert outcomes(report) == [(ROTATION, key_id, HELD)]
        assert "the clock was moved" in (report.doubt or "")
    with Kms(wiring.core_of(site.settings, clock, lambda: passed.seconds)) as kms:
        assert sweep(kms) == [(ROTATION, key_id, DONE)]


def test_drift_watch(clock: StoppedClock) -> None:
    """Clocks that run together have not drifted, however long it takes; more than five minutes apart they have."""
    passed = SimpleNamespace(seconds=1_000_000.0)
    watch = DriftWatch(clock, lambda: passed.seconds)
    assert not watch()
    clock.advance(days=30)
    passed.seconds += 30 * 86_400
    assert not watch()
    for apart in (300, -300):
        clock.advance(seconds=apart)
        assert not watch()
        clock.advance(seconds=apart / 300)
        assert watch()
        clock.advance(seconds=-apart - apart / 300)
