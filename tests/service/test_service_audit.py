"""The audit log as the service writes it: what is in a record, and what is not."""

import json
import os
import threading
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_sites import (
    ACCOUNT,
    OTHER_REGION,
    REGION,
    new_alias,
    new_key,
    seal,
    unseal,
)

from hsmkms.errors import HsmKmsError, NotFoundException, ValidationException
from hsmkms.kms import Kms
from hsmkms.model.caller import Caller
from hsmkms.model.crypto import DecryptRequest, EncryptRequest, GenerateDataKeyRequest
from hsmkms.model.importing import GetParametersForImportRequest, ImportKeyMaterialRequest
from hsmkms.model.keys import DescribeKeyRequest
from hsmkms.model.rotation import RotateKeyOnDemandRequest
from hsmkms.model.shapes import Tag
from hsmkms.service.audit import reading as audit_reading
from hsmkms.service.audit.filters import Wanted
from hsmkms.store import audit_files

ALICE = Caller(
    principal=f"arn:aws:iam::{ACCOUNT}:user/alice",
    region=OTHER_REGION,
    source_address="192.0.2.7",
    access_key_id="AKIAEXAMPLE",
    user_agent="aws-sdk-of-alice/1",
)


def records(kms: Kms) -> list[dict[str, Any]]:
    """All records, in the order in which they were written."""
    parsed = [
        json.loads(line)
        for parts in audit_files.segments(kms.operator.audit.folder).values()
        for part in parts
        for line in audit_files.lines(part.path)
    ]
    return [each["record"] for each in parsed]


def last(kms: Kms) -> dict[str, Any]:
    """The newest record."""
    return records(kms)[-1]


# -- what is in a record ------------------------------------------------------------------------------------------


def test_paths_of_users(kms: Kms) -> None:
    """A user's path is in the record of the user's creation, and in the user's ARN."""
    kms.operator.credentials.create_user("gina", "/division/")
    record = last(kms)
    assert (record["eventName"], record["requestParameters"]) == (
        "CreateUser",
        {"userName": "gina", "path": "/division/"},
    )
    with pytest.raises(HsmKmsError):
        new_key(kms, kms.caller(REGION, "gina"))
    who = last(kms)["userIdentity"]
    assert (who["arn"], who["userName"]) == (f"arn:aws:iam::{ACCOUNT}:user/division/gina", "gina")
    kms.operator.credentials.delete_user("gina")


def test_no_user_agent(kms: Kms) -> None:
    """The record of a client that names no user agent has none; that of a call in this process names the process."""
    key_id = new_key(kms).key_id
    for address, agent in (("192.0.2.7", ""), (None, f"pid {os.getpid()})")):
        kms.describe_key(
            DescribeKeyRequest(key_id=key_id), msgspec.structs.replace(kms.caller(REGION), source_address=address)
        )
        named = last(kms)["userAgent"]
        assert named.endswith(agent)
        assert bool(named) is (address is None)


def test_lone_surrogates(kms: Kms) -> None:
    """A request with text that has no UTF-8 is refused by name, and its record has the text as an escape sequence."""
    strange = "a\ud800"
    user_agent = msgspec.structs.replace(kms.caller(REGION), user_agent=strange)
    for caller in (None, user_agent, msgspec.structs.replace(user_agent, region=strange)):
        with pytest.raises(ValidationException):
            kms.describe_key(DescribeKeyRequest(key_id=strange), caller)
        assert last(kms)["requestParameters"] == {"keyId": "a\\ud800"}
    assert (last(kms)["userAgent"], last(kms)["awsRegion"]) == ("a\\ud800",) * 2
    kms.describe_key(DescribeKeyRequest(key_id=new_key(kms).key_id), user_agent)
    assert (last(kms)["eventName"], last(kms)["userAgent"]) == ("DescribeKey", "a\\ud800")
    with pytest.raises(ValidationException):
        kms.operator.credentials.create_user(strange)
    assert (last(kms)["eventName"], last(kms)["requestParameters"]["userName"]) == ("CreateUser", "a\\ud800")


