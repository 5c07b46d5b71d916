"""Random lives of sets of multi-Region keys in three regions against a simple model."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

import examples
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from lifecycle import MATERIAL, backing_keys
from msgspec import Struct
from service_sites import NewSite, StoppedClock
from sides import Side

from hsmkms.config.settings import RotationSettings
from hsmkms.errors import HsmKmsError
from hsmkms.kms import Kms

REGIONS: Final = ("eu-central-1", "us-east-1", "ap-southeast-2")
SECOND: Final = bytes(range(100, 132))
NUMBERS: Final = st.integers(0, 2)
ENABLED, DISABLED, WAITING, DELETED = "Enabled", "Disabled", "PendingReplicaDeletion", "PendingDeletion"


class Member(Struct):
    """What the model knows of one key of the set. ``present``: the imported materials that it has, by their bytes."""

    wish: str = ENABLED
    deletion: datetime | None = None
    window: int | None = None
    present: set[bytes] = set()


class Sets(RuleBasedStateMachine):
    """The machine. ``kms`` and ``clock`` are set by the test; each run has a set of its own."""

    kms: Kms
    clock: StoppedClock

    @initialize(imported=st.booleans())
    def create(self, imported: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        """Make the primary key."""
        self.sides = {region: Side(self.kms, region) for region in REGIONS}
        self.primary = REGIONS[0]
        self.imported = imported
        self.current, self.waiting, self.materials = MATERIAL, None, [MATERIAL]
        self.rotations = 0
        self.sealed: list[bytes] = []
        here = self.sides[self.primary]
        self.key_id = here.new_primary(origin="EXTERNAL") if imported else here.new_primary()
        self.members = {self.primary: Member()}
        if imported:
            here.bring(self.key_id)
            self.members[self.primary].present.add(MATERIAL)

    # -- the model --------------------------------------------------------------------------------------------------

    def state(self, region: str) -> str:
        """Return the state that must be shown; "gone" where there is no key."""
        if region not in self.members:
            return "gone"
        member = self.members[region]
        if member.window is not None:
            return WAITING
        if member.deletion is not None:
            return DELETED
        if self.imported and not set(self.materials) <= member.present:
            return "PendingImport"
        return member.wish

    def replicas(self) -> list[str]:
        """Where replicas are."""
        return sorted(member for member in self.members if member != self.primary)

    def attempt(self, allowed: bool, call: object, **members: object) -> bool:  # noqa: FBT001 - what the model says
        """Call; it must succeed exactly where the model allows it."""
        try:
            call(key_id=self.key_id, **members)  # type: ignore[operator]
        except HsmKmsError:
            assert not allowed
            return False
        assert allowed
        return True

    # -- what users do ----------------------------------------------------------------------------------------------

    @rule(to=NUMBERS)
    def replicate(self, to: int) -> None:
        """Make a replica."""
        allowed = REGIONS[to] not in self.members and self.state(self.primary) == ENABLED
        if self.attempt(allowed, self.sides[self.primary].replicate_key, replica_region=REGIONS[to]):
            self.members[REGIONS[to]] = Member()

    @rule(to=NUMBERS)
    def move(self, to: int) -> None:
        """Move the primary key."""
        allowed = REGIONS[to] in self.replicas() and {self.state(self.primary), self.state(REGIONS[to])} == {ENABLED}
        if self.attempt(allowed, self.sides[self.primary].update_primary_region, primary_region=REGIONS[to]):
            self.primary = REGIONS[to]

    @rule(number=NUMBERS, on=st.booleans())
    def switch(self, number: int, on: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        """Enable or disable the key in a region."""
        region, side = REGIONS[number], self.sides[REGIONS[number]]
        allowed = self.state(region) in (ENABLED, DISABLED)
        if self.attempt(allowed, side.enable_key if on else side.disable_key):
            self.members[region].wish = ENABLED if on else DISABLED

    @rule(number=NUMBERS)
    def schedule(self, number: int) -> None:
        """Begin the waiting period in a region, of a week."""
        region = REGIONS[number]
        allowed = self.state(region) not in (WAITING, DELETED, "gone")
        if self.attempt(allowed, self.sides[region].schedule_key_deletion, pending_window_in_days=7):
            if region == self.primary and self.replicas():
                self.members[region].window = 7
            else:
                self.members[region].deletion = self.clock.now + timedelta(days=7)

    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        """Keep the key of a region."""
        region = REGIONS[number]
        allowed = self.state(region) in (WAITING, DELETED)
        if self.attempt(allowed, self.sides[region].cancel_key_deletion):
            member = self.members[region]
            member.deletion = member.window = None
            member.wish = DISABLED

    @rule(number=NUMBERS)
    def rotate(self, number: int) -> None:
        """Rotate on demand: on the primary key alone, to imported material only when all regions have it."""
        region = REGIONS[number]
        allowed = region == self.primary and self.state(region) == ENABLED
        if self.imported:
            ready = self.waiting is not None and all(self.waiting in member.present for member in self.members.values())
            allowed = allowed and ready
        if self.attempt(allowed and self.rotations < 20, self.sides[region].rotate_key_on_demand):
            self.rotations += 1
            if self.waiting is not None:
                self.materials.append(self.waiting)
                self.waiting = None

    @rule(number=NUMBERS | st.just(0), which=st.sampled_from([MATERIAL, SECOND]))
    def bring(self, number: int, which: bytes) -> None:
        """Import material: what the set knows into any region, new material into the primary one."""
        region = REGIONS[number]
        if not self.imported or self.state(region) in (WAITING, DELETED, "gone"):
            return
        known = which in (*self.materials, self.waiting)
        if not known and region != self.primary:
            with pytest.raises(HsmKmsError):
                self.sides[region].bring(self.key_id, which)
            return
        was_missing = self.state(region) == "PendingImport"
        self.sides[region].bring(self.key_id, which, import_type=None if known else "NEW_KEY_MATERIAL")
        self.waiting = self.waiting if known else which
        member = self.members[region]
        member.present.add(which)
        if was_missing and set(self.materials) <= member.present and which in self.materials:
            member.wish = ENABLED

    @rule(number=NUMBERS, which=st.sampled_from([MATERIAL, SECOND]))
    def lose(self, number: int, which: bytes) -> None:
        """Delete imported material in a region; on the primary key, what waits for its rotation goes everywhere."""
        region = REGIONS[number]
        if not self.imported or region not in self.members or which not in self.members[region].present:
            return
        side = self.sides[region]
        listed = side.list_key_rotations(key_id=self.key_id, include_key_material="ALL_KEY_MATERIAL").rotations
        order = [*self.materials, *([self.waiting] if self.waiting else [])]
        name = listed[order.index(which)].key_material_id
        side.delete_imported_key_material(key_id=self.key_id, key_material_id=name)
        gone = list(self.members) if which == self.waiting and region == self.primary else [region]
        for each in gone:
            self.members[each].present.discard(which)
        if len(gone) > 1 or (which == self.waiting and region == self.primary):
            self.waiting = None

    @rule(number=NUMBERS)
    def encrypt(self, number: int) -> None:
        """Encrypt in a region: it succeeds exactly where the key is Enabled."""
        region = REGIONS[number]
        allowed = self.state(region) == ENABLED
        if self.attempt(allowed, self.sides[region].encrypt, plaintext=b"secret"):
            self.sealed.append(self.sides[region].seal(self.key_id))

    # -- what happens -----------------------------------------------------------------------------------------------

    @rule(hours=st.sampled_from([1, 24 * 7]))
    def sweep(self, hours: int) -> None:
        """Time passes, and what is due is done; then the token holds what the model says."""
        self.clock.advance(hours=hours)
        report = self.kms.operator.maintain()
        assert {str(step.outcome) for step in report.steps} <= {"done"}, report
        over = [each for each, it in self.members.items() if it.deletion is not None and it.deletion <= self.clock.now]
        for each in over:
            del self.members[each]
        if over and list(self.members) == [self.primary] and self.members[self.primary].window is not None:
            self.members[self.primary].window = None
            self.members[self.primary].deletion = self.clock.now + timedelta(days=7)
        anywhere = set().union(*(member.present for member in self.members.values()))
        expected = len(anywhere) if self.imported else 1 + self.rotations
        assert backing_keys(self.kms)[self.key_id] == (expected if self.members else 0)
        assert self.kms.operator.find_differences() == []

    # -- what must hold always --------------------------------------------------------------------------------------

    @invariant()
    def states_and_roles_are_shown(self) -> None:
        """Each region has its state, and all show the same set; a region without a key has none."""
        for region, side in self.sides.items():
            if region in self.members:
                assert side.state(self.key_id) == self.state(region)
                role = "PRIMARY" if region == self.primary else "REPLICA"
                assert side.family(self.key_id) == (role, self.primary, self.replicas())
            else:
                with pytest.raises(HsmKmsError):
                    side.described(self.key_id)

    @invariant()
    def what_one_made_all_open(self) -> None:
        """Every ciphertext of the set opens in every region where the key is Enabled, and in no other."""
        for region, side in self.sides.items():
            for ciphertext in self.sealed[-2:] + self.sealed[:1]:
                if self.state(region) == ENABLED:
                    assert side.unseal(ciphertext) == b"secret"
                else:
                    with pytest.raises(HsmKmsError):
                        side.unseal(ciphertext)


@pytest.fixture
def opened(new_site: NewSite, clock: StoppedClock) -> Iterator[Kms]:
    """The machine's installation; all runs share it, each with a set of its own."""
    site = new_site(regions=REGIONS, rotation=RotationSettings(imported_on_demand=True))
    with site.open(clock) as kms:
        Sets.kms, Sets.clock = kms, clock
        yield kms


def test_sets(opened: Kms) -> None:
    """In random sequences of changes each region shows its own state, and decrypts what any region encrypted.

    The machine's rules and invariants assert this; at the end the installation as a whole is checked.
    """
    run_state_machine_as_test(
        Sets,
        settings=settings(
            max_examples=examples.count(suite=5, long=50),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    opened.operator.maintain()
    assert backing_keys(opened), "the machine has made no key"
    assert opened.operator.find_differences() == []
    assert opened.operator.audit.verify().faults == []
