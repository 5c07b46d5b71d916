"""CreateKey, DescribeKey, ListKeys, UpdateKeyDescription, EnableKey, DisableKey. Source: AWS KMS API Reference."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from service_sites import ACCOUNT, OTHER_REGION, REGION, new_alias, new_key, seal, unseal

from hsmkms.errors import (
    DisabledException,
    HsmKmsError,
    InvalidArnException,
    InvalidMarkerException,
    LimitExceededException,
    MalformedPolicyDocumentException,
    NotFoundException,
    TagException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.enums import Operation
from hsmkms.model.keys import (
    DescribeKeyRequest,
    DisableKeyRequest,
    EnableKeyRequest,
    KeyMetadata,
    ListKeysRequest,
    UpdateKeyDescriptionRequest,
)
from hsmkms.model.shapes import Tag
from hsmkms.model.tags import ListResourceTagsRequest, TagResourceRequest
from hsmkms.rules import paging
from hsmkms.store import keys as stored

UNKNOWN = "12345678-1234-4123-8123-123456789012"


def describe(kms: Kms, key_id: str) -> KeyMetadata:
    """The metadata of a key."""
    return kms.describe_key(DescribeKeyRequest(key_id=key_id)).key_metadata


def test_create_key_defaults(kms: Kms) -> None:
    """CreateKey without a member creates an enabled symmetric key, and returns the members of the API."""
    made = new_key(kms)
    assert uuid.UUID(made.key_id).version == 4
    assert made.arn == f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{made.key_id}"
    assert made.aws_account_id == ACCOUNT
    assert (made.key_state, made.enabled, made.description) == ("Enabled", True, "")
    assert (made.key_spec, made.customer_master_key_spec) == ("SYMMETRIC_DEFAULT", "SYMMETRIC_DEFAULT")
    assert (made.key_usage, made.origin, made.key_manager) == ("ENCRYPT_DECRYPT", "AWS_KMS", "CUSTOMER")
    assert made.encryption_algorithms == ["SYMMETRIC_DEFAULT"]
    assert made.multi_region is False
    assert (made.signing_algorithms, made.mac_algorithms, made.deletion_date, made.valid_to) == (None,) * 4
    assert re.fullmatch("[0-9a-f]{64}", made.current_key_material_id or "")


def test_created_key_is_described_alike(kms: Kms) -> None:
    """DescribeKey answers what CreateKey answered, to the microsecond of the date."""
    made = new_key(kms, description="photos")
    assert describe(kms, made.key_id) == made
    assert made.description == "photos"


@pytest.mark.parametrize(
    "members",
    [
        {"key_spec": "SYMMETRIC_DEFAULT"},
        {"customer_master_key_spec": "SYMMETRIC_DEFAULT"},
        {"key_usage": "ENCRYPT_DECRYPT"},
        {"origin": "AWS_KMS"},
        {"multi_region": False},
        {"bypass_policy_lockout_safety_check": True},
    ],
)
def test_create_key_takes_explicit_defaults(kms: Kms, members: dict[str, Any]) -> None:
    """Members that name what is made anyway change nothing."""
    made = new_key(kms, **members)
    assert (made.key_spec, made.key_usage, made.origin) == ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "AWS_KMS")


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ({"key_spec": "ML_DSA_44", "key_usage": "SIGN_VERIFY"}, UnsupportedOperationException, "ML_DSA_44"),
        (
            {"key_spec": "ML_KEM_768", "key_usage": "ENCAPSULATE_DECAPSULATE"},
            UnsupportedOperationException,
            "it has keys of SYMMETRIC_DEFAULT, RSA_2048",
        ),
        ({"key_spec": "HMAC_256", "key_usage": "SIGN_VERIFY"}, ValidationException, "not compatible"),
        ({"key_spec": "RSA_2048", "key_usage": "KEY_AGREEMENT"}, ValidationException, "not compatible"),
        ({"key_spec": "ECC_NIST_P256", "key_usage": "ENCRYPT_DECRYPT"}, ValidationException, "not compatible"),
        ({"key_spec": "ECC_SECG_P256K1", "key_usage": "KEY_AGREEMENT"}, ValidationException, "not compatible"),
        ({"key_spec": "RSA_2048"}, ValidationException, "KeyUsage"),
        ({"key_spec": "AES_1"}, ValidationException, "'keySpec'"),
        ({"key_usage": "NONE"}, ValidationException, "'keyUsage'"),
        ({"key_usage": "SIGN_VERIFY"}, ValidationException, "SIGN_VERIFY"),
        (
            {"key_spec": "SYMMETRIC_DEFAULT", "customer_master_key_spec": "SYMMETRIC_DEFAULT"},
            ValidationException,
            "CustomerMasterKeySpec",
        ),
        ({"origin": "AWS_CLOUDHSM"}, UnsupportedOperationException, "custom key stores"),
        ({"origin": "EXTERNAL_KEY_STORE"}, UnsupportedOperationException, "custom key stores"),
        ({"origin": "HERE"}, ValidationException, "'origin'"),
        ({"custom_key_store_id": "cks-1"}, ValidationException, "CustomKeyStoreId"),
        ({"xks_key_id": "one"}, ValidationException, "XksKeyId"),
        ({"multi_region": True, "origin": "AWS_CLOUDHSM"}, UnsupportedOperationException, "custom key stores"),
        ({"multi_region": True, "custom_key_store_id": "cks-1"}, ValidationException, "CustomKeyStoreId"),
        ({"description": "d" * 8193}, ValidationException, "'description'"),
        ({"policy": "not JSON"}, MalformedPolicyDocumentException, "JSON"),
        ({"policy": "{}"}, MalformedPolicyDocumentException, "Statement"),
        ({"policy": '{"Statement":[{"Sid":"' + "s" * 32_768 + '"}]}'}, LimitExceededException, "32768"),
        ({"policy": "p" * 131_073}, ValidationException, "'policy'"),
        ({"tags": [Tag(tag_key="a", tag_value="1"), Tag(tag_key="a", tag_value="2")]}, TagException, "Duplicate"),
        ({"tags": [Tag(tag_key=f"t{n}", tag_value="") for n in range(51)]}, TagException, "Too many"),
        ({"tags": [Tag(tag_key="AWS:x", tag_value="")]}, TagException, "reserved"),
        ({"tags": [Tag(tag_key="k" * 129, tag_value="")]}, ValidationException, "'tags.1.member.tagKey'"),
        ({"tags": [Tag(tag_key="k")]}, ValidationException, "'tags.1.member.tagValue'"),
    ],
)
def test_create_key_refusals(kms: Kms, members: dict[str, Any], error: type[HsmKmsError], message: str) -> None:
    """What cannot be made is refused with AWS's error, which names the member, and leaves no trace."""
    before = kms.list_keys(ListKeysRequest(limit=1000)).keys
    with pytest.raises(error) as caught:
        new_key(kms, **members)
    assert message in str(caught.value)
    assert kms.list_keys(ListKeysRequest(limit=1000)).keys == before
    assert kms.operator.find_differences() == []


