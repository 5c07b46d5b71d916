"""Check alias names, and the keys to which an alias may be moved.

Source: AWS KMS Developer Guide, "Aliases in AWS KMS"; API Reference, CreateAlias and UpdateAlias.
"""

from typing import Final

from hsmkms.errors import (
    InvalidAliasNameException,
    KMSInvalidStateException,
    NotAuthorizedException,
    ValidationException,
)
from hsmkms.model.enums import KeyState
from hsmkms.model.ids import ALIAS_PREFIX, is_alias_name
from hsmkms.model.records import KeyRecord
from hsmkms.rules.specs import family

MAX_ALIASES_PER_KEY: Final = 50
RESERVED_PREFIX: Final = "alias/aws/"

_DELETION: Final = frozenset({KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION})


def check_new_name(name: str) -> None:
    """Raise if a user may not create an alias of that name."""
    if name.startswith(RESERVED_PREFIX):
        raise NotAuthorizedException(
            f'Alias names that begin with "{RESERVED_PREFIX}" are reserved for service-managed keys: {name}'
        )
    check_name(name)


def check_name(name: str) -> None:
    """Raise if no alias can have that name."""
    if not name.startswith(ALIAS_PREFIX):
        raise ValidationException(
            'Alias must start with the prefix "alias/". Please see '
            "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
        )
    if ":" in name:  # the model's pattern allows it, because of ARNs
        raise ValidationException(f"{name} contains invalid characters for an alias")
    if not is_alias_name(name):
        raise InvalidAliasNameException(
            f'{name} is not an alias name: after "alias/" come 1 to 250 letters, digits, "/", "_" or "-".'
        )


def check_target(key_id: str) -> None:
    """Raise ValidationException for a target that is an alias: its name or its ARN."""
    if key_id.startswith(ALIAS_PREFIX) or (key_id.startswith("arn:") and f":{ALIAS_PREFIX}" in key_id):
        raise ValidationException("Aliases must refer to keys. Not aliases")


def check_retarget(alias_arn: str, old: KeyRecord, new: KeyRecord) -> None:
    """Raise if the alias may not be moved from the old key to the new one: usage and type must be the same."""
    if new.state in _DELETION:
        raise KMSInvalidStateException(f"{new.arn} is pending deletion.")
    facts = (
        ("usage", old.usage, new.usage),
        ("type", family(old.spec), family(new.spec)),
    )
    for fact, before, after in facts:
        if before is not after:
            raise ValidationException(
                f"Alias {alias_arn} cannot be changed from a CMK with key {fact} {before} "
                f"to a CMK with key {fact} {after}"
            )
