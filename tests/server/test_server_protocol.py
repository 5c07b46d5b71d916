"""AWS JSON 1.1 on the wire: forms of bodies and headers, AWS's words for each kind of violation, answers as AWS's."""

import base64
import re
from typing import Any

import pytest
from hostile import Attacker
from raw_client import call, exchange, raw, signed

from hsmkms.testing import Endpoint

UNKNOWN = "1234abcd-12ab-34cd-56ef-1234567890ab"
EIGHT = b'{"NumberOfBytes": 8}'


@pytest.fixture(scope="module")
def key_id(hsmkms_endpoint: Endpoint) -> str:
    """A key of the server."""
    new_key_id: str = call(hsmkms_endpoint, "CreateKey", {})[2]["KeyMetadata"]["KeyId"]
    return new_key_id


# -- bodies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b' \r\n\t{"NumberOfBytes": 8} ',
        b'{"NumberOfBytes": 8, "Unknown": {"a": [1, {"b": null}]}}',
        b'{"NumberOfBytes": 8, "CustomKeyStoreId": null, "Recipient": null}',
        b'{"NumberOfBytes": 5, "NumberOfBytes": 8}',
        b'{"Number\\u004ffBytes": 8}',
    ],
    ids=["spaces", "unknown members", "null members", "the last of two", "escapes in names"],
)
def test_forms_of_bodies(hsmkms_endpoint: Endpoint, body: bytes) -> None:
    """Unknown members are ignored, null ones are absent, and of two the last one counts."""
    status, _, answer = call(hsmkms_endpoint, "GenerateRandom", body)
    assert (status, len(base64.b64decode(answer["Plaintext"]))) == (200, 8)


@pytest.mark.parametrize("body", [b"", b"{}", b"  {}"])
def test_empty_bodies(hsmkms_endpoint: Endpoint, body: bytes) -> None:
    """No body is an empty object."""
    assert call(hsmkms_endpoint, "ListKeys", body)[0] == 200


@pytest.mark.parametrize(
    ("operation", "body", "words"),
    [
        ("GenerateRandom", b'{"NumberOfBytes": "8"}', "Expected `int | null`, got `str` - at `$.NumberOfBytes`"),
        ("GenerateRandom", b'{"NumberOfBytes": 8.5}', "got `float` - at `$.NumberOfBytes`"),
        ("GenerateRandom", b'{"NumberOfBytes": true}', "got `bool`"),
        ("GenerateRandom", b'{"NumberOfBytes": NaN}', "not valid JSON"),
        ("GenerateRandom", b'\xef\xbb\xbf{"NumberOfBytes": 8}', "not valid JSON"),
        ("GenerateRandom", b"{'NumberOfBytes': 8}", "not valid JSON"),
        ("GenerateRandom", b'{"NumberOfBytes": 8} x', "not valid JSON"),
        ("DescribeKey", b'{"KeyId": ["a"]}', "got `array` - at `$.KeyId`"),
        ("DescribeKey", b'{"KeyId": "\\ud800"}', "not valid JSON"),
        ("Encrypt", b'{"KeyId": "a", "Plaintext": "eA"}', "Invalid base64 encoded string - at `$.Plaintext`"),
        ("Encrypt", b'{"KeyId": "a", "Plaintext": "-_-_"}', "Invalid base64 encoded string"),
        ("Encrypt", b'{"KeyId": "a", "Plaintext": "eA==\\n"}', "Invalid base64 encoded string"),
        ("Encrypt", b'{"KeyId": "a", "Plaintext": "eA==", "EncryptionContext": {"a": 1}}', "got `int`"),
        ("Encrypt", b'{"KeyId": "a", "Plaintext": "eA==", "EncryptionContext": {"a": null}}', "got `null`"),
        ("Encrypt", b'{"KeyId": "a", "Plaintext": "eA==", "DryRun": "true"}', "got `str` - at `$.DryRun`"),
        ("CreateKey", b'{"Tags": {"TagKey": "a"}}', "got `object` - at `$.Tags`"),
    ],
)
def test_bodies_of_wrong_types(hsmkms_endpoint: Endpoint, operation: str, body: bytes, words: str) -> None:
    """What cannot be read is a SerializationException that names the member and repeats nothing of it."""
    status, headers, answer = call(hsmkms_endpoint, operation, body)
    assert (status, answer["__type"], headers["x-amzn-errortype"]) == (400, *["SerializationException"] * 2)
    assert words in answer["message"]


