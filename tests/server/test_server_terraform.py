"""What Terraform's provider hashicorp/aws asks about keys, aliases and grants, with AWS's answers.

The provider itself is in no registry that the tests can reach (hsmkms/guide/clients.md), so its calls are made here in
its order, as the resources aws_kms_key, aws_kms_alias and aws_kms_grant make them (internal/service/kms, read on
2026-11-30).
"""

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hsmkms.testing import Endpoint

ACCOUNT = "000000000000"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/terraform"
KINDS = [
    ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"),
    ("RSA_2048", "SIGN_VERIFY"),
    ("ECC_NIST_P256", "SIGN_VERIFY"),
    ("ECC_SECG_P256K1", "SIGN_VERIFY"),
    ("HMAC_256", "GENERATE_VERIFY_MAC"),
]
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "root",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            "Action": "kms:*",
            "Resource": "*",
        },
        {"Sid": "use", "Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "kms:Encrypt", "Resource": "*"},
    ],
}


def answer(request_body: dict[str, Any]) -> dict[str, Any]:
    """The members of an answer, without what botocore adds."""
    return {name: value for name, value in request_body.items() if name != "ResponseMetadata"}


def create_key(kms: Any, **more: object) -> dict[str, Any]:  # noqa: ANN401 - boto3 makes its classes at run time
    """The metadata of a key that is made as aws_kms_key makes it."""
    usual = {"BypassPolicyLockoutSafetyCheck": False, "Description": "made by Terraform", "Policy": json.dumps(POLICY)}
    metadata: dict[str, Any] = kms.create_key(**usual, **more)["KeyMetadata"]
    return metadata


@pytest.mark.parametrize(("spec", "usage"), KINDS)
def test_keys_of_every_kind(kms_client: Any, spec: str, usage: str) -> None:  # noqa: ANN401
    """A key of any spec is created, read as a refresh reads it, and deleted: its rotation is reported as off."""
    key = create_key(kms_client, KeySpec=spec, KeyUsage=usage, Tags=[{"TagKey": "team", "TagValue": "payments"}])
    name = key["KeyId"]
    assert kms_client.describe_key(KeyId=name)["KeyMetadata"] == key
    assert answer(kms_client.get_key_policy(KeyId=name, PolicyName="default"))["PolicyName"] == "default"
    assert json.loads(kms_client.get_key_policy(KeyId=name, PolicyName="default")["Policy"]) == POLICY
    rotation = answer(kms_client.get_key_rotation_status(KeyId=name))
    assert rotation == {"KeyId": key["Arn"], "KeyRotationEnabled": False}
    tags = answer(kms_client.list_resource_tags(KeyId=name))
    assert tags == {"Tags": [{"TagKey": "team", "TagValue": "payments"}], "Truncated": False}
    if spec != "SYMMETRIC_DEFAULT":  # `enable_key_rotation = true` is refused as AWS refuses it
        with pytest.raises(ClientError) as refused:
            kms_client.enable_key_rotation(KeyId=name)
        assert refused.value.response["Error"]["Code"] == "UnsupportedOperationException"

    gone = answer(kms_client.schedule_key_deletion(KeyId=name, PendingWindowInDays=7))
    assert (gone["KeyId"], gone["KeyState"], gone["PendingWindowInDays"]) == (key["Arn"], "PendingDeletion", 7)
    assert kms_client.describe_key(KeyId=name)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    with pytest.raises(ClientError) as refused:
        kms_client.schedule_key_deletion(KeyId=name, PendingWindowInDays=7)
    # The provider looks for these words to accept that a key has already been deleted.
    assert refused.value.response["Error"] == {
        "Code": "KMSInvalidStateException",
        "Message": f"{key['Arn']} is pending deletion (or pending replica deletion).",
    }


