"""Define the input of an access decision: caller, action, key, and all values that conditions may need."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from hsmkms.model.caller import Caller
from hsmkms.model.enums import Operation
from hsmkms.model.records import GrantRecord, KeyRecord


class Identity(Struct, frozen=True, kw_only=True):
    """The caller: a user of the account with their tags, or without a ``user_name`` the account's root.

    ``user_id``: the unique id, which a later user of the same name does not have; the root's is the account. None for a
    user who does not exist (any more).
    """

    arn: str
    user_name: str | None
    user_id: str | None
    tags: Mapping[str, str]


class KeyView(Protocol):
    """A key as conditions see it; data that is not in its record is loaded on demand."""

    @property
    def record(self) -> KeyRecord:
        """The key's record."""

    def tags(self) -> Mapping[str, str]:
        """Return its tags."""

    def aliases(self) -> Sequence[str]:
        """Return the names of its aliases, each with its prefix."""


def no_source() -> str | None:
    """Return no source key, for operations other than ReEncrypt."""
    return None


def not_tracked() -> int | None:
    """Return no days, for operations that do not disable or delete a key."""
    return None


class Question(Struct, kw_only=True):
    """Input of a decision: whether ``identity`` may do ``action`` (``kms:Encrypt``) on ``resource``.

    ``resource``: a key's or an alias's ARN, or ``*`` if the operation is not about a key. ``key``: the key; None if the
    operation is not about one, or the named one does not exist (``about_key`` distinguishes the two). ``new_key``: the
    replica that ReplicateKey is to create. ``before``: the ARNs of keys that this request was authorised for already.
    ``source_key_id``: looks up the key id of ReEncrypt's source ciphertext, None if there is no such key.
    ``days_without_use``: looks up how many whole days ago the key was last used, or created if it never was.
    ``retired``: the grant that RetireGrant is to delete. ``shown``: the resource as the error names it, never more than
    the caller has named.
    """

    caller: Caller
    identity: Identity
    operation: Operation
    request: Struct | None
    account: str
    instant: datetime
    action: str
    resource: str
    about_key: bool
    key: KeyView | None = None
    new_key: KeyRecord | None = None
    before: Sequence[str] = ()
    source_key_id: Callable[[], str | None] = no_source
    days_without_use: Callable[[], int | None] = not_tracked
    retired: GrantRecord | None = None
    shown: str = ""
