"""The rotation report of an installation."""

from datetime import timedelta

from lifecycle import rotate, switch_on
from service_sites import OTHER_REGION, START, Site, StoppedClock, new_alias, new_key, seal

from hsmkms.rules.posture import Posture


def test_report(site: Site, clock: StoppedClock) -> None:
    """All keys of all regions are there, the worst first, with dates, counts and last use."""
    with site.open(clock) as kms:
        overdue, well = new_key(kms).key_id, new_key(kms).key_id
        elsewhere = new_key(kms, kms.caller(OTHER_REGION)).key_id
        switch_on(kms, overdue)
        clock.advance(days=200)
        switch_on(kms, well)
        rotate(kms, well)
        new_alias(kms, "alias/well", well)
        seal(kms, well)
        clock.advance(days=165)
        rows = kms.operator.rotation_report()
        assert [(row.key_id, row.posture) for row in rows] == [
            (overdue, Posture.OVERDUE),
            (elsewhere, Posture.AGED),
            (well, Posture.OK),
        ]
        last = rows[-1]
        assert (last.aliases, last.backing_keys, last.on_demand_left, last.encryptions) == (["alias/well"], 2, 24, 1)
        assert (last.age_days, last.material_age_days) == (365, 165)
        assert last.next_rotation == START + timedelta(days=565)
        assert (last.last_used, last.last_operation) == (START + timedelta(days=200), "Encrypt")
        assert [reported.key_id for reported in kms.operator.rotation_report(OTHER_REGION)] == [elsewhere]
