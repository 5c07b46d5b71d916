"""The wire form of requests and responses, read and written by botocore as well."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import botocore.session
import pytest
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import SerializationException, ValidationException
from hsmkms.model.aliases import AliasListEntry, ListAliasesResponse
from hsmkms.model.constraints import validate
from hsmkms.model.crypto import (
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    GenerateRandomRequest,
    ReEncryptRequest,
)
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, KeyState, KeyUsage, Operation
from hsmkms.model.keys import CreateKeyRequest, DescribeKeyResponse, KeyMetadata, ListKeysRequest
from hsmkms.model.operations import OPERATIONS
from hsmkms.model.shapes import Recipient, Tag
from hsmkms.model.tags import TagResourceRequest
from hsmkms.model.wire import NOT_JSON, decode_request, encode_response, to_wire

MODEL: Final = botocore.session.Session().get_service_model("kms")
ARN: Final = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NOON: Final = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOON_SECONDS: Final = 1795435200


def metadata(**changes: object) -> KeyMetadata:
    """The metadata of an ordinary key."""
    members: dict[str, Any] = {
        "aws_account_id": "111122223333",
        "key_id": "1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn": ARN,
        "creation_date": NOON,
        "enabled": False,
        "description": "",
        "key_usage": KeyUsage.ENCRYPT_DECRYPT,
        "key_state": KeyState.DISABLED,
        "origin": "AWS_KMS",
        "key_manager": "CUSTOMER",
        "customer_master_key_spec": KeySpec.SYMMETRIC_DEFAULT,
        "key_spec": KeySpec.SYMMETRIC_DEFAULT,
        "encryption_algorithms": [EncryptionAlgorithm.SYMMETRIC_DEFAULT],
        "multi_region": False,
    }
    return KeyMetadata(**(members | changes))


def refusal(operation: Operation, body: bytes) -> str:
    """The message with which a body is refused."""
    with pytest.raises(SerializationException) as caught:
        decode_request(operation, body)
    return str(caught.value)


@pytest.mark.parametrize(
    ("operation", "given_", "expected"),
    [
        (
            Operation.ENCRYPT,
            {
                "KeyId": "alias/x",
                "Plaintext": b"\x00\xff",
                "EncryptionContext": {"ä": "ö"},
                "GrantTokens": ["t"],
                "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "DryRun": True,
            },
            EncryptRequest(
                key_id="alias/x",
                plaintext=b"\x00\xff",
                encryption_context={"ä": "ö"},
                grant_tokens=["t"],
                encryption_algorithm="SYMMETRIC_DEFAULT",
                dry_run=True,
            ),
        ),
        (
            Operation.DECRYPT,
            {
                "CiphertextBlob": b"c",
                "Recipient": {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": b"d"},
                "DryRunModifiers": ["IGNORE_CIPHERTEXT"],
            },
            DecryptRequest(
                ciphertext_blob=b"c",
                recipient=Recipient(key_encryption_algorithm="RSAES_OAEP_SHA_256", attestation_document=b"d"),
                dry_run_modifiers=["IGNORE_CIPHERTEXT"],
            ),
        ),
        (
            Operation.TAG_RESOURCE,
            {"KeyId": "k", "Tags": [{"TagKey": "a", "TagValue": ""}]},
            TagResourceRequest(key_id="k", tags=[Tag(tag_key="a", tag_value="")]),
        ),
        (Operation.LIST_KEYS, {"Limit": 10, "Marker": "m"}, ListKeysRequest(limit=10, marker="m")),
        (Operation.CREATE_KEY, {"MultiRegion": False}, CreateKeyRequest(multi_region=False)),
    ],
)
def test_requests_of_botocore(operation: Operation, given_: dict[str, Any], expected: object) -> None:
    """What botocore sends is read as the request that was meant."""
    serialized = create_serializer("json").serialize_to_request(given_, MODEL.operation_model(operation))
    assert decode_request(operation, serialized["body"]) == expected


@pytest.mark.parametrize("operation", OPERATIONS)
def test_empty_bodies(operation: Operation) -> None:
    """No body, an empty object and members that are all null mean the same: a request without members."""
    kind = OPERATIONS[operation].request
    nulls = json.dumps(dict.fromkeys(kind.__struct_encode_fields__)).encode()
    assert decode_request(operation, b"") == decode_request(operation, b"{}") == kind()
    assert decode_request(operation, nulls) == kind()


def test_nulls_beside_values() -> None:
    """A member that is null is absent, also in a structure; the others are read."""
    body = b'{"KeyId": null, "Plaintext": "AAE=", "EncryptionContext": null, "Unknown": null}'
    assert decode_request(Operation.ENCRYPT, body) == EncryptRequest(plaintext=b"\x00\x01")
    body = b'{"KeyId": "k", "Tags": [{"TagKey": "a", "TagValue": null}]}'
    request = decode_request(Operation.TAG_RESOURCE, body)
    assert request == TagResourceRequest(key_id="k", tags=[Tag(tag_key="a")])
    with pytest.raises(ValidationException, match=r"Value null at 'tags\.1\.member\.tagValue'"):
        validate(request)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (Operation.ENCRYPT, b'{"KeyId": null, "EncryptionContext": {"a": null}}'),
        (Operation.ENCRYPT, b'{"EncryptionContext": {"a": null}}'),
        (Operation.ENCRYPT, b'{"GrantTokens": [null]}'),
        (Operation.TAG_RESOURCE, b'{"Tags": [null]}'),
    ],
)
def test_nulls_inside_lists_and_maps(operation: Operation, body: bytes) -> None:
    """A null entry is never dropped in silence: an encryption context without it would be another one."""
    assert "got `null`" in refusal(operation, body)


def test_unknown_members_are_ignored() -> None:
    """Members that the operation does not have are passed over, whatever they hold."""
    body = b'{"NumberOfBytes": 3, "Newer": {"a": [1, null, {"b": 1e999}]}, "numberOfBytes": "x"}'
    assert decode_request(Operation.GENERATE_RANDOM, body) == GenerateRandomRequest(number_of_bytes=3)


def test_repeated_member() -> None:
    """Of a member that is there twice the last one counts."""
    body = b'{"KeyId": "a", "KeyId": null, "KeyId": "b"}'
    assert decode_request(Operation.DESCRIBE_KEY, body).key_id == "b"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (Operation.ENCRYPT, b"{"),
        (Operation.ENCRYPT, b"SECRET"),
        (Operation.ENCRYPT, b'{"KeyId": "SECRET'),
        (Operation.ENCRYPT, b'{"KeyId": "SECRET\xff"}'),
        (Operation.ENCRYPT, b'{"KeyId": "SECRET\\ud800 is alone"}'),
        (Operation.ENCRYPT, b'\xef\xbb\xbf{"KeyId": "k"}'),
        (Operation.ENCRYPT, b'{"KeyId": "k"} SECRET'),
        (Operation.GENERATE_RANDOM, b'{"NumberOfBytes": NaN}'),
        (Operation.GENERATE_RANDOM, b'{"NumberOfBytes": Infinity}'),
        (Operation.ENCRYPT, b'{"Deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        (Operation.ENCRYPT, b'{"KeyId": null, "Deep": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001),
        (Operation.ENCRYPT, b"[" * 100_000),
    ],
)
def test_unparsable(operation: Operation, body: bytes) -> None:
    """What is no JSON, or is nested beyond reason, is refused in one sentence that repeats nothing of it."""
    assert refusal(operation, body) == NOT_JSON


@pytest.mark.parametrize(
    ("operation", "body", "member"),
    [
        (Operation.ENCRYPT, b'["SECRET"]', "object"),
        (Operation.ENCRYPT, b'"SECRET"', "object"),
        (Operation.ENCRYPT, b"null", "object"),
        (Operation.ENCRYPT, b"1", "object"),
        (Operation.ENCRYPT, b'{"KeyId": 5}', "$.KeyId"),
        (Operation.ENCRYPT, b'{"KeyId": ["SECRET"]}', "$.KeyId"),
        (Operation.ENCRYPT, b'{"Plaintext": "SECRET!!"}', "$.Plaintext"),
        (Operation.ENCRYPT, b'{"Plaintext": "SECRET"}', "$.Plaintext"),
        (Operation.ENCRYPT, b'{"Plaintext": "AAA\\n="}', "$.Plaintext"),
        (Operation.ENCRYPT, b'{"Plaintext": [1, 2]}', "$.Plaintext"),
        (Operation.ENCRYPT, b'{"EncryptionContext": {"SECRET": 1}}', "$.EncryptionContext"),
        (Operation.ENCRYPT, b'{"EncryptionContext": "SECRET"}', "$.EncryptionContext"),
        (Operation.ENCRYPT, b'{"DryRun": "true"}', "$.DryRun"),
        (Operation.ENCRYPT, b'{"DryRun": 1}', "$.DryRun"),
        (Operation.GENERATE_RANDOM, b'{"NumberOfBytes": "32"}', "$.NumberOfBytes"),
        (Operation.GENERATE_RANDOM, b'{"NumberOfBytes": "32", "Recipient": null}', "$.NumberOfBytes"),
        (Operation.GENERATE_RANDOM, b'{"NumberOfBytes": true}', "$.NumberOfBytes"),
        (Operation.GENERATE_RANDOM, b'{"NumberOfBytes": 1.5}', "$.NumberOfBytes"),
        (Operation.GENERATE_RANDOM, b'{"NumberOfBytes": 1e999}', "Number out of range"),
        (Operation.TAG_RESOURCE, b'{"Tags": [{"TagKey": {"SECRET": 1}}]}', "$.Tags[0].TagKey"),
        (Operation.TAG_RESOURCE, b'{"Tags": {"TagKey": "SECRET"}}', "$.Tags"),
    ],
)
def test_wrong_types(operation: Operation, body: bytes, member: str) -> None:
    """A member of the wrong JSON type is named, and its value is not repeated; nothing is converted in silence."""
    message = refusal(operation, body)
    assert member in message
    assert "SECRET" not in message


@pytest.mark.parametrize("digits", [20, 400, 4000, 4300, 5000, 100_000])
def test_huge_integers(digits: int) -> None:
    """An integer of any length is refused as one request error or the other."""
    body = b'{"NumberOfBytes": ' + b"9" * digits + b"}"
    with pytest.raises((SerializationException, ValidationException)) as caught:
        validate(decode_request(Operation.GENERATE_RANDOM, body))
    assert len(str(caught.value)) < 500


JSON_VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("AAAA"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
MEMBERS: Final = sorted({name for each in OPERATIONS.values() for name in each.request.__struct_encode_fields__})


@given(st.sampled_from(sorted(OPERATIONS)), st.binary() | st.text().map(str.encode))
def test_any_bytes(operation: Operation, body: bytes) -> None:
    """Any body whatever is read or refused with an error of the request, never with anything else."""
    assert_read_or_refused(operation, body)


@given(
    st.sampled_from(sorted(OPERATIONS)),
    st.dictionaries(st.sampled_from([*MEMBERS, "TagKey", "Unknown"]), JSON_VALUES, max_size=6),
)
def test_any_json(operation: Operation, members: dict[str, Any]) -> None:
    """The same for objects that hold the API's members with any values."""
    assert_read_or_refused(operation, json.dumps(members).encode())


