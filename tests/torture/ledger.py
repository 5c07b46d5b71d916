"""What must be true of an installation, as its clients know it: what was answered, and what was not.

A call without a response leaves two possibilities; the next check decides, and from then on it must stay so.
"""

from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

from msgspec import Struct, field

ENABLED, DISABLED = "Enabled", "Disabled"
PENDING_IMPORT, PENDING_DELETION, GONE = "PendingImport", "PendingDeletion", "gone"
NEARLY: Final = timedelta(seconds=3)
"""So close to a ValidTo nothing is said about a key: requests take time."""

T = TypeVar("T")


class BreachError(Exception):
    """Something is not as it was promised."""


class Known(Generic[T]):
    """Something that has one of some possible values."""

    def __init__(self, value: T) -> None:
        self.values = [value]

    @property
    def certain(self) -> bool:
        """True if there is but one."""
        return len(self.values) == 1

    def is_now(self, value: T) -> None:
        """It was answered."""
        self.values = [value]

    def may_be(self, value: T) -> None:
        """It was not answered."""
        if value not in self.values:
            self.values.append(value)

    def must(self, value: T) -> bool:
        """True if it certainly is that."""
        return self.values == [value]

    def seen(self, value: T, what: str) -> None:
        """It was looked at: BreachError if it cannot be that; from now on it is that."""
        if value not in self.values:
            raise BreachError(f"{what} is {value!r}, but must be {' or '.join(map(repr, self.values))}")
        self.values = [value]


class Sealed(Struct, frozen=True):
    """An acknowledged ciphertext in base64, and its plaintext."""

    blob: str
    plaintext: bytes


class Key(Struct):
    """An acknowledged key."""

    key_id: str
    state: Known[str]
    material: bytes | None = None
    """Of a key whose material is imported: always the same bytes."""
    multi_region: bool = False
    valid_to: datetime | None = None
    """When the material may cease to be valid; None if it does not expire."""
    sealed: list[Sealed] = field(default_factory=list)
    rotations: int = 0
    unanswered_rotations: int = 0
    tags: dict[str, Known[str | None]] = field(default_factory=dict)
    grants: dict[str, Known[bool]] = field(default_factory=dict)
    """By name."""
    grant_ids: dict[str, str] = field(default_factory=dict)
    replicated: Known[bool] = field(default_factory=lambda: Known(False))

    def pass_to(self, now: datetime) -> None:
        """Take notice of the time."""
        if self.valid_to is None or now < self.valid_to - NEARLY:
            return
        over = {ENABLED, DISABLED} & set(self.state.values)
        if over and PENDING_IMPORT not in self.state.values:
            self.state.may_be(PENDING_IMPORT)
        if now > self.valid_to + NEARLY:
            self.state.values = [value for value in self.state.values if value not in over] or [PENDING_IMPORT]
            self.valid_to = None

    def end_waiting(self) -> None:
        """The waiting period of a deletion is over."""
        self.state.values = [GONE if value == PENDING_DELETION else value for value in self.state.values]

    def works(self, now: datetime) -> bool | None:
        """Whether it can be used; None if that is not certain."""
        self.pass_to(now)
        if self.state.must(ENABLED):
            return True
        return None if ENABLED in self.state.values else False


class Ledger(Struct):
    """What one client knows. Of one thread at a time."""

    name: str
    keys: list[Key] = field(default_factory=list)
    buried: list[Key] = field(default_factory=list)
    """Deleted keys, which must never work again."""
    aliases: dict[str, Known[str | None]] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    """Ciphertexts in base64 that were acknowledged since the last check."""
    answered: set[str] = field(default_factory=set)
    """Ids of requests that were answered since the last check of the audit log."""
    shared_tags: dict[str, Known[str | None]] = field(default_factory=dict)
    """Tags of this client on the key that all clients change."""
    calls: int = 0
    unanswered: int = 0
    again: int = 0
    """How often a call was made once more, because key or token were called unavailable."""

    def jump(self) -> None:
        """The clock went forward by more than any waiting period."""
        for key in self.keys:
            key.end_waiting()
