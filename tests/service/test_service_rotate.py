"""Rotation under stress: at once in many threads and processes, early, interrupted, and on a token that fails."""

import ctypes
import json
import threading
from collections.abc import Callable, Iterator

import pytest
from forked import Program
from lifecycle import (
    DESTRUCTION,
    DONE,
    RECOVERY,
    ROTATION,
    YEAR,
    StoppedError,
    away,
    backing_keys,
    described,
    disable,
    enable,
    epoch,
    in_threads,
    material_of,
    named_by,
    record_of,
    rotate,
    rotations,
    schedule,
    status_of,
    stop_at,
    sweep,
    switch_on,
)
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType
from service_sites import REGION, START, Site, StoppedClock, finish, new_key, run, seal, start
from waiting import until

from hsmkms.errors import (
    ConflictException,
    KMSInvalidStateException,
    TokenFullError,
    TokenNotFoundError,
    TokenUnavailableError,
)
from hsmkms.kms import Kms
from hsmkms.model.enums import RotationType
from hsmkms.model.permit import Permit
from hsmkms.service.keys import rotate as rotating
from hsmkms.service.operator.reconcile import Kind, Mended
from hsmkms.store import rotation

LATER = {"minutes": 10, "seconds": 1}
"""After that an unfinished rotation counts as interrupted."""

Act = Callable[[Kms, str], object]


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """A fresh installation with a clock that moves only on demand."""
    with site.open(clock) as opened:
        yield opened


# -- at once --------------------------------------------------------------------------------------------------------


def test_on_demand_in_threads(kms: Kms) -> None:
    """Of rotations on demand that overlap one is done and all others are conflicts: one new backing key."""
    key_id = new_key(kms).key_id
    others_are_done = threading.Semaphore(0)

    def wait_for_others(done: str) -> None:
        if done.startswith("rotate 1"):
            for _ in range(7):
                assert others_are_done.acquire(timeout=120)

    def call() -> None:
        try:
            rotate(kms, key_id)
        finally:
            others_are_done.release()

    kms._core.reached = wait_for_others
    assert in_threads(8, call) == ["ConflictException"] * 7 + ["ok"]
    assert backing_keys(kms) == {key_id: 2}
    assert len(rotations(kms, key_id)) == 1


def test_automatic_in_threads(kms: Kms, clock: StoppedClock) -> None:
    """An overdue key that is enabled and swept in many threads at once gets one backing key."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    disable(kms, key_id)
    clock.now = START + YEAR

    def call() -> None:
        enable(kms, key_id)
        kms.operator.maintain()

    assert in_threads(6, call) == ["ok"] * 6
    assert backing_keys(kms) == {key_id: 2}
    assert kms.operator.find_differences() == []


def rotation_elsewhere(site: Site, happening: str, *act: str) -> Program:
    """A process that rotates, and that has everything open."""
    child = start("act", site.folder / "hsmkms.toml", (START + YEAR).isoformat(), happening, *act)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go_on(child: Program) -> None:
    """Let a process continue."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def test_on_demand_in_processes(site: Site, clock: StoppedClock) -> None:
    """While a process rotates a key, all others get a ConflictException, and use the key."""
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
    act = ("RotateKeyOnDemand", json.dumps({"KeyId": key_id}))
    first = rotation_elsewhere(site, "wait rotate 2", *act)
    go_on(first)
    assert first.stdout is not None
    assert first.stdout.readline() == "ready\n"
    assert run("act", site.folder / "hsmkms.toml", (START + YEAR).isoformat(), "", *act) == [
        {"error": "ConflictException"}
    ]
    assert "KeyId" in finish(first)[0]
    with site.open(clock) as kms:
        assert backing_keys(kms) == {key_id: 2}
        assert kms.operator.find_differences() == []


def test_automatic_in_processes(site: Site, clock: StoppedClock) -> None:
    """Sweeps and encryptions of several processes at one instant make one backing key for each key that is due."""
    with site.open(clock) as kms:
        due = [new_key(kms).key_id for _ in range(5)]
        for key_id in due:
            switch_on(kms, key_id)
    children = [rotation_elsewhere(site, "", "maintain") for _ in range(3)]
    for child in children:
        go_on(child)
    outputs = [finish(child)[0] for child in children]
    assert sum(output["outcomes"].count("done") for output in outputs) == 5
    with site.open(clock) as kms:
        assert backing_keys(kms) == dict.fromkeys(due, 2)
        assert kms.operator.find_differences() == []


# -- interrupted ----------------------------------------------------------------------------------------------------


