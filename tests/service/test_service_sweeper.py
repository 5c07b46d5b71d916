"""What is due is done by one procedure: in order, once, by one process, while clock and token can be trusted."""

import time
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest
from lifecycle import (
    DELETION,
    DESTRUCTION,
    DONE,
    DUE,
    FAILED,
    GONE,
    HELD,
    RECOVERY,
    ROTATION,
    YEAR,
    Due,
    StoppedError,
    at,
    backing_keys,
    cancel,
    described,
    disable,
    enable,
    epoch,
    material_of,
    named_by,
    new_imported_key,
    outcomes,
    rotations,
    schedule,
    stop_at,
    sweep,
    switch_on,
)
from service_sites import START, Site, StoppedClock, finish, mac_key, new_key, run, seal, start, unseal

from hsmkms.errors import NotFoundException, TokenFullError
from hsmkms.hsm.key_objects import KeyObjects
from hsmkms.kms import Kms
from hsmkms.model.permit import Permit
from hsmkms.rules.budget import ROTATE_AT
from hsmkms.store import leases, sweeper
from hsmkms.store.renewal import LEASE

SECOND = timedelta(seconds=1)


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """A fresh installation with a clock that moves only on demand."""
    with site.open(clock) as opened:
        yield opened


# -- what is done ---------------------------------------------------------------------------------------------------


def test_nothing_is_due(kms: Kms) -> None:
    """Where nothing is due nothing is done."""
    new_key(kms)
    before = epoch(kms)
    report = kms.operator.maintain()
    assert (report.steps, report.busy, report.doubt, epoch(kms)) == ([], False, None, before)


def test_everything_in_order(kms: Kms, clock: StoppedClock) -> None:
    """A sweep does every kind of work, the kinds in their order, and what it dooms it destroys as well."""
    due = Due(kms, clock)
    old = material_of(kms, due.rotating)
    assert sweep(kms) == [*((*step, DONE) for step in due.steps), (DESTRUCTION, due.expiring, DONE)]
    assert described(kms, due.expiring).key_state == "PendingImport"
    assert len(rotations(kms, due.interrupted)) == 1
    assert material_of(kms, due.rotating) != old
    with pytest.raises(NotFoundException):
        described(kms, due.deleted)
    assert backing_keys(kms) == {due.rotating: 2, due.interrupted: 2}
    assert {stored_key.is_secret_key for stored_key in kms._core.device.keys.inventory(mac_key(kms))} == {True}
    assert kms.operator.find_differences() == []
    assert sweep(kms) == []


def test_dry_run(kms: Kms, clock: StoppedClock) -> None:
    """A dry run lists what is due and why, and changes neither database nor token."""
    due = Due(kms, clock)
    before = (epoch(kms), backing_keys(kms), kms.operator.find_differences())
    with kms._core.store.log.atomic() as tx:  # another process sweeps: a dry run only reads
        tx.execute(sweeper.sweeper.insert().values(only=1, holder="somebody", until=clock.now + LEASE))
    report = kms.operator.maintain(dry_run=True)
    assert outcomes(report) == [(*step, DUE) for step in due.steps]
    assert [step.why for step in report.steps] == [
        "ValidTo has come",
        "begun at 2027-01-02 02:04:05 UTC and not finished",
        "due since 2027-01-02 03:04:05 UTC",
        "valid until 2027-01-02 03:04:05 UTC",
        "its waiting period is over",
    ]
    assert (epoch(kms), backing_keys(kms), kms.operator.find_differences()) == before
    assert outcomes(kms.operator.maintain(dry_run=True)) == outcomes(report)


def test_order_within_a_kind(kms: Kms, clock: StoppedClock) -> None:
    """Of several deletions the longest overdue comes first."""
    late, early = new_key(kms).key_id, new_key(kms).key_id
    schedule(kms, late, 9)
    schedule(kms, early, 8)
    clock.advance(days=10)
    assert sweep(kms) == [(DELETION, early, DONE), (DELETION, late, DONE)]