@pytest.mark.parametrize("moment", [b"1893456000", b"1893456000.5", b"1.893456E9", b"1893456000.123456"])
def test_instants(hsmkms_endpoint: Endpoint, moment: bytes) -> None:
    """Instants are numbers, with a fraction and an exponent if one likes."""
    body = b'{"KeyId": "%s", "ImportToken": "YQ==", "EncryptedKeyMaterial": "YQ==", "ValidTo": %s}'
    _, _, answer = call(hsmkms_endpoint, "ImportKeyMaterial", body % (UNKNOWN.encode(), moment))
    assert answer["__type"] == "NotFoundException"


@pytest.mark.parametrize("moment", [b'"2030-01-01T00:00:00Z"', b'"1893456000"', b"true", b"[]", b"1e300", b"-1e20"])
def test_what_is_no_instant(hsmkms_endpoint: Endpoint, moment: bytes) -> None:
    """Text is no instant, also not of ISO 8601, and neither is a number beyond the calendar."""
    body = b'{"KeyId": "%s", "ImportToken": "YQ==", "EncryptedKeyMaterial": "YQ==", "ValidTo": %s}'
    _, _, answer = call(hsmkms_endpoint, "ImportKeyMaterial", body % (UNKNOWN.encode(), moment))
    assert answer["__type"] == "SerializationException"
    assert "timestamp" in answer["message"]


# -- violations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "members", "where", "constraint"),
    [
        ("DescribeKey", {}, " null at 'keyId'", "Member must not be null"),
        ("DescribeKey", {"KeyId": ""}, " '' at 'keyId'", "Member must have length greater than or equal to 1"),
        (
            "TagResource",
            {"KeyId": "a", "Tags": [{"TagKey": "k" * 129, "TagValue": "v"}]},
            f" '{'k' * 129}' at 'tags.1.member.tagKey'",
            "Member must have length less than or equal to 128",
        ),
        (
            "TagResource",
            {"KeyId": "a", "Tags": [{"TagKey": "k"}]},
            " null at 'tags.1.member.tagValue'",
            "Member must not be null",
        ),
        ("ListKeys", {"Limit": 1001}, " '1001' at 'limit'", "Member must have value less than or equal to 1000"),
        (
            "GenerateRandom",
            {"NumberOfBytes": 0},
            " '0' at 'numberOfBytes'",
            "Member must have value greater than or equal to 1",
        ),
        (
            "CreateAlias",
            {"AliasName": "alias/\u00fc", "TargetKeyId": "a"},
            " 'alias/\u00fc' at 'aliasName'",
            "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$",
        ),
        (
            "GenerateDataKey",
            {"KeyId": "a", "KeySpec": "AES_512"},
            " 'AES_512' at 'keySpec'",
            "Member must satisfy enum value set: [AES_256, AES_128]",
        ),
        (
            "Encrypt",
            {"KeyId": "a", "Plaintext": ""},
            " at 'plaintext'",
            "Member must have length greater than or equal to 1",
        ),
        (
            "Encrypt",
            {"KeyId": "a", "Plaintext": "eHh4" * 1366},
            " at 'plaintext'",
            "Member must have length less than or equal to 4096",
        ),
    ],
)
def test_words_of_violations(
    hsmkms_endpoint: Endpoint, operation: str, members: dict[str, Any], where: str, constraint: str
) -> None:
    """Each kind of constraint is reported in AWS's words, with the value unless it is bytes."""
    status, _, answer = call(hsmkms_endpoint, operation, members)
    assert (status, answer["__type"]) == (400, "ValidationException")
    words = f"Value{where} failed to satisfy constraint: {constraint}"
    assert answer["message"] == f"1 validation error detected: {words}"


def test_several_violations(hsmkms_endpoint: Endpoint) -> None:
    """All violations of a request come in one answer, in the order of the model's members."""
    members = {"KeySpec": "x", "Description": "d" * 8193, "Tags": [{"TagKey": "", "TagValue": "v" * 257}]}
    message = call(hsmkms_endpoint, "CreateKey", members)[2]["message"]
    assert message.startswith("4 validation errors detected: Value 'ddd")
    assert re.findall(r"at '([\w.]+)' failed", message) == [
        *("description", "keySpec", "tags.1.member.tagKey", "tags.1.member.tagValue")
    ]
    assert message.count("; Value '") == 3


def test_violations_are_reported_before_the_key_is_resolved(hsmkms_endpoint: Endpoint) -> None:
    """The form of a request is judged first."""
    answer = call(hsmkms_endpoint, "ScheduleKeyDeletion", {"KeyId": UNKNOWN, "PendingWindowInDays": 0})[2]
    assert answer["__type"] == "ValidationException"


