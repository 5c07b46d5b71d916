"""DescribeCustomKeyStores: there are none. Source: AWS KMS API Reference."""

import json
from typing import Any

import pytest
from service_sites import REGION

from hsmkms.errors import (
    AccessDeniedException,
    CustomKeyStoreNotFoundException,
    HsmKmsError,
    InvalidMarkerException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.custom_key_stores import DescribeCustomKeyStoresRequest
from hsmkms.model.enums import Operation
from hsmkms.rules import paging
from hsmkms.service.audit import reading as audit_reading


def test_there_are_none(kms: Kms) -> None:
    """The list is empty, and has no further page."""
    for members in ({}, {"limit": 1}, {"limit": 1000}):
        stores = kms.describe_custom_key_stores(DescribeCustomKeyStoresRequest(**members))
        assert (stores.custom_key_stores, stores.truncated, stores.next_marker) == ([], False, None)


@pytest.mark.parametrize(
    ("members", "error", "words"),
    [
        ({"custom_key_store_id": "cks-1234567890abcdef0"}, CustomKeyStoreNotFoundException, "cks-1234567890abcdef0"),
        ({"custom_key_store_name": "ours"}, CustomKeyStoreNotFoundException, "'ours' does not exist"),
        ({"custom_key_store_id": "cks-1", "custom_key_store_name": "ours"}, ValidationException, "not by both"),
        ({"custom_key_store_id": ""}, ValidationException, "'customKeyStoreId'"),
        ({"custom_key_store_id": "c" * 65}, ValidationException, "'customKeyStoreId'"),
        ({"custom_key_store_name": "n" * 257}, ValidationException, "'customKeyStoreName'"),
        ({"limit": 0}, ValidationException, "'limit'"),
        ({"limit": 1001}, ValidationException, "'limit'"),
        ({"marker": "nonsense"}, InvalidMarkerException, "marker"),
        ({"marker": paging.encode_marker(Operation.LIST_KEYS, "a")}, InvalidMarkerException, "marker"),
    ],
)
def test_refusals(kms: Kms, members: dict[str, Any], error: type[HsmKmsError], words: str) -> None:
    """A store that is named does not exist; members are checked as AWS checks them."""
    with pytest.raises(error, match=words):
        kms.describe_custom_key_stores(DescribeCustomKeyStoresRequest(**members))


def test_permission_and_record(kms: Kms) -> None:
    """Users need kms:DescribeCustomKeyStores, and every request is in the audit log."""
    kms.operator.credentials.create_user("alice")
    alice = kms.caller(REGION, "alice")
    action = "kms:DescribeCustomKeyStores"
    with pytest.raises(AccessDeniedException, match=action):
        kms.describe_custom_key_stores(DescribeCustomKeyStoresRequest(custom_key_store_name="ours"), alice)
    assert kms.operator.simulate("alice", action).decision == "implicitDeny"
    statement = {"Effect": "Allow", "Action": action, "Resource": "*"}
    kms.operator.identities.put_user_policy(
        "alice", "p", json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    assert kms.describe_custom_key_stores(DescribeCustomKeyStoresRequest(limit=7), alice).custom_key_stores == []
    assert kms.operator.simulate("alice", action).decision == "allowed"
    kms._core.audit.flush()
    asked = [
        record
        for record in audit_reading.tail(kms.operator.audit.folder, 20).records
        if record["eventName"] == "DescribeCustomKeyStores" and record["userIdentity"].get("userName") == "alice"
    ]
    assert [each.get("errorCode") for each in asked] == ["AccessDeniedException", None]
    assert (asked[1]["readOnly"], asked[1]["requestParameters"]) == (True, {"limit": 7})
