"""When each key was last used, as it is written down."""

from datetime import timedelta

import pytest
from msgspec.structs import replace
from store_samples import ELSEWHERE, LATER, NOW, REGION

from hsmkms.model.enums import TrackedOperation
from hsmkms.store import usage
from hsmkms.store.engine import Store
from hsmkms.store.usage import LastUse

pytestmark = pytest.mark.both_engines

TICK = timedelta(microseconds=1)
USE = LastUse(
    key_id="1234abcd-12ab-34cd-56ef-1234567890ab",
    region=REGION,
    operation=TrackedOperation.ENCRYPT,
    used_at=LATER,
    request_id="request 1",
)


def test_never_used(store: Store) -> None:
    """An unused key has no last use, and uses are tracked since the databases were made."""
    assert usage.fetch(store, USE.key_id, REGION) is None
    assert usage.fetch_all(store) == {}
    assert usage.tracked_since(store) == usage.tracked_since(store)


@pytest.mark.parametrize("operation", list(TrackedOperation))
def test_every_operation_comes_back(store: Store, operation: TrackedOperation) -> None:
    """Each operation that counts can be written down, and comes back with its instant to the microsecond."""
    use = replace(USE, operation=operation, used_at=LATER + TICK)
    usage.note(store, [use])
    assert usage.fetch(store, USE.key_id, REGION) == use


@pytest.mark.parametrize(
    ("later", "wins"), [(-timedelta(days=1), False), (-TICK, False), (timedelta(), True), (TICK, True)]
)
def test_the_latest_stays(store: Store, later: timedelta, *, wins: bool) -> None:
    """A use that another process noted late does not hide a newer one."""
    other = replace(USE, operation=TrackedOperation.DECRYPT, used_at=LATER + later, request_id="request 2")
    usage.note(store, [USE])
    usage.note(store, [other])
    assert usage.fetch(store, USE.key_id, REGION) == (other if wins else USE)


def test_keys_and_regions_apart(store: Store) -> None:
    """Every key has its last use in every region; many are written at once."""
    uses = [
        replace(USE, key_id=name, region=region, used_at=NOW + timedelta(seconds=number))
        for number, (name, region) in enumerate([("a", REGION), ("a", ELSEWHERE), ("b", REGION)])
    ]
    usage.note(store, uses)
    usage.note(store, [])
    assert usage.fetch_all(store) == {(use.key_id, use.region): use for use in uses}
    assert usage.fetch_all(store, "a", ELSEWHERE) == {("a", ELSEWHERE): uses[1]}


def test_uses_are_no_change_of_keys(store: Store) -> None:
    """The change signal stays quiet: uses are in log.db."""
    signal = store.change_signal()
    usage.note(store, [USE])
    assert not signal.moved()
    signal.close()