def test_older_databases_destroy_nothing(site: Site, clock: StoppedClock) -> None:
    """A cancelled deletion is not executed if older databases are put back, nor at once if they are accepted."""
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        sealed = seal(kms, key_id)
        schedule(kms, key_id, 7)
    older = {each: each.read_bytes() for each in site.folder.glob("*.db")}
    with site.open(clock) as kms:
        cancel(kms, key_id)
    for file, content in older.items():
        file.write_bytes(content)
    clock.now += timedelta(days=8)
    with site.open(clock) as kms:
        (step,) = kms.operator.maintain().steps
        assert (step.kind, step.key_id, step.outcome) == (DELETION, key_id, HELD)
        assert "older than the newest seal: run `hsmkms audit verify`" in (step.detail or "")
        kms.operator.audit.accept()
        assert sweep(kms) == []
        assert described(kms, key_id).deletion_date == clock.now + timedelta(days=7)
        cancel(kms, key_id)
        enable(kms, key_id)
        before = material_of(kms, key_id)
        assert unseal(kms, sealed) == b"secret"
        seal(kms, key_id)
        assert material_of(kms, key_id) != before, "how often it has encrypted since is not known"
        schedule(kms, key_id, 7)
        clock.now += timedelta(days=7)
        assert sweep(kms) == [(DELETION, key_id, DONE)]


def test_failure_hinders_nothing_else(kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails is reported, stays due, and all others are done."""
    due = Due(kms, clock)
    more = [new_key(kms).key_id for _ in range(2)]
    for each in more:
        leases.at_least(kms._core.store, material_of(kms, each) or "", ROTATE_AT)
    generate = KeyObjects.generate_backing_key

    def full_for_the_first(keys: KeyObjects, permit: Permit, cka_id: bytes, label: str) -> None:
        if due.rotating in label:
            raise TokenFullError("no room")
        generate(keys, permit, cka_id, label)

    with monkeypatch.context() as patch:
        patch.setattr(KeyObjects, "generate_backing_key", full_for_the_first)
        report = kms.operator.maintain()
    done = {(step.kind, step.key_id): step for step in report.steps}
    failed = done.pop((ROTATION, due.rotating))
    assert (failed.outcome, failed.detail) == (FAILED, "LimitExceededException: no room")
    assert {each.outcome for each in done.values()} == {DONE}
    assert {key for kind, key in done if kind is ROTATION} == set(more)
    assert sweep(kms) == [(ROTATION, due.rotating, DONE)]


def test_taken_back_meanwhile(kms: Kms, clock: StoppedClock) -> None:
    """A step that was cancelled after it was listed is left out, and reported so."""
    first, second = new_key(kms).key_id, new_key(kms).key_id
    for days, key_id in ((8, first), (9, second)):
        schedule(kms, key_id, days)
    clock.advance(days=10)
    kms._core.reached = at("destroy-key 1", lambda: cancel(kms, second))
    assert sweep(kms) == [(DELETION, first, DONE), (DELETION, second, GONE)]
    enable(kms, second)
    assert named_by(kms, seal(kms, second)) is not None


def test_done_by_another_process_meanwhile(kms: Kms, clock: StoppedClock) -> None:
    """A rotation that EnableKey has done in the meantime is not done a second time."""
    first, second = sorted(new_key(kms).key_id for _ in range(2))
    for key_id in (first, second):
        switch_on(kms, key_id)
    clock.now = START + YEAR

    def overtake() -> None:
        disable(kms, second)
        enable(kms, second)

    kms._core.reached = at("rotate 3", overtake)
    assert sweep(kms) == [(ROTATION, first, DONE), (ROTATION, second, GONE)]
    assert backing_keys(kms) == {first: 2, second: 2}


def test_long_sweep(kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a sweep takes, its later steps have leave to act on the token as the first ones had."""
    moved = SimpleNamespace(now=time.monotonic())
    for module in ("hsmkms.model.permit", "hsmkms.service.runtime.permits"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: moved.now))

    def pass_a_while(_: str) -> None:
        moved.now += 25

    imported = [new_imported_key(kms, valid_to=START + YEAR) for _ in range(2)]
    clock.now = START + YEAR
    kms._core.reached = pass_a_while
    assert {outcome for _, _, outcome in sweep(kms)} == {DONE}
    assert backing_keys(kms) == {}
    assert {described(kms, each).key_state for each in imported} == {"PendingImport"}


# -- whose turn it is -----------------------------------------------------------------------------------------------