def test_a_record_is_cloudtrails(kms: Kms) -> None:
    """A record of a cryptographic operation has every member that CloudTrail's has, with its names and values."""
    kms.operator.credentials.create_user("alice")
    everything = '{"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}'
    kms.operator.identities.put_user_policy("alice", "all", everything)
    key = new_key(kms, ALICE)
    seal(kms, key.key_id, b"secret", ALICE, encryption_context={"album": "2026"})
    record = last(kms)
    time, event_id = record.pop("eventTime"), record.pop("eventID")
    assert (len(time), time[-1], len(event_id)) == (20, "Z", 36)
    assert record == {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser",
            "principalId": "alice",
            "arn": ALICE.principal,
            "accountId": ACCOUNT,
            "accessKeyId": "AKIAEXAMPLE",
            "userName": "alice",
        },
        "eventSource": "kms.amazonaws.com",
        "eventName": "Encrypt",
        "awsRegion": OTHER_REGION,
        "sourceIPAddress": "192.0.2.7",
        "userAgent": "aws-sdk-of-alice/1",
        "requestParameters": {"keyId": key.key_id, "encryptionContext": {"album": "2026"}},
        "responseElements": None,
        "additionalEventData": {"keyMaterialId": key.current_key_material_id},
        "requestID": ALICE.request_id,
        "readOnly": True,
        "resources": [{"accountId": ACCOUNT, "type": "AWS::KMS::Key", "ARN": key.arn}],
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Management",
    }


def test_a_change_tells_its_answer(kms: Kms) -> None:
    """The record of a change has the response; the root is distinguished from users; local calls are marked as such."""
    key = new_key(kms, description="holiday")
    record = last(kms)
    assert (record["eventName"], record["readOnly"]) == ("CreateKey", False)
    assert record["responseElements"]["keyMetadata"]["arn"] == key.arn
    assert (record["userIdentity"]["type"], record["sourceIPAddress"]) == ("Root", "localhost")


def test_a_refusal_tells_its_error(kms: Kms) -> None:
    """A request that was refused has the code and the sentence, and what was asked for."""
    with pytest.raises(NotFoundException) as refused:
        kms.describe_key(DescribeKeyRequest(key_id="alias/nobody"))
    record = last(kms)
    assert (record["errorCode"], record["errorMessage"]) == ("NotFoundException", str(refused.value))
    assert record["requestParameters"] == {"keyId": "alias/nobody"}
    assert "additionalEventData" not in record


def test_rotation_and_acts_of_the_operator(kms: Kms) -> None:
    """A rotation is an event of its own, without a caller; an operator's act is one in IAM's or our own name."""
    key = new_key(kms)
    kms.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=key.key_id))
    event, request = records(kms)[-2:]
    assert (event["eventName"], event["eventType"]) == ("RotateKey", "AwsServiceEvent")
    assert event["userIdentity"] == {"accountId": ACCOUNT, "invokedBy": "AWS Internal"}
    assert event["serviceEventDetails"]["rotationType"] == "ON_DEMAND"
    assert event["resources"][0]["ARN"] == key.arn
    assert request["eventName"] == "RotateKeyOnDemand"
    kms.operator.credentials.create_user("bob")
    assert (last(kms)["eventName"], last(kms)["eventSource"]) == ("CreateUser", "iam.amazonaws.com")
    assert last(kms)["requestParameters"] == {"userName": "bob"}
    with pytest.raises(HsmKmsError):
        kms.operator.credentials.create_user("bob")
    assert last(kms)["errorCode"] == "AlreadyExistsException"


def test_looks_of_the_operator(kms: Kms) -> None:
    """Who there is and what he may do, and trials of the token: those who ask leave a record too."""
    operator = kms.operator
    operator.credentials.create_user("carol")
    looks = {
        "ListUsers": operator.credentials.list_users,
        "ListAccessKeys": lambda: operator.credentials.list_access_keys("carol"),
        "ListUserPolicies": lambda: operator.identities.user_policies("carol"),
        "ListGroups": operator.identities.list_groups,
        "CheckToken": operator.token_check,
    }
    for name, look in looks.items():
        look()
        assert (last(kms)["eventName"], last(kms)["readOnly"]) == (name, True)
    operator.trust_clock()
    assert (last(kms)["eventName"], last(kms)["readOnly"]) == ("TrustClock", False)


