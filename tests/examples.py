"""How many examples hypothesis runs: few in the suite, many with ``--hypothesis-profile long``."""

from typing import Final

from hypothesis import HealthCheck, settings

SUITE: Final = "suite"
LONG: Final = "long"


def register_profiles() -> None:
    """Register both profiles and load the suite's; pytest's option ``--hypothesis-profile`` chooses the other."""
    for name, examples in ((SUITE, 25), (LONG, 400)):
        # No test depends on how fast the machine is.
        settings.register_profile(
            name, deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow]
        )
    settings.load_profile(SUITE)


def count(suite: int, long: int) -> int:
    """Return how many examples a test runs that takes longer than most."""
    return long if settings.get_current_profile_name() == LONG else suite