def test_one_sweeps_the_others_are_busy(site: Site, clock: StoppedClock) -> None:
    """While one sweep runs every other reports Busy, and does nothing; then the next may run."""
    with site.open(clock) as here, site.open(clock) as there:
        key_id = new_key(here).key_id
        switch_on(here, key_id)
        clock.now = START + YEAR
        reports = []
        here._core.reached = at("rotate 1", lambda: reports.append(there.operator.maintain()))
        assert sweep(here) == [(ROTATION, key_id, DONE)]
        assert [(report.busy, report.steps) for report in reports] == [(True, [])]
        assert not there.operator.maintain().busy


def test_turn_ends_with_an_error(kms: Kms, clock: StoppedClock) -> None:
    """A sweep that ends in an unexpected exception does not block the next sweep."""
    switch_on(kms, new_key(kms).key_id)
    clock.now = START + YEAR
    kms._core.reached = stop_at("rotate 1")
    with pytest.raises(StoppedError):
        kms.operator.maintain()
    assert not kms.operator.maintain().busy


def test_killed_sweeper_is_replaced(site: Site, clock: StoppedClock) -> None:
    """After kill -9 the others wait for the end of the turn, fifteen seconds, and then carry on."""
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        switch_on(kms, key_id)
        clock.now = START + YEAR
        act = ("act", site.folder / "hsmkms.toml", clock.now.isoformat(), "kill rotate 2", "maintain")
        assert run(*act, status=-9) == []
        clock.now += LEASE - SECOND
        assert kms.operator.maintain().busy
        clock.now += SECOND
        assert not kms.operator.maintain().busy
        clock.advance(minutes=10)
        assert sweep(kms) == [(RECOVERY, key_id, DONE)]
        assert backing_keys(kms) == {key_id: 2}
        assert kms.operator.find_differences() == []


def test_turn_of_a_clock_that_was_set_back(kms: Kms, clock: StoppedClock) -> None:
    """A turn that would last longer than any can counts as over: the clock was ahead when it was written."""
    now = clock.now
    assert sweeper.acquire_lease(kms._core.store, "ahead", lambda: now + timedelta(days=400), LEASE)
    assert not kms.operator.maintain().busy
    assert sweeper.acquire_lease(kms._core.store, "somebody", lambda: now, LEASE)
    assert kms.operator.maintain().busy


def test_turn_is_kept_by_working(kms: Kms, clock: StoppedClock) -> None:
    """A long sweep renews its lease at each step, so that no other begins."""
    keys = [new_key(kms).key_id for _ in range(4)]
    for key_id in keys:
        switch_on(kms, key_id)
    clock.now = START + YEAR
    busy: list[bool] = []

    def slow(done: str) -> None:
        if done.startswith("rotate 1"):
            clock.advance(seconds=14)
            busy.append(not sweeper.acquire_lease(kms._core.store, "somebody", clock, LEASE))

    kms._core.reached = slow
    assert [outcome for _, _, outcome in sweep(kms)] == [DONE] * 4
    assert busy == [True] * 4


def test_lost_turn_ends_the_sweep(kms: Kms, clock: StoppedClock) -> None:
    """A process that was stopped for longer than its turn lets the one that took over do the rest."""
    keys = sorted(new_key(kms).key_id for _ in range(3))
    for key_id in keys:
        switch_on(kms, key_id)
    clock.now = START + YEAR

    def sleep() -> None:
        with kms._core.store.log.atomic() as tx:
            tx.execute(sweeper.sweeper.update().values(holder="another process", until=clock.now + LEASE))

    kms._core.reached = at("rotate 3", sleep)
    assert sweep(kms) == [(ROTATION, keys[0], DONE)]
    assert kms.operator.maintain().busy


def test_many_processes(site: Site, clock: StoppedClock) -> None:
    """Of processes that sweep while one works, all but that one are busy."""
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        switch_on(kms, key_id)
    file, instant = site.folder / "hsmkms.toml", (START + YEAR).isoformat()
    first = start("act", file, instant, "wait rotate 1", "maintain")
    assert first.stdout is not None
    assert first.stdin is not None
    first.stdin.write("\n")
    first.stdin.flush()
    for _ in range(2):
        assert first.stdout.readline() == "ready\n"
    others = [start("act", file, instant, "", "maintain") for _ in range(2)]
    assert [finish(other) for other in others] == [[{"busy": True, "outcomes": []}]] * 2
    assert finish(first) == [{"busy": False, "outcomes": ["done"]}]
