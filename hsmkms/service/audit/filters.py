"""Select records of the audit log by their fields, and count what was looked at."""

from collections import Counter
from typing import Final

from msgspec import Struct, field

SUCCESS: Final = "success"
ERROR: Final = "error"
ROOT: Final = "root"
"""The account's root, among principals; the others are users, by name or ARN."""


class _Named(Struct):
    arn: str = field(name="ARN", default="")


class _Identity(Struct):
    kind: str = field(name="type", default="")
    arn: str = ""
    user_name: str = field(name="userName", default="")
    invoked_by: str = field(name="invokedBy", default="")


class Fields(Struct):
    """The searchable fields of a record."""

    event_time: str = field(name="eventTime", default="")
    event_name: str = field(name="eventName", default="")
    event_id: str = field(name="eventID", default="")
    request_id: str = field(name="requestID", default="")
    error_code: str = field(name="errorCode", default="")
    identity: _Identity = field(name="userIdentity", default_factory=_Identity)
    resources: list[_Named] = []

    @property
    def principal(self) -> str:
        """The user's name, ``root``, or who else is recorded as the caller."""
        who = self.identity
        return who.user_name or (ROOT if who.kind == "Root" else who.invoked_by or who.arn or who.kind)

    @property
    def keys(self) -> list[str]:
        """The ARNs of the keys and aliases that the request concerned."""
        return [each.arn for each in self.resources]


class Wanted(Struct, frozen=True, kw_only=True):
    """Filter of records.

    Times as in the records (2026-01-02T03:04:05Z). ``key``: the ARN of a key or alias, or its last part (``key/ID``).
    ``principal``: a user's name or ARN, ``root``, or another caller as recorded. ``outcome``: ``success``, ``error``,
    or an error code.
    """

    start_time: str | None = None
    end_time: str | None = None
    event_name: str | None = None
    key: str | None = None
    principal: str | None = None
    outcome: str | None = None

    def fits(self, fields: Fields) -> bool:
        """Return True for a record that matches."""
        return (
            (self.start_time is None or fields.event_time >= self.start_time)
            and (self.end_time is None or fields.event_time < self.end_time)
            and (self.event_name is None or fields.event_name == self.event_name)
            and (self.key is None or any(_names(arn, self.key) for arn in fields.keys))
            and (self.principal is None or self.principal in (fields.principal, fields.identity.arn))
            and (self.outcome is None or _ended(fields, self.outcome))
        )


def _names(arn: str, key: str) -> bool:
    return arn == key or arn.endswith(f":{key}")


def _ended(fields: Fields, outcome: str) -> bool:
    if outcome in (SUCCESS, ERROR):
        return bool(fields.error_code) == (outcome == ERROR)
    return fields.error_code == outcome


class Seen(Struct):
    """What a reader of the log has looked at: how many records, and which values their fields have."""

    records: int = 0
    events: Counter[str] = field(default_factory=Counter)
    principals: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def note(self, fields: Fields) -> None:
        """Count a record."""
        self.records += 1
        self.events[fields.event_name] += 1
        self.principals[fields.principal] += 1
        if fields.error_code:
            self.errors[fields.error_code] += 1