MARK = b"\x00tell nobody\xff"
_secret = st.binary(max_size=40).map(lambda end: MARK + end)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, msgspec.Struct]:
    """A request with secrets in every place that takes some, and its method."""
    token = draw(st.text(min_size=20, max_size=30).map(lambda text: f"grant-{text}"))
    context = draw(st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2))
    return draw(
        st.sampled_from(
            [
                ("encrypt", EncryptRequest(key_id="k", plaintext=draw(_secret), grant_tokens=[token])),
                ("decrypt", DecryptRequest(ciphertext_blob=draw(_secret), encryption_context=context)),
                ("generate_data_key", GenerateDataKeyRequest(key_id="alias/a", key_spec="AES_256")),
                (
                    "import_key_material",
                    ImportKeyMaterialRequest(
                        key_id="alias/a", import_token=draw(_secret), encrypted_key_material=draw(_secret)
                    ),
                ),
            ]
        )
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(requests())
def test_nothing_secret(kms: Kms, asked: tuple[str, msgspec.Struct]) -> None:
    """No plaintext, ciphertext, key material, import token or grant token is in a record, whatever was asked."""
    method, request = asked
    before = len(records(kms))
    answer = None
    with suppress(HsmKmsError):
        answer = getattr(kms, method)(request)
    (record,) = records(kms)[before:]
    text = json.dumps(record, ensure_ascii=False)
    secrets = [
        value
        for struct in (request, answer)
        if struct is not None
        for name in struct.__struct_fields__
        if isinstance(value := getattr(struct, name), bytes)
    ]
    for secret in secrets:
        assert msgspec.json.encode(secret).decode().strip('"') not in text
        assert secret.hex() not in text
    for token in getattr(request, "grant_tokens", None) or ():
        assert token not in text


def test_answers_are_not_in_records(kms: Kms) -> None:
    """Neither a data key nor what was decrypted nor a public wrapping key or import token is in a record."""
    key, empty = new_key(kms), new_key(kms, origin="EXTERNAL")
    made = kms.generate_data_key(GenerateDataKeyRequest(key_id=key.key_id, key_spec="AES_256"))
    assert unseal(kms, made.ciphertext_blob) == made.plaintext
    parameters = kms.get_parameters_for_import(
        GetParametersForImportRequest(
            key_id=empty.key_id, wrapping_algorithm="RSAES_OAEP_SHA_1", wrapping_key_spec="RSA_2048"
        )
    )
    text = json.dumps(records(kms)[-3:])
    for blob in (made.plaintext, made.ciphertext_blob, parameters.import_token, parameters.public_key):
        assert msgspec.json.encode(blob).decode().strip('"') not in text


def test_reading(kms: Kms) -> None:
    """Records are found by request, by key and by name; the tail is the newest; an export is in order of time."""
    key = new_key(kms, tags=[Tag(tag_key="a", tag_value="b")])
    caller = kms.caller(REGION)
    new_alias(kms, f"alias/{key.key_id}", key.key_id, caller)
    folder = kms.operator.audit.folder
    (shown,) = audit_reading.show(folder, caller.request_id).records
    assert shown["eventName"] == "CreateAlias"
    assert audit_reading.show(folder, shown["eventID"]).records == [shown]
    assert audit_reading.tail(folder, 1).records == [shown]
    tail = audit_reading.tail(folder, 1, Wanted(event_name="CreateKey"))
    assert [each["eventName"] for each in tail.records] == ["CreateKey"]
    of_key = audit_reading.export([folder], Wanted(key=f"key/{key.key_id}"))
    assert [json.loads(each)["eventName"] for each in of_key] == ["CreateKey", "CreateAlias"]
    times = [json.loads(each)["eventTime"] for each in audit_reading.export([folder], Wanted())]
    assert times == sorted(times)
    assert list(audit_reading.export([folder], Wanted(end_time=times[0]))) == []


def test_threads_share_a_lane(kms: Kms) -> None:
    """Many threads write one chain that verifies, with a record for each call."""
    key = new_key(kms).key_id
    before = len(records(kms))
    threads = [threading.Thread(target=lambda: [seal(kms, key) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records(kms)) == before + 160
    assert kms.operator.audit.verify().faults == []
