"""A clock that was wrong: what was written under it, and the operator's word that it is right now."""

from datetime import timedelta

from service_sites import START, Site, StoppedClock, new_key

from hsmkms.model.rotation import EnableKeyRotationRequest, GetKeyRotationStatusRequest
from hsmkms.service.operator.sweeper import StepOutcome

YEAR = timedelta(days=365)


def test_trusted_clock(site: Site) -> None:
    """After dates of a far future were written, maintenance holds until the operator trusts the clock."""
    clock = StoppedClock()
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        kms.enable_key_rotation(EnableKeyRotationRequest(key_id=key_id))
        clock.now = START + 50 * YEAR
        new_key(kms)
        clock.now = START + YEAR
        report = kms.operator.maintain()
        assert [step.outcome for step in report.steps] == [StepOutcome.HELD]
        assert "--trust-clock" in (report.doubt or "")
        kms.operator.trust_clock()
        assert [step.outcome for step in kms.operator.maintain().steps] == [StepOutcome.DONE]


def test_set_back_after_trust(site: Site) -> None:
    """The operator's word holds for that instant: a clock set back behind it is in doubt again."""
    clock = StoppedClock()
    with site.open(clock) as kms:
        clock.now = START + 50 * YEAR
        new_key(kms)
        clock.now = START + YEAR
        kms.operator.trust_clock()
        assert kms.operator.maintain().doubt is None
        clock.advance(minutes=-6)
        assert kms.operator.maintain().doubt is not None


def test_rotation_of_the_future_puts_none_off(site: Site) -> None:
    """A rotation that was dated by a clock set far ahead does not keep the key from rotating when it is due."""
    clock = StoppedClock()
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        kms.enable_key_rotation(EnableKeyRotationRequest(key_id=key_id))
        clock.now = START + 50 * YEAR
        assert [step.outcome for step in kms.operator.maintain().steps] == [StepOutcome.DONE]
        clock.now = START + timedelta(days=1)
        kms.operator.trust_clock()
        shown = kms.get_key_rotation_status(GetKeyRotationStatusRequest(key_id=key_id))
        assert shown.next_rotation_date == START + YEAR
        clock.now = START + YEAR
        assert [step.outcome for step in kms.operator.maintain().steps] == [StepOutcome.DONE]