def assert_read_or_refused(operation: Operation, body: bytes) -> None:
    """Assert that a body is read as its request type, or raises one of the two errors of a request."""
    with suppress(SerializationException, ValidationException):
        request = decode_request(operation, body)
        assert isinstance(request, OPERATIONS[operation].request)
        validate(request)


def test_validation_comes_second() -> None:
    """Values that break a constraint are read, so that validate can name all of them at once."""
    body = b'{"NumberOfBytes": -1, "CustomKeyStoreId": "", "Recipient": {"KeyEncryptionAlgorithm": "X"}}'
    with pytest.raises(ValidationException, match=r"^3 validation errors detected: "):
        validate(decode_request(Operation.GENERATE_RANDOM, body))


def parsed(operation: Operation, body: bytes) -> dict[str, Any]:
    """A response as botocore reads it."""
    answer = {"body": body, "headers": {}, "status_code": 200}
    result: dict[str, Any] = create_parser("json").parse(answer, MODEL.operation_model(operation).output_shape)
    del result["ResponseMetadata"]
    return result


def test_responses_for_botocore() -> None:
    """A client reads from a response what was put in: blobs as bytes, instants as datetimes, absent members not."""
    response = DescribeKeyResponse(key_metadata=metadata(deletion_date=NOON + timedelta(milliseconds=250)))
    read = parsed(Operation.DESCRIBE_KEY, encode_response(response))["KeyMetadata"]
    assert read == {
        "AWSAccountId": "111122223333",
        "KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab",
        "Arn": ARN,
        "CreationDate": NOON,
        "Enabled": False,
        "Description": "",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": "Disabled",
        "DeletionDate": NOON + timedelta(milliseconds=250),
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
    }


