"""Whether the token is quick enough to be asked on the event loop.

A soft token or a card answers an encryption in tens of microseconds: a thread would cost more than it gives. A network
HSM takes milliseconds, in which the loop must serve others. So the time that quick operations take is averaged, and
the answer changes with it.
"""

from typing import Final

from hsmkms.model.enums import Operation

SLOW_SECONDS: Final = 0.001
QUICK_SECONDS: Final = 0.0004
_WEIGHT: Final = 0.05

QUICK: Final = frozenset(
    {
        Operation.DECRYPT,
        Operation.DESCRIBE_KEY,
        Operation.ENCRYPT,
        Operation.GENERATE_DATA_KEY,
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        Operation.GENERATE_MAC,
        Operation.GENERATE_RANDOM,
        Operation.GET_KEY_ROTATION_STATUS,
        Operation.RE_ENCRYPT,
        Operation.VERIFY_MAC,
    }
)
"""Operations that ask the token once or twice, and write nothing but their count."""


class Pace:
    """The average of what quick operations took lately, in seconds."""

    def __init__(self) -> None:
        self.average = 0.0
        self.slow = False

    def inline(self, operation: str | None) -> bool:
        """True if the operation may be done on the event loop just now."""
        return not self.slow and operation in QUICK

    def counts(self, operation: str | None) -> bool:
        """True if the operation is one whose time is averaged."""
        return operation in QUICK

    def note(self, seconds: float) -> None:
        """Count a quick operation. One that took very long makes the token slow at once."""
        self.average += (seconds - self.average) * _WEIGHT
        if self.average > SLOW_SECONDS:
            self.slow = True
        elif self.average < QUICK_SECONDS:
            self.slow = False