def test_changes_of_a_key(kms_client: Any) -> None:  # noqa: ANN401
    """What a changed aws_kms_key does: rotation with a period, description, policy, and disabled."""
    name = create_key(kms_client)["KeyId"]
    kms_client.enable_key_rotation(KeyId=name, RotationPeriodInDays=180)
    rotation = answer(kms_client.get_key_rotation_status(KeyId=name))
    assert rotation.pop("NextRotationDate").timestamp() > time.time()
    assert rotation.pop("KeyId").endswith(f":key/{name}")
    assert rotation == {"KeyRotationEnabled": True, "RotationPeriodInDays": 180}
    kms_client.disable_key_rotation(KeyId=name)
    assert not kms_client.get_key_rotation_status(KeyId=name)["KeyRotationEnabled"]
    kms_client.update_key_description(KeyId=name, Description="changed")
    changed = {**POLICY, "Statement": POLICY["Statement"][:1]}
    kms_client.put_key_policy(KeyId=name, PolicyName="default", Policy=json.dumps(changed))
    assert json.loads(kms_client.get_key_policy(KeyId=name, PolicyName="default")["Policy"]) == changed
    kms_client.disable_key(KeyId=name)
    metadata = kms_client.describe_key(KeyId=name)["KeyMetadata"]
    assert (metadata["Description"], metadata["KeyState"], metadata["Enabled"]) == ("changed", "Disabled", False)
    assert not kms_client.get_key_rotation_status(KeyId=name)["KeyRotationEnabled"]  # a refresh of a disabled key


@pytest.mark.parametrize("retire", [True, False])
@pytest.mark.parametrize("named_by", ["KeyId", "Arn"])
def test_grants(kms_client: Any, *, retire: bool, named_by: str) -> None:  # noqa: ANN401
    """aws_kms_grant is made, listed, and retired (`retire_on_delete`) or revoked, by id or ARN of the key."""
    key = create_key(kms_client)
    made = kms_client.create_grant(
        KeyId=key[named_by],
        GranteePrincipal=ROLE,
        Operations=["Decrypt", "Encrypt"],
        Name="reader",
        RetiringPrincipal=ROLE,
    )
    (listed,) = kms_client.list_grants(KeyId=key[named_by], Limit=100)["Grants"]
    assert listed.pop("CreationDate")
    assert listed == {
        "KeyId": key["Arn"],
        "GrantId": made["GrantId"],
        "Name": "reader",
        "GranteePrincipal": ROLE,
        "RetiringPrincipal": ROLE,
        "IssuingAccount": f"arn:aws:iam::{ACCOUNT}:root",
        "Operations": ["Decrypt", "Encrypt"],
    }
    delete = kms_client.retire_grant if retire else kms_client.revoke_grant
    assert answer(delete(KeyId=key[named_by], GrantId=made["GrantId"])) == {}
    assert kms_client.list_grants(KeyId=key[named_by], Limit=100)["Grants"] == []
    with pytest.raises(ClientError) as refused:
        delete(KeyId=key[named_by], GrantId=made["GrantId"])
    assert refused.value.response["Error"]["Code"] == "NotFoundException"  # accepted: it has already been deleted


@pytest.mark.parametrize("service", ["s3", "ebs"])
def test_aliases_of_services(hsmkms_endpoint: Endpoint, service: str) -> None:
    """The data sources aws_kms_alias and aws_kms_key find the key of a service by `alias/aws/NAME`."""
    kms = hsmkms_endpoint.client("eu-central-1")
    alias = f"alias/aws/{service}"
    metadata = kms.describe_key(KeyId=alias)["KeyMetadata"]
    assert (metadata["KeyManager"], metadata["KeyState"]) == ("AWS", "Enabled")
    pages = kms.get_paginator("list_aliases").paginate()
    (listed,) = [each for page in pages for each in page["Aliases"] if each["AliasName"] == alias]
    assert listed["AliasArn"] == f"arn:aws:kms:eu-central-1:{ACCOUNT}:{alias}"
    assert listed["TargetKeyId"] == metadata["KeyId"]


def test_aliases(kms_client: Any) -> None:  # noqa: ANN401
    """aws_kms_alias is made, read from the list, pointed at another key, and deleted."""
    first, second = (create_key(kms_client)["KeyId"] for _ in range(2))
    name = "alias/made-by-terraform"
    kms_client.create_alias(AliasName=name, TargetKeyId=first)
    kms_client.update_alias(AliasName=name, TargetKeyId=second)
    pages = kms_client.get_paginator("list_aliases").paginate()
    targets = [alias["TargetKeyId"] for page in pages for alias in page["Aliases"] if alias["AliasName"] == name]
    assert targets == [second]
    kms_client.delete_alias(AliasName=name)
    with pytest.raises(ClientError) as refused:
        kms_client.delete_alias(AliasName=name)
    assert refused.value.response["Error"] == {
        "Code": "NotFoundException",
        "Message": f"Alias arn:aws:kms:us-east-1:{ACCOUNT}:{name} is not found.",
    }
