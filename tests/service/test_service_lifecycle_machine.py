"""Random lives of keys against a simple model: what living material made opens, what dead material made does not."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

import examples
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from lifecycle import (
    backing_keys,
    cancel,
    delete_material,
    described,
    disable,
    enable,
    new_empty_key,
    request_to_import,
    rotate,
    schedule,
    switch_off,
    switch_on,
)
from msgspec import Struct
from service_sites import Site, StoppedClock, new_key, seal, unseal

from hsmkms.errors import HsmKmsError
from hsmkms.kms import Kms

MOST_KEYS: Final = 4
GONE: Final = {"NotFoundException", "AccessDeniedException"}


class ModelKey(Struct):
    """What the model knows of a key. ``material`` is what was imported; None for a generated key."""

    key_id: str
    material: bytes | None = None
    imported: bool = False
    present: bool = True
    valid_to: datetime | None = None
    enabled: bool = True
    deletion: datetime | None = None
    dead: bool = False
    on_demand: int = 0
    sealed: list[tuple[bytes, bytes]] = []


class Lives(RuleBasedStateMachine):
    """The machine. ``kms`` and ``clock`` are set by the test; each run begins with keys of its own."""

    kms: Kms
    clock: StoppedClock
    generated = 0
    """Number of keys with generated material that the runs have made."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[ModelKey] = []

    def state(self, key: ModelKey) -> str:
        """The state that must be shown."""
        if key.deletion is not None:
            return "PendingDeletion"
        if key.material is not None and not key.present:
            return "PendingImport"
        return "Enabled" if key.enabled else "Disabled"

    def living(self) -> list[ModelKey]:
        """The keys that there are."""
        return [key for key in self.keys if not key.dead]

    def pick(self, number: int) -> ModelKey | None:
        """One of the living keys, or None."""
        living = self.living()
        return living[number % len(living)] if living else None

    # -- what users do ----------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.living()) < MOST_KEYS)
    @rule(imported=st.booleans())
    def create(self, imported: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        """Make a key."""
        if imported:
            self.keys.append(ModelKey(new_empty_key(self.kms), os.urandom(32), present=False))
        else:
            self.keys.append(ModelKey(new_key(self.kms).key_id))
            Lives.generated += 1

    @rule(number=st.integers(0, 9), text=st.binary(min_size=1, max_size=8))
    def encrypt(self, number: int, text: bytes) -> None:
        """Encrypt: it succeeds exactly where the key is Enabled."""
        key = self.pick(number)
        if key is None:
            return
        if self.state(key) == "Enabled":
            key.sealed.append((seal(self.kms, key.key_id, text), text))
        else:
            with pytest.raises(HsmKmsError):
                seal(self.kms, key.key_id, text)

    @rule(number=st.integers(0, 9), on=st.booleans())
    def switch(self, number: int, on: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        """Enable or disable."""
        key = self.pick(number)
        if key is not None and self.state(key) in ("Enabled", "Disabled"):
            (enable if on else disable)(self.kms, key.key_id)
            key.enabled = on

    @rule(number=st.integers(0, 9), on=st.booleans())
    def set_rotation(self, number: int, on: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        """Switch automatic rotation on or off."""
        key = self.pick(number)
        if key is not None and key.material is None and self.state(key) == "Enabled":
            (switch_on if on else switch_off)(self.kms, key.key_id)

    @rule(number=st.integers(0, 9))
    def rotate_now(self, number: int) -> None:
        """Rotate on demand, unless an automatic rotation is near."""
        key = self.pick(number)
        if key is not None and key.material is None and self.state(key) == "Enabled" and key.on_demand < 5:
            try:
                rotate(self.kms, key.key_id)
            except HsmKmsError as exc:
                assert exc.code == "ConflictException"  # noqa: PT017 - both are right, depending on dates
            else:
                key.on_demand += 1

    @rule(number=st.integers(0, 9), hours=st.none() | st.integers(1, 24 * 400))
    def import_material(self, number: int, hours: int | None) -> None:
        """Import the key's own material, for ever or for some hours; other material is refused once it has some."""
        key = self.pick(number)
        if key is None or key.material is None or key.deletion is not None:
            return
        if key.imported:
            with pytest.raises(HsmKmsError, match="no other may replace it"):
                self.kms.import_key_material(request_to_import(self.kms, key.key_id, os.urandom(32)))
        valid_to = self.clock.now + timedelta(hours=hours) if hours else None
        self.kms.import_key_material(request_to_import(self.kms, key.key_id, key.material, valid_to))
        if not key.present:
            key.enabled = True  # PendingImport becomes Enabled, whatever a cancelled deletion had left behind
        key.imported, key.present, key.valid_to = True, True, valid_to

    @rule(number=st.integers(0, 9))
    def lose_material(self, number: int) -> None:
        """Delete imported material."""
        key = self.pick(number)
        if key is not None and key.material is not None:
            delete_material(self.kms, key.key_id)
            key.present, key.valid_to = False, None

    @rule(number=st.integers(0, 9), days=st.integers(7, 30))
    def schedule_deletion(self, number: int, days: int) -> None:
        """Begin the waiting period."""
        key = self.pick(number)
        if key is not None and key.deletion is None:
            key.deletion = schedule(self.kms, key.key_id, days)

    @rule(number=st.integers(0, 9))
    def cancel_deletion(self, number: int) -> None:
        """Keep a key."""
        key = self.pick(number)
        if key is not None and key.deletion is not None:
            cancel(self.kms, key.key_id)
            key.deletion, key.enabled = None, False

    # -- what happens -----------------------------------------------------------------------------------------------

    @rule(hours=st.integers(1, 24 * 40) | st.just(24 * 365))
    def wait(self, hours: int) -> None:
        """Time passes; imported material may expire."""
        self.clock.advance(hours=hours)
        for key in self.living():
            if key.valid_to is not None and key.valid_to <= self.clock.now:
                key.present, key.valid_to = False, None

    @rule()
    def maintain(self) -> None:
        """Whatever is due is done; then the token holds exactly what the model says."""
        report = self.kms.operator.maintain()
        assert {str(step.outcome) for step in report.steps} <= {"done"}, report
        for each in self.living():
            each.dead = each.deletion is not None and each.deletion <= self.clock.now
        backing_keys_by_id = backing_keys(self.kms)
        for key in self.keys:
            if key.dead:
                assert backing_keys_by_id[key.key_id] == 0
            elif key.material is not None:
                assert backing_keys_by_id[key.key_id] == int(key.present)
            else:
                assert backing_keys_by_id[key.key_id] >= 1 + key.on_demand
        assert self.kms.operator.find_differences() == []
        assert self.kms.operator.audit.verify_rows() == []

    # -- what must hold always --------------------------------------------------------------------------------------

    @invariant()
    def states_are_shown(self) -> None:
        """Each key is in the state of the model; one that is dead is not there."""
        for key in self.keys:
            if key.dead:
                with pytest.raises(HsmKmsError) as caught:
                    described(self.kms, key.key_id)
                assert caught.value.code in GONE
            else:
                assert described(self.kms, key.key_id).key_state == self.state(key)

    @invariant()
    def what_lives_opens(self) -> None:
        """Every ciphertext of an Enabled key opens; none of any other key does."""
        for key in self.keys:
            for ciphertext, text in key.sealed[-3:] + key.sealed[:1]:
                if not key.dead and self.state(key) == "Enabled":
                    assert unseal(self.kms, ciphertext) == text
                else:
                    with pytest.raises(HsmKmsError):
                        unseal(self.kms, ciphertext)


@pytest.fixture
def opened(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """The machine's installation; all runs share it, each with keys of its own."""
    with site.open(clock) as kms:
        Lives.kms, Lives.clock = kms, clock
        yield kms


def test_lives(opened: Kms) -> None:
    """In random sequences of changes a ciphertext decrypts exactly while its material exists and its key is Enabled.

    The machine's rules and invariants assert this; at the end the installation as a whole is checked.
    """
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=examples.count(suite=8, long=100),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    opened.operator.maintain()
    assert Lives.generated, "the machine has made no key"
    assert opened.operator.find_differences() == []
    assert opened.operator.audit.verify().faults == []