# -- headers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["application/x-amz-json-1.1", "application/x-amz-json-1.1; charset=utf-8", "application/x-amz-json-1.0", "text/x"],
)
def test_content_types(hsmkms_endpoint: Endpoint, kind: str) -> None:
    """X-Amz-Target says what a request is, whatever Content-Type says of it; answers always have AWS's own."""
    status, headers, _ = call(hsmkms_endpoint, "GenerateRandom", EIGHT, Content_Type=kind)
    assert (status, headers["content-type"]) == (200, "application/x-amz-json-1.1")


def test_no_content_type(hsmkms_endpoint: Endpoint) -> None:
    """Content-Type may be left out."""
    status, headers, _ = exchange(hsmkms_endpoint, Attacker(hsmkms_endpoint, 0).signed("GenerateRandom", EIGHT))
    assert (status, headers["content-type"]) == (200, "application/x-amz-json-1.1")


def test_headers_of_sdks(hsmkms_endpoint: Endpoint) -> None:
    """What SDKs add without signing it changes nothing."""
    headers = signed(hsmkms_endpoint, "GenerateRandom", EIGHT)
    more = {"amz-sdk-invocation-id": UNKNOWN, "amz-sdk-request": "attempt=1; max=3", "User-Agent": "x", "Accept": "*/*"}
    assert exchange(hsmkms_endpoint, raw("POST", "/", headers | more, EIGHT))[0] == 200


def test_header_names_in_any_case(hsmkms_endpoint: Endpoint) -> None:
    """Names of headers may be in capitals or not."""
    for change in (str.upper, str.lower):
        headers = {change(name): value for name, value in signed(hsmkms_endpoint, "GenerateRandom", EIGHT).items()}
        assert exchange(hsmkms_endpoint, raw("POST", "/", headers, EIGHT))[0] == 200


def test_request_ids_differ(hsmkms_endpoint: Endpoint) -> None:
    """Each response has another request id, errors as well."""
    answers = [call(hsmkms_endpoint, "DescribeKey", {"KeyId": UNKNOWN}) for _ in range(3)]
    ids = {headers["x-amzn-requestid"] for _, headers, _ in answers}
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", key_id) for key_id in ids)


# -- answers ----------------------------------------------------------------------------------------------------


def test_members_of_answers(hsmkms_endpoint: Endpoint, key_id: str) -> None:
    """Instants are numbers, blobs are base64, and what is not there is left out."""
    key = call(hsmkms_endpoint, "DescribeKey", {"KeyId": key_id})[2]["KeyMetadata"]
    assert isinstance(key["CreationDate"], int | float)
    assert "DeletionDate" not in key
    assert None not in key.values()
    made = call(hsmkms_endpoint, "GenerateDataKey", {"KeyId": key_id, "NumberOfBytes": 5})[2]
    assert len(base64.b64decode(made["Plaintext"], validate=True)) == 5


def test_errors_without_words(hsmkms_endpoint: Endpoint, key_id: str) -> None:
    """A ciphertext that does not decrypt gives an error that reveals no cause."""
    blob = call(hsmkms_endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": "eA=="})[2]["CiphertextBlob"]
    data = bytearray(base64.b64decode(blob))
    data[-1] ^= 1
    wrong = base64.b64encode(bytes(data)).decode()
    responses = [
        call(hsmkms_endpoint, "Decrypt", members)[2]
        for members in (
            {"CiphertextBlob": wrong},
            {"CiphertextBlob": blob, "EncryptionContext": {"a": "b"}},
            {"CiphertextBlob": "Z2FyYmFnZQ=="},
        )
    ]
    assert responses[0] == responses[1] == responses[2]
    assert responses[0]["__type"] == "InvalidCiphertextException"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"KeyId": UNKNOWN}, f"Key 'arn:aws:kms:us-east-1:000000000000:key/{UNKNOWN}' does not exist"),
        ({"KeyId": "no-uuid"}, "Invalid keyId 'no-uuid'"),
        ({"KeyId": f"arn:aws:kms:eu-west-1:000000000000:key/{UNKNOWN}"}, "Invalid arn eu-west-1"),
        ({"KeyId": "alias/nobody"}, "Alias arn:aws:kms:us-east-1:000000000000:alias/nobody is not found."),
    ],
)
def test_keys_that_are_not_there(hsmkms_endpoint: Endpoint, members: dict[str, Any], message: str) -> None:
    """AWS's words for each way in which a key is not found."""
    answer = call(hsmkms_endpoint, "DescribeKey", members)[2]
    assert answer == {"__type": "NotFoundException", "message": message}
