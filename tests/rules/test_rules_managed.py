"""Keys of services: their names, and what users may do with them."""

from collections.abc import Callable

import pytest

from hsmkms.errors import AccessDeniedException
from hsmkms.model.caller import local_root
from hsmkms.model.enums import KeyManager, Operation
from hsmkms.model.records import KeyRecord
from hsmkms.rules.iam.managed import USABLE, alias_of, check_use, denied, service_of
from hsmkms.rules.states import ADMISSION

ROOT = local_root("111122223333", "eu-central-1")

# AWS KMS Developer Guide, "AWS managed keys": all principals of the account use and view them, none manages them.
MANAGEMENT = """
CancelKeyDeletion CreateAlias CreateGrant DeleteAlias DeleteImportedKeyMaterial DisableKey DisableKeyRotation EnableKey
EnableKeyRotation GetParametersForImport ImportKeyMaterial PutKeyPolicy ReplicateKey RetireGrant RevokeGrant
RotateKeyOnDemand ScheduleKeyDeletion TagResource UntagResource UpdateAlias UpdateKeyDescription UpdatePrimaryRegion
"""
OF_OTHER_KEYS = "Decapsulate DeriveSharedSecret Encapsulate GenerateMac GetPublicKey Sign Verify VerifyMac"
"""Operations of asymmetric and HMAC keys, which no service has."""


@pytest.mark.parametrize("name", MANAGEMENT.split())
def test_management_is_denied(make_key: Callable[..., KeyRecord], name: str) -> None:
    """Each operation that manages a key is an AccessDeniedException that names caller, action and key."""
    key = make_key(manager=KeyManager.AWS)
    action = f"User: {ROOT.principal} is not authorized to perform: kms:{name} on resource: {key.arn}: "
    with pytest.raises(AccessDeniedException, match=action):
        check_use(Operation(name), key, ROOT)
    check_use(Operation(name), make_key(), ROOT)


@pytest.mark.parametrize("operation", sorted(USABLE))
def test_use_is_allowed(make_key: Callable[..., KeyRecord], operation: Operation) -> None:
    """A service-managed key allows operations that use or describe it, and refuses ScheduleKeyDeletion."""
    key = make_key(manager=KeyManager.AWS)
    check_use(operation, key, ROOT)
    with pytest.raises(AccessDeniedException):
        check_use(Operation.SCHEDULE_KEY_DELETION, key, ROOT)


def test_every_operation_is_decided() -> None:
    """Operations on a key are used, managed, or for other kinds of keys: none is both, none is left out."""
    assert sorted(map(str, ADMISSION)) == sorted([*map(str, USABLE), *MANAGEMENT.split(), *OF_OTHER_KEYS.split()])


@pytest.mark.parametrize(
    ("alias", "service"),
    [
        ("alias/aws/s3", "s3"),
        ("alias/aws/a/b", "a/b"),
        ("alias/aws/", ""),
        ("alias/aws", None),
        ("alias/awsome", None),
        ("alias/AWS/s3", None),
        ("aws/s3", None),
        ("alias/mine", None),
    ],
)
def test_names(alias: str, service: str | None) -> None:
    """A name belongs to a service by its prefix alone, letter by letter."""
    assert service_of(alias) == service
    if service is not None:
        assert alias_of(service) == alias


def test_denial_says_what_to_do() -> None:
    """The refusal has a sentence for people as well."""
    assert str(denied(Operation.UPDATE_ALIAS, "arn", ROOT)).endswith("For a key of your own use create-key.")