def test_violations_are_reported_together(kms: Kms) -> None:
    """A request that breaks several constraints gets all of them in one error."""
    with pytest.raises(ValidationException) as caught:
        new_key(kms, key_spec="AES_1", key_usage="NONE", custom_key_store_id="c" * 65)
    message = str(caught.value)
    assert message.startswith("3 validation errors detected: ")
    assert all(path in message for path in ("'keySpec'", "'keyUsage'", "'customKeyStoreId'"))


def test_policy_and_tags_are_stored(kms: Kms) -> None:
    """The policy text is kept to the letter, and the tags are the key's from its first moment."""
    policy = '{ "Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"} }'
    made = new_key(kms, policy=policy, tags=[Tag(tag_key="team", tag_value="red"), Tag(tag_key="b", tag_value="")])
    with kms._core.store.reading() as conn:
        record = stored.fetch(conn, REGION, made.key_id)
    assert record is not None
    assert record.policy == policy
    tags = kms.list_resource_tags(ListResourceTagsRequest(key_id=made.key_id)).tags
    assert [(tag.tag_key, tag.tag_value) for tag in tags] == [("b", ""), ("team", "red")]


def test_default_policy_is_the_account(kms: Kms) -> None:
    """A key without a policy of its own trusts the account's root."""
    made = new_key(kms)
    with kms._core.store.reading() as conn:
        record = stored.fetch(conn, REGION, made.key_id)
    assert record is not None
    assert f"arn:aws:iam::{ACCOUNT}:root" in record.policy