def test_encoded_response() -> None:
    """A response is compact JSON with the API's names in the model's order; blobs are standard base64."""
    response = EncryptResponse(ciphertext_blob=b"\xfb\xff\xfe", key_id=ARN, encryption_algorithm="SYMMETRIC_DEFAULT")
    assert encode_response(response) == (
        b'{"CiphertextBlob":"+//+","KeyId":"' + ARN.encode() + b'","EncryptionAlgorithm":"SYMMETRIC_DEFAULT"}'
    )


def test_absent_members_are_left_out() -> None:
    """None is left out, while empty, false and zero are encoded."""
    response = ListAliasesResponse(aliases=[AliasListEntry(alias_name="alias/a", alias_arn=ARN)], truncated=False)
    assert to_wire(response) == {"Aliases": [{"AliasName": "alias/a", "AliasArn": ARN}], "Truncated": False}
    assert to_wire(ListAliasesResponse(aliases=[], truncated=False)) == {"Aliases": [], "Truncated": False}


def test_to_wire_gives_plain_values() -> None:
    """The wire form holds nothing but what JSON has, so that any serializer can print it."""
    shown = to_wire(DecryptResponse(key_id=ARN, plaintext=b"\x00", encryption_algorithm="SYMMETRIC_DEFAULT"))
    assert shown == {"KeyId": ARN, "Plaintext": "AA==", "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    shown = to_wire(DescribeKeyResponse(key_metadata=metadata()))
    assert json.loads(json.dumps(shown)) == shown
    assert type(shown["KeyMetadata"]["KeyState"]) is str


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        (NOON, NOON_SECONDS),
        (NOON.astimezone(), NOON_SECONDS),
        (NOON + timedelta(milliseconds=1), NOON_SECONDS + 0.001),
        (NOON + timedelta(microseconds=123_456), NOON_SECONDS + 0.123),
        (NOON + timedelta(microseconds=999_999), NOON_SECONDS + 1),
        (datetime(1970, 1, 1, tzinfo=UTC) - timedelta(milliseconds=1500), -1.5),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), 253402300799),
    ],
)
def test_instants(moment: datetime, seconds: float) -> None:
    """Instants are epoch seconds: an integer when whole, else with milliseconds."""
    shown = to_wire(metadata(creation_date=moment))["CreationDate"]
    assert shown == seconds
    assert type(shown) is type(seconds)


def test_instant_without_zone() -> None:
    """A datetime that does not say its zone is a bug, and is not guessed at."""
    with pytest.raises(TypeError):
        to_wire(metadata(creation_date=NOON.replace(tzinfo=None)))


@given(
    st.builds(
        ReEncryptRequest,
        ciphertext_blob=st.binary(min_size=1, max_size=20),
        source_encryption_context=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
        destination_key_id=st.text(min_size=1, max_size=10),
        grant_tokens=st.none() | st.lists(st.text(max_size=5), max_size=3),
        dry_run=st.none() | st.booleans(),
    )
)
def test_round_trip(request_: ReEncryptRequest) -> None:
    """A request that is written and read again is the same."""
    assert decode_request(Operation.RE_ENCRYPT, encode_response(request_)) == request_
