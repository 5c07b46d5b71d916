"""Rules for service-managed keys: ``alias/aws/NAME``.

Every principal of the account may use them through their alias, and none may manage them. AWS does this by a key policy
that no user can change, so a forbidden operation is an AccessDeniedException.
Source: AWS KMS Developer Guide, "AWS managed keys".
"""

import re
from collections.abc import Collection
from typing import Final

from hsmkms.errors import AccessDeniedException
from hsmkms.model.caller import Caller
from hsmkms.model.enums import KeyManager, Operation
from hsmkms.model.records import KeyRecord
from hsmkms.rules.aliases import RESERVED_PREFIX

USABLE: Final = frozenset(
    {
        Operation.DECRYPT,
        Operation.DESCRIBE_KEY,
        Operation.ENCRYPT,
        Operation.GENERATE_DATA_KEY,
        Operation.GENERATE_DATA_KEY_PAIR,
        Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT,
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        Operation.GET_KEY_LAST_USAGE,
        Operation.GET_KEY_POLICY,
        Operation.GET_KEY_ROTATION_STATUS,
        Operation.LIST_ALIASES,
        Operation.LIST_GRANTS,
        Operation.LIST_KEY_POLICIES,
        Operation.LIST_KEY_ROTATIONS,
        Operation.LIST_RESOURCE_TAGS,
        Operation.RE_ENCRYPT,
    }
)
"""Operations that users may call on a service-managed key."""


EVERY: Final = "*"
"""Wildcard in the configured services: every service name has a key, as in an AWS account."""

_match_service: Final = re.compile(r"[a-z][a-z0-9-]{0,99}").fullmatch


def alias_of(service: str) -> str:
    """Return the alias of a service's key."""
    return RESERVED_PREFIX + service


def service_of(alias_name: str) -> str | None:
    """Return the service that an alias belongs to, or None for a user's alias."""
    return alias_name.removeprefix(RESERVED_PREFIX) if alias_name.startswith(RESERVED_PREFIX) else None


def has_key(alias_name: str, services: Collection[str]) -> bool:
    """Return True if an alias belongs to a service with a key, created at first use. ``services``: as configured."""
    service = service_of(alias_name)
    if service is None:
        return False
    return service in services or (EVERY in services and _match_service(service) is not None)


def check_use(operation: Operation, key: KeyRecord, caller: Caller) -> None:
    """Raise AccessDeniedException for operations that manage a service's key."""
    if key.manager is KeyManager.AWS and operation not in USABLE:
        raise denied(operation, key.arn, caller)


def denied(operation: Operation, arn: str, caller: Caller) -> AccessDeniedException:
    """Return the error for an attempt to manage a service's key or its alias."""
    return AccessDeniedException(
        f"User: {caller.principal} is not authorized to perform: kms:{operation} on resource: {arn}: it belongs to a "
        "service, and only hsmkms itself manages it. For a key of your own use create-key."
    )