def interrupted_at(kms: Kms, key_id: str, step: str) -> None:
    """Begin a rotation on demand that ends at a step, as if the process had died there."""
    kms._core.reached = stop_at(step)
    with pytest.raises(StoppedError):
        rotate(kms, key_id)
    kms._core.reached = lambda _: None


@pytest.mark.parametrize(
    ("step", "left", "rotated"),
    [("rotate 1", [Kind.UNFINISHED], False), ("rotate 2", [Kind.UNACKNOWLEDGED], True), ("rotate 3", [], True)],
)
def test_interrupted(kms: Kms, clock: StoppedClock, step: str, left: list[Kind], *, rotated: bool) -> None:
    """Interrupted anywhere, one material is current throughout; ten minutes later a sweep makes it whole."""
    key_id = new_key(kms).key_id
    first, old = material_of(kms, key_id), seal(kms, key_id)
    interrupted_at(kms, key_id, step)
    assert [finding.kind for finding in kms.operator.find_differences()] == left
    assert (material_of(kms, key_id) == first) is (step != "rotate 3")
    clock.advance(minutes=10)
    assert sweep(kms) == []
    clock.advance(seconds=1)
    between = seal(kms, key_id)
    assert sweep(kms) == ([(RECOVERY, key_id, DONE)] if left else [])
    assert (material_of(kms, key_id) != first) is rotated
    assert kms.operator.find_differences() == []
    assert named_by(kms, old) == first
    assert named_by(kms, between) is not None
    assert backing_keys(kms) == {key_id: 2 if rotated else 1}
    assert status_of(kms, key_id).on_demand_rotation_start_date is None
    rotate(kms, key_id)
    assert kms.operator.find_differences() == []


@pytest.mark.parametrize(("step", "count"), [("rotate 1", 1), ("rotate 2", 1)])
def test_next_rotation_carries_on(kms: Kms, clock: StoppedClock, step: str, count: int) -> None:
    """The next process that rotates the key finishes what was interrupted: one new backing key for both."""
    key_id = new_key(kms).key_id
    interrupted_at(kms, key_id, step)
    with pytest.raises(ConflictException):
        rotate(kms, key_id)
    clock.advance(**LATER)
    rotate(kms, key_id)
    assert len(rotations(kms, key_id)) == count
    assert backing_keys(kms) == {key_id: 2}
    assert kms.operator.find_differences() == []


def test_mended_instead(kms: Kms) -> None:
    """The operator may mend an interrupted rotation at once: its object becomes the current backing key."""
    key_id = new_key(kms).key_id
    first = material_of(kms, key_id)
    interrupted_at(kms, key_id, "rotate 2")
    (finding,) = kms.operator.find_differences()
    assert (finding.kind, finding.key_id, finding.sequence) == (Kind.UNACKNOWLEDGED, key_id, 2)
    assert kms.operator.mend(finding) is Mended.ADDED
    assert material_of(kms, key_id) != first
    assert kms.operator.find_differences() == []


def test_planted_object_is_not_taken(kms: Kms, clock: StoppedClock) -> None:
    """An object under the name of an interrupted rotation that hsmkms cannot have made is destroyed, never used."""
    key_id = new_key(kms).key_id
    first = material_of(kms, key_id)
    interrupted_at(kms, key_id, "rotate 1")
    with kms._core.store.reading() as conn:
        (begun,) = rotation.unfinished(conn, key_id)
    with kms._core.device.connection.pool.session() as session:
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.AES,
                Attribute.TOKEN: True,
                Attribute.ENCRYPT: True,
                Attribute.DECRYPT: True,
                Attribute.ID: begun.cka_id,
                Attribute.LABEL: begun.label,
                Attribute.VALUE: b"A" * 32,
            }
        )
    clock.advance(**LATER)
    assert [kind for kind, _, _ in sweep(kms)] == [RECOVERY, DESTRUCTION]
    assert material_of(kms, key_id) == first
    assert rotations(kms, key_id) == []
    assert backing_keys(kms) == {key_id: 1}
    assert kms.operator.find_differences() == []


@pytest.mark.parametrize("stop", [disable, schedule])
def test_interrupted_and_stopped(kms: Kms, clock: StoppedClock, stop: Act) -> None:
    """A key that was disabled, or is pending deletion, is not rotated by the recovery of what was interrupted."""
    key_id = new_key(kms).key_id
    first = material_of(kms, key_id)
    interrupted_at(kms, key_id, "rotate 2")
    stop(kms, key_id)
    clock.advance(**LATER)
    sweep(kms)
    assert material_of(kms, key_id) == first
    assert rotations(kms, key_id) == []


# -- a token that fails ---------------------------------------------------------------------------------------------


