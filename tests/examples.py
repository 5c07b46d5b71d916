"""Profiles of hypothesis: few examples, always the same, in the suite; many new ones with ``long``."""

from typing import Final

from hypothesis import HealthCheck, settings

SUITE: Final = "suite"
LONG: Final = "long"


def register_profiles() -> None:
    """Register both profiles and load the suite's; pytest's option ``--hypothesis-profile`` chooses the other."""
    for name, examples in ((SUITE, 25), (LONG, 400)):
        settings.register_profile(
            name,
            deadline=None,  # no test depends on how fast the machine is
            max_examples=examples,
            derandomize=name == SUITE,  # the suite fails for what changed, not for what it draws
            suppress_health_check=[HealthCheck.too_slow],
        )
    settings.load_profile(SUITE)


def count(suite: int, long: int) -> int:
    """Return how many examples a test runs that takes longer than most."""
    return long if settings.get_current_profile_name() == LONG else suite
