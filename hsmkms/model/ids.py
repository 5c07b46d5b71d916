"""Key ids, ARNs, and the four forms of a KeyId in a request.

A key id is a UUID in lower case, or ``mrk-`` and 32 hex digits for a multi-Region key; both are 36 characters.
Source: AWS KMS Developer Guide, "Key identifiers (KeyId)".
"""

import base64
import hashlib
import re
import secrets
import uuid
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Final

from msgspec import Struct

from hsmkms.errors import InvalidArnException, NotFoundException

PARTITION: Final = "aws"
ALIAS_PREFIX: Final = "alias/"
MULTI_REGION_PREFIX: Final = "mrk-"
USER_ID_PREFIX: Final = "AIDA"
ROOT_PATH: Final = "/"
"""The default path of a user."""

_USER_ID_BYTES: Final = 11  # 17 characters of base32

_match_key_id: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32}"
).fullmatch
_match_alias_name: Final = re.compile(r"alias/[a-zA-Z0-9/_-]{1,250}").fullmatch
_match_user_id: Final = re.compile(r"AIDA[A-Z2-7]{17}").fullmatch
_match_arn: Final = re.compile(
    rf"arn:{PARTITION}:kms:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{{12}}):(?:key/(?P<key>.+)|(?P<alias>alias/.+))",
    re.DOTALL,
).fullmatch


class RefKind(Enum):
    """Whether a ``KeyRef`` is a key id or an alias."""

    KEY = "key"
    ALIAS = "alias"


class KeyRef(Struct, frozen=True):
    """A key in a request: ``name`` is a bare key id, or an alias name with its prefix."""

    kind: RefKind
    region: str
    name: str


_KEY: Final = RefKind.KEY
_ALIAS: Final = RefKind.ALIAS


def new_key_id(*, multi_region: bool) -> str:
    """Return a new random key id."""
    fresh = uuid.uuid4()
    return f"{MULTI_REGION_PREFIX}{fresh.hex}" if multi_region else str(fresh)


def is_multi_region(key_id: str) -> bool:
    """Return True if a key id is one of a multi-Region key."""
    return key_id.startswith(MULTI_REGION_PREFIX)


def is_key_id(text: str) -> bool:
    """Return True if the text has the form of a key id, whether or not the key exists."""
    return _match_key_id(text) is not None


def is_alias_name(text: str) -> bool:
    """Return True if the text has the form of an alias name, with its prefix: at most 256 characters in all."""
    return _match_alias_name(text) is not None


def key_arn(account: str, region: str, key_id: str) -> str:
    """Return the ARN of a key."""
    return f"arn:{PARTITION}:kms:{region}:{account}:key/{key_id}"


def alias_arn(account: str, region: str, alias_name: str) -> str:
    """Return the ARN of an alias; ``alias_name`` has its prefix."""
    return f"arn:{PARTITION}:kms:{region}:{account}:{alias_name}"


def new_user_id() -> str:
    """Return a new random id for a user, in IAM's format."""
    return _user_id(secrets.token_bytes(_USER_ID_BYTES))


def derived_user_id(name: str, created_at: datetime) -> str:
    """Return the unique id of a user created before ids were stored."""
    return _user_id(hashlib.sha256(f"{created_at.isoformat()} {name}".encode()).digest())


def is_user_id(text: str) -> bool:
    """Return True if the text has the form of a user's unique id, whether or not the user exists."""
    return _match_user_id(text) is not None


def _user_id(data: bytes) -> str:
    return USER_ID_PREFIX + base64.b32encode(data).decode("ascii")[:17]


def user_arn(account: str, name: str, path: str = ROOT_PATH) -> str:
    """Return the ARN of a user of the account. ``path``: begins and ends with a slash; it is not part of the name."""
    return f"arn:{PARTITION}:iam::{account}:user{path}{name}"


def group_arn(account: str, name: str) -> str:
    """Return the ARN of a group of users."""
    return f"arn:{PARTITION}:iam::{account}:group/{name}"


def root_arn(account: str) -> str:
    """Return the ARN of the account's root, the principal that stands for the account."""
    return f"arn:{PARTITION}:iam::{account}:root"


def unknown(ref: KeyRef, account: str) -> NotFoundException:
    """Return the error for a well-formed name of a missing key or alias; AWS shows the ARN even for a bare id."""
    if ref.kind is _KEY:
        return NotFoundException(f"Key '{key_arn(account, ref.region, ref.name)}' does not exist")
    return NotFoundException(f"Alias {alias_arn(account, ref.region, ref.name)} is not found.")


@lru_cache(maxsize=4096)
def parse_key_ref(value: str, *, account: str, region: str, aliases: bool) -> KeyRef:
    """Parse a KeyId: key id or key ARN, and with ``aliases`` also alias name or alias ARN.

    Raises NotFoundException for other names, regions and accounts, and InvalidArnException for a malformed ARN.
    """
    if _match_key_id(value):
        return KeyRef(_KEY, region, value)
    if value.startswith("arn:"):
        return _parse_arn(value, account, region, aliases=aliases)
    if _match_alias_name(value):
        if not aliases:
            raise _no_alias_here(value)
        return KeyRef(_ALIAS, region, value)
    raise _invalid_key_id(value)


def _parse_arn(value: str, account: str, region: str, *, aliases: bool) -> KeyRef:
    match = _match_arn(value)
    if match is None:
        raise InvalidArnException(
            f"Invalid arn '{value}': expected arn:{PARTITION}:kms:<region>:<account>:key/<key id>"
        )
    arn_region, arn_account, key_id, alias_name = match.groups()
    if arn_region != region:
        raise NotFoundException(f"Invalid arn {arn_region}")
    if key_id is not None and _match_key_id(key_id):
        ref = KeyRef(_KEY, region, key_id)
    elif alias_name is not None and _match_alias_name(alias_name):
        if not aliases:
            raise _no_alias_here(value)
        ref = KeyRef(_ALIAS, region, alias_name)
    else:
        raise _invalid_key_id(value)
    if arn_account != account:
        raise unknown(ref, arn_account)
    return ref


def _invalid_key_id(value: str) -> NotFoundException:
    return NotFoundException(f"Invalid keyId '{value}'")


def _no_alias_here(value: str) -> NotFoundException:
    return NotFoundException(f"Invalid keyId '{value}': give the key id or key ARN (DescribeKey shows them)")