def test_no_room(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was made nothing is left: the old material encrypts, and the next attempt may come at once."""

    def full(*_: object) -> None:
        raise TokenFullError("no room")

    made = new_key(kms)
    with monkeypatch.context() as patch:
        patch.setattr(kms._core.device.keys, "generate_backing_key", full)
        with pytest.raises(TokenFullError):
            rotate(kms, made.key_id)
    assert kms.operator.find_differences() == []
    assert described(kms, made.key_id) == made
    assert named_by(kms, seal(kms, made.key_id)) == made.current_key_material_id
    rotate(kms, made.key_id)
    assert [material.sequence for material in record_of(kms, made.key_id).materials] == [1, 2]


@pytest.mark.parametrize("made_before", [False, True])
def test_fault_of_unknown_effect(
    kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch, *, made_before: bool
) -> None:
    """After a fault that may have left an object the intent stays; ten minutes later the token decides it."""
    key_id = new_key(kms).key_id
    first = material_of(kms, key_id)
    generate_backing_key = kms._core.device.keys.generate_backing_key

    def fail(permit: Permit, cka_id: bytes, label: str) -> None:
        if made_before:
            generate_backing_key(permit, cka_id, label)
        away()

    with monkeypatch.context() as patch:
        patch.setattr(kms._core.device.keys, "generate_backing_key", fail)
        with pytest.raises(TokenUnavailableError):
            rotate(kms, key_id)
    assert named_by(kms, seal(kms, key_id)) == first
    clock.advance(**LATER)
    assert sweep(kms) == [(RECOVERY, key_id, DONE)]
    assert (material_of(kms, key_id) != first) is made_before
    assert backing_keys(kms) == {key_id: 2 if made_before else 1}
    assert kms.operator.find_differences() == []


def log_out(kms: Kms) -> None:
    """Take the login away behind the device's back."""
    device = kms._core.device
    ctypes.CDLL(str(device.connection.module.path)).C_Logout(ctypes.c_ulong(device.connection.login_handle))


@pytest.mark.parametrize("step", ["rotate 1", "rotate 2", "rotate 3"])
def test_lost_login(kms: Kms, step: str) -> None:
    """A login that is lost at any step harms nothing: the rotation is done, and old and new decrypt."""
    key_id = new_key(kms).key_id
    old = seal(kms, key_id)
    kms._core.reached = lambda done: log_out(kms) if done.startswith(step) else None
    rotate(kms, key_id)
    assert {named_by(kms, old), named_by(kms, seal(kms, key_id))} == {
        material.material_id for material in record_of(kms, key_id).materials
    }
    assert kms.operator.find_differences() == []


def is_rotated(kms: Kms, key_id: str) -> bool:
    """Rotate a key, if the token is back."""
    try:
        rotate(kms, key_id)
    except TokenUnavailableError:
        return False
    return True


def test_token_that_is_away(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token that is away nothing is begun: no intent, and the key as it was when the token is back."""

    def gone(*_: object) -> None:
        raise TokenNotFoundError("no token fits")

    key_id = new_key(kms).key_id
    with monkeypatch.context() as patch:
        patch.setattr("hsmkms.hsm.session.token_login.choose", gone)
        log_out(kms)
        before = epoch(kms)
        with pytest.raises(TokenUnavailableError):
            rotate(kms, key_id)
        assert epoch(kms) == before
    until(lambda: is_rotated(kms, key_id), 20)
    assert backing_keys(kms) == {key_id: 2}


def test_enabling_does_not_fail_with_the_token(kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """EnableKey of an overdue key enables it whatever the token says, and the rotation stays due."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    disable(kms, key_id)
    clock.now = START + YEAR
    with monkeypatch.context() as patch:
        patch.setattr(kms._core.device.connection, "ready_to_make", away)
        enable(kms, key_id)
    assert described(kms, key_id).enabled
    assert sweep(kms) == [(ROTATION, key_id, DONE)]


def test_judged_again_at_the_last_moment(kms: Kms, clock: StoppedClock) -> None:
    """A rotation that was due when it was listed, and is no longer, is not done."""
    key_id = new_key(kms).key_id
    switch_on(kms, key_id)
    clock.now = START + YEAR
    disable(kms, key_id)
    with pytest.raises(KMSInvalidStateException, match="not due"):
        rotating.rotate(
            kms._core, key_id, REGION, RotationType.AUTOMATIC, lambda each: rotating.must_be_due(kms._core, each)
        )
    first = material_of(kms, key_id)
    enable(kms, key_id)
    rotating.rotate_if_due(kms._core, key_id, REGION)
    rotating.rotate_early(kms._core, key_id, REGION, first or "")
    assert len(rotations(kms, key_id)) == 1