def test_all_forms_of_a_key_id(kms: Kms) -> None:
    """Key id, key ARN, alias name and alias ARN all name the key."""
    made = new_key(kms)
    new_alias(kms, "alias/forms/one", made.key_id)
    forms = (made.key_id, made.arn, "alias/forms/one", f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/forms/one")
    assert [describe(kms, form) for form in forms] == [made] * 4


@pytest.mark.parametrize(
    ("key_id", "error", "message"),
    [
        (UNKNOWN, NotFoundException, f"Key 'arn:aws:kms:{REGION}:{ACCOUNT}:key/{UNKNOWN}' does not exist"),
        (
            f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{UNKNOWN}",
            NotFoundException,
            f"Key 'arn:aws:kms:{REGION}:{ACCOUNT}:key/{UNKNOWN}' does not exist",
        ),
        (
            f"arn:aws:kms:{REGION}:999999999999:key/{UNKNOWN}",
            NotFoundException,
            f"Key 'arn:aws:kms:{REGION}:999999999999:key/{UNKNOWN}' does not exist",
        ),
        ("nonsense", NotFoundException, "Invalid keyId 'nonsense'"),
        (UNKNOWN.upper().replace("1", "A"), NotFoundException, f"Invalid keyId '{UNKNOWN.upper().replace('1', 'A')}'"),
        (f"arn:aws:kms:us-west-2:{ACCOUNT}:key/{UNKNOWN}", NotFoundException, "Invalid arn us-west-2"),
        (f"arn:aws:kms:{OTHER_REGION}:{ACCOUNT}:key/{UNKNOWN}", NotFoundException, f"Invalid arn {OTHER_REGION}"),
        (
            "alias/nowhere",
            NotFoundException,
            f"Alias arn:aws:kms:{REGION}:{ACCOUNT}:alias/nowhere is not found.",
        ),
    ],
)
def test_lookup_failures(kms: Kms, key_id: str, error: type[HsmKmsError], message: str) -> None:
    """What names no key here is refused in AWS's words."""
    with pytest.raises(error) as caught:
        describe(kms, key_id)
    assert str(caught.value) == message


def test_malformed_arn(kms: Kms) -> None:
    """A malformed ARN gets another error than one that names nothing."""
    with pytest.raises(InvalidArnException, match="Invalid arn 'arn:aws:s3:::bucket'"):
        describe(kms, "arn:aws:s3:::bucket")


@pytest.mark.parametrize("key_id", ["", "k" * 2049, None])
def test_key_id_constraints(kms: Kms, key_id: str | None) -> None:
    """A KeyId that is empty, over-long or absent is a validation error of that member."""
    with pytest.raises(ValidationException, match="'keyId'"):
        describe(kms, key_id)


@pytest.mark.parametrize(
    "call",
    [
        lambda kms, key_id: kms.enable_key(EnableKeyRequest(key_id=key_id)),
        lambda kms, key_id: kms.disable_key(DisableKeyRequest(key_id=key_id)),
        lambda kms, key_id: kms.update_key_description(UpdateKeyDescriptionRequest(key_id=key_id, description="")),
        lambda kms, key_id: kms.tag_resource(TagResourceRequest(key_id=key_id, tags=[Tag(tag_key="a", tag_value="")])),
        lambda kms, key_id: kms.list_resource_tags(ListResourceTagsRequest(key_id=key_id)),
    ],
)
def test_management_takes_no_alias(kms: Kms, call: Callable[[Kms, str], Any]) -> None:
    """Operations that manage a key take its id or ARN, and read an alias as an invalid id."""
    made = new_key(kms)
    name = f"alias/managed-{made.key_id}"
    new_alias(kms, name, made.key_id)
    with pytest.raises(NotFoundException, match=f"Invalid keyId '{name}'"):
        call(kms, name)
    call(kms, made.arn)


def test_disable_and_enable(kms: Kms) -> None:
    """A disabled key shows so and refuses to work; enabled again it decrypts what it made before."""
    made = new_key(kms)
    sealed = seal(kms, made.key_id)
    kms.disable_key(DisableKeyRequest(key_id=made.key_id))
    shown = describe(kms, made.key_id)
    assert (shown.key_state, shown.enabled) == ("Disabled", False)
    with pytest.raises(DisabledException, match=f"{made.arn} is disabled."):
        unseal(kms, sealed)
    kms.disable_key(DisableKeyRequest(key_id=made.key_id))
    kms.enable_key(EnableKeyRequest(key_id=made.arn))
    kms.enable_key(EnableKeyRequest(key_id=made.arn))
    assert describe(kms, made.key_id) == made
    assert unseal(kms, sealed) == b"secret"


def test_update_description(kms: Kms) -> None:
    """The description is replaced, also by an empty one and on a disabled key."""
    made = new_key(kms, description="old")
    kms.disable_key(DisableKeyRequest(key_id=made.key_id))
    for text in ("new", "", "d" * 8192):
        kms.update_key_description(UpdateKeyDescriptionRequest(key_id=made.key_id, description=text))
        assert describe(kms, made.key_id).description == text


def test_update_description_needs_one(kms: Kms) -> None:
    """An absent description is no empty one."""
    made = new_key(kms, description="kept")
    with pytest.raises(ValidationException, match="'description'"):
        kms.update_key_description(UpdateKeyDescriptionRequest(key_id=made.key_id))
    assert describe(kms, made.key_id).description == "kept"


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_list_keys_pages(kms: Kms, limit: int) -> None:
    """Following the markers shows every key exactly once, in the order of the ids, with its ARN."""
    for _ in range(4):
        new_key(kms)
    whole = kms.list_keys(ListKeysRequest(limit=1000)).keys
    seen = []
    marker = None
    while True:
        page = kms.list_keys(ListKeysRequest(limit=limit, marker=marker))
        assert 0 < len(page.keys) <= limit
        seen += page.keys
        assert page.truncated == (page.next_marker is not None)
        if not page.truncated:
            break
        marker = page.next_marker
    assert seen == whole
    assert [each.key_id for each in seen] == sorted({each.key_id for each in seen})
    assert all(each.key_arn == f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{each.key_id}" for each in seen)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_list_keys_limits(kms: Kms, limit: int) -> None:
    """A page has 1 to 1,000 keys."""
    with pytest.raises(ValidationException, match=f"Value '{limit}' at 'limit'"):
        kms.list_keys(ListKeysRequest(limit=limit))


@pytest.mark.parametrize(
    "marker",
    [
        "nonsense",
        "AAAA",
        paging.encode_marker(Operation.LIST_ALIASES, UNKNOWN),
        paging.encode_marker(Operation.LIST_KEYS, UNKNOWN)[:-2] + "xx",
    ],
)
def test_list_keys_bad_markers(kms: Kms, marker: str) -> None:
    """A damaged marker, or one of another operation, is refused."""
    with pytest.raises(InvalidMarkerException):
        kms.list_keys(ListKeysRequest(marker=marker))


def test_regions_are_name_spaces(kms: Kms) -> None:
    """A key of one region is neither listed nor found nor usable in another, not even by its ARN."""
    there = kms.caller(OTHER_REGION)
    made = new_key(kms, there)
    assert made.arn == f"arn:aws:kms:{OTHER_REGION}:{ACCOUNT}:key/{made.key_id}"
    with pytest.raises(NotFoundException, match="does not exist"):
        describe(kms, made.key_id)
    with pytest.raises(NotFoundException, match=f"Invalid arn {OTHER_REGION}"):
        describe(kms, made.arn)
    assert made.key_id not in {key.key_id for key in kms.list_keys(ListKeysRequest(limit=1000)).keys}
    assert made.key_id in {key.key_id for key in kms.list_keys(ListKeysRequest(limit=1000), there).keys}
    assert kms.describe_key(DescribeKeyRequest(key_id=made.arn), there).key_metadata == made


def test_region_must_be_served(kms: Kms) -> None:
    """A region outside the configuration is refused by every operation, with the regions that there are."""
    with pytest.raises(ValidationException, match=f"us-west-2 is not served here; served: {REGION}, {OTHER_REGION}"):
        kms.list_keys(ListKeysRequest(), kms.caller("us-west-2"))


def test_attestation(kms: Kms) -> None:
    """The token reports the backing key as it was ordered: sensitive, never extractable, for encryption only."""
    made = new_key(kms)
    (attested,) = kms.operator.attest(made.key_id)
    assert (attested.present, attested.as_made, attested.deviations) == (True, True, [])
    assert attested.key_material_id == made.current_key_material_id
    expected = {"SENSITIVE": True, "EXTRACTABLE": False, "ENCRYPT": True, "DECRYPT": True, "WRAP": False}
    assert {name: attested.attributes[f"CKA_{name}"] for name in expected} == expected


def test_attestation_by_alias_and_region(kms: Kms) -> None:
    """The operator attests a key by any of its names, in the region that is asked for."""
    there = kms.caller(OTHER_REGION)
    made = new_key(kms, there)
    new_alias(kms, "alias/attested", made.key_id, there)
    (attested,) = kms.operator.attest("alias/attested", OTHER_REGION)
    assert attested.key_id == made.key_id
    with pytest.raises(NotFoundException):
        kms.operator.attest("alias/attested")
