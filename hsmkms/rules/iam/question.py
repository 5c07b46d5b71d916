"""What access is judged by: who wants to do what with which key, and everything that a condition may ask about it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from hsmkms.model.caller import Caller
from hsmkms.model.enums import Operation
from hsmkms.model.records import GrantRecord, KeyRecord


class Identity(Struct, frozen=True, kw_only=True):
    """Who calls: a user of the account with his tags, or without a ``user_name`` the account's root.

    ``user_id``: his unique id, which no later user of his name has; the root's is the account. None for a user who does
    not exist (any more).
    """

    arn: str
    user_name: str | None
    user_id: str | None
    tags: Mapping[str, str]


class KeyView(Protocol):
    """A key as conditions see it; what is not in its record is looked up when it is asked for."""

    @property
    def record(self) -> KeyRecord:
        """The key's record."""

    def tags(self) -> Mapping[str, str]:
        """Its tags."""

    def aliases(self) -> Sequence[str]:
        """The names of its aliases, each with its prefix."""


def no_source() -> str | None:
    """Where no ciphertext is to be decrypted."""
    return None


def not_tracked() -> int | None:
    """Tell no days, where no key is about to end."""
    return None


class Question(Struct, kw_only=True):
    """Whether ``identity`` may do ``action`` (``kms:Encrypt``) on ``resource``.

    ``resource``: a key's or an alias's ARN, or ``*`` where an operation is about no key. ``key``: the key; None where
    the operation is about none, and where the one that was named does not exist (``about_key`` tells which).
    ``new_key``: the replica that ReplicateKey is to make. ``before``: the ARNs of the keys that this request was judged
    for already. ``source_key_id``: looks up the key id of what ReEncrypt is to decrypt, None if there is no such key.
    ``days_without_use``: looks up how many whole days ago the key was last used, or made if it never was.
    ``retired``: the grant that RetireGrant is to end. ``shown``: the resource as a refusal names it, never more than
    the caller has said himself.
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
