"""The server as a process of its own: the wire form of answers and errors, hostile and slow clients, pages."""

import json
import select
import socket
import threading
import time
from typing import Any

import pytest
from raw_client import SECONDS, address_of, call, exchange, raw, read_answer, signed

from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS
from hsmkms.testing import Endpoint

SLOW_CONNECTIONS = 200
NOT_BUILT = min(set(Operation) - set(OPERATIONS))


@pytest.fixture(scope="module")
def key_id(hsmkms_endpoint: Endpoint) -> str:
    """A key of the server."""
    status, _, answer = call(hsmkms_endpoint, "CreateKey", {})
    assert status == 200
    new_key_id: str = answer["KeyMetadata"]["KeyId"]
    return new_key_id


def test_answer_on_the_wire(hsmkms_endpoint: Endpoint, key_id: str) -> None:
    """An answer has AWS's content type and a request id, and numbers for instants."""
    status, headers, answer = call(hsmkms_endpoint, "DescribeKey", {"KeyId": key_id})
    assert status == 200
    assert headers["content-type"] == "application/x-amz-json-1.1"
    assert len(headers["x-amzn-requestid"]) == 36
    assert abs(answer["KeyMetadata"]["CreationDate"] - time.time()) < 600


def test_empty_answer(hsmkms_endpoint: Endpoint, key_id: str) -> None:
    """An operation that answers nothing sends an empty body."""
    status, headers, answer = call(hsmkms_endpoint, "UpdateKeyDescription", {"KeyId": key_id, "Description": "x"})
    assert (status, answer, headers["content-length"]) == (200, None, "0")


def test_error_on_the_wire(hsmkms_endpoint: Endpoint) -> None:
    """An error has its code in the body and in a header, and a sentence."""
    status, headers, answer = call(hsmkms_endpoint, "DescribeKey", {"KeyId": "alias/nobody"})
    assert (status, answer["__type"], headers["x-amzn-errortype"]) == (400, "NotFoundException", "NotFoundException")
    assert "alias/nobody is not found" in answer["message"]


def test_all_violations_in_one_answer(hsmkms_endpoint: Endpoint) -> None:
    """All constraints that a request breaks are reported at once, in AWS's words."""
    _, _, answer = call(hsmkms_endpoint, "GenerateDataKey", {"KeyId": "", "NumberOfBytes": 0})
    assert answer["__type"] == "ValidationException"
    assert answer["message"].startswith(
        "2 validation errors detected: Value '' at 'keyId' failed to satisfy constraint"
    )
    assert "Value '0' at 'numberOfBytes'" in answer["message"]


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (f"TrentService.{NOT_BUILT}", "UnsupportedOperationException"),
        ("TrentService.Nonsense", "UnknownOperationException"),
        ("Encrypt", "UnknownOperationException"),
        ("DynamoDB_20120810.GetItem", "UnknownOperationException"),
    ],
)
def test_operations_that_are_not_there(hsmkms_endpoint: Endpoint, target: str, code: str) -> None:
    """An operation that hsmkms lacks and a name that no model has get different errors, and not 404."""
    status, _, answer = call(hsmkms_endpoint, "x", {}, X_Amz_Target=target)
    assert (status, answer["__type"]) == (400, code)
    assert len(answer["message"]) > 20


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"null", b"\xff\xfe", b'{"KeyId": 5}', b'{"KeyId": "a", "Plaintext": "!"}', b"[" * 100_000]
)
def test_bodies_that_cannot_be_read(hsmkms_endpoint: Endpoint, body: bytes) -> None:
    """A body that is not a request of the operation is a SerializationException, whatever it is."""
    status, _, answer = call(hsmkms_endpoint, "Encrypt", body)
    assert (status, answer["__type"]) == (400, "SerializationException")


def test_unsigned_and_wrongly_signed(hsmkms_endpoint: Endpoint) -> None:
    """Without a signature, with another's body, and with an unknown key: AWS's error for each."""
    body = b"{}"
    headers = signed(hsmkms_endpoint, "ListKeys", body)
    unsigned = {name: value for name, value in headers.items() if name != "Authorization"}
    cases = {
        "MissingAuthenticationTokenException": (unsigned, body),
        "InvalidSignatureException": (headers, b'{"Limit": 1}'),
        "UnrecognizedClientException": (
            headers
            | {"Authorization": headers["Authorization"].replace(hsmkms_endpoint.access_key_id, "AKIA" + "A" * 16)},
            body,
        ),
    }
    for code, (sent, data) in cases.items():
        status, _, answer = exchange(hsmkms_endpoint, raw("POST", "/", sent, data))
        assert (status, json.loads(answer)["__type"]) == (400, code)


def test_region_that_is_not_served(hsmkms_endpoint: Endpoint) -> None:
    """The region of the signature must be one that is served."""
    status, _, answer = call(hsmkms_endpoint._replace(region="xx-nowhere-9"), "ListKeys", {})
    assert (status, answer["__type"]) == (400, "InvalidSignatureException")
    assert "us-east-1" in answer["message"]


def test_too_large(hsmkms_endpoint: Endpoint) -> None:
    """A body above the limit is refused by its announced length, and by its real one when it is sent in pieces."""
    host = {"Host": "x"}
    status, _, answer = exchange(hsmkms_endpoint, raw("POST", "/", host | {"Content-Length": str(2**31)}))
    assert (status, json.loads(answer)["__type"]) == (413, "RequestEntityTooLargeException")
    pieces = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    headers = signed(hsmkms_endpoint, "CreateKey", b"") | {"Transfer-Encoding": "chunked"}
    with socket.create_connection(address_of(hsmkms_endpoint), timeout=SECONDS) as connection:
        connection.sendall(raw("POST", "/", headers))
        for _ in range(17):
            connection.sendall(pieces)
        status, _, answer = read_answer(connection)
    assert (status, json.loads(answer)["__type"]) == (413, "RequestEntityTooLargeException")


def test_pages(hsmkms_endpoint: Endpoint, key_id: str) -> None:
    """Health, readiness and metrics answer without a signature."""
    assert key_id
    for path, word in (("/healthz", b'"ok"'), ("/readyz", b'"ready"'), ("/metrics", b"hsmkms_keys{state=")):
        status, _, body = exchange(hsmkms_endpoint, raw("GET", path, {"Host": "x"}))
        assert status == 200
        assert word in body


def test_slow_clients_starve_nobody(hsmkms_endpoint: Endpoint, key_id: str) -> None:
    """While 200 connections send a byte now and then, and before they are given up, others are served."""
    head = raw("POST", "/", {"Host": "x", "Content-Length": "1000"})
    slow = [socket.create_connection(address_of(hsmkms_endpoint), timeout=SECONDS) for _ in range(SLOW_CONNECTIONS)]
    stopped = threading.Event()

    def trickle() -> None:
        while not stopped.wait(0.5):
            for connection in slow:
                connection.send(b"x")

    try:
        for connection in slow:
            connection.sendall(head)
        sender = threading.Thread(target=trickle)
        sender.start()
        served = 0
        for _ in range(30):
            assert call(hsmkms_endpoint, "DescribeKey", {"KeyId": key_id})[0] == 200
            served += not select.select(slow[:1], [], [], 0)[0]
        assert served, "the slow ones were given up before anybody else was served"
    finally:
        stopped.set()
        sender.join()
        for connection in slow:
            connection.close()


def test_slow_body_is_given_up(hsmkms_endpoint: Endpoint) -> None:
    """A body that does not come is answered with a time-out."""
    with socket.create_connection(address_of(hsmkms_endpoint), timeout=SECONDS) as connection:
        connection.sendall(raw("POST", "/", {"Host": "x", "Content-Length": "10"}) + b"x")
        status, _, answer = read_answer(connection)
    assert (status, json.loads(answer)["__type"]) == (408, "RequestTimeoutException")


def test_boto3(kms_client: Any) -> None:  # noqa: ANN401 - boto3 makes its classes at run time
    """boto3 makes a key, an alias, a data key, and rotates, through the ordinary client."""
    key = kms_client.create_key(Description="by boto3")["KeyMetadata"]
    kms_client.create_alias(AliasName="alias/boto3", TargetKeyId=key["KeyId"])
    sealed = kms_client.encrypt(KeyId="alias/boto3", Plaintext=b"secret", EncryptionContext={"a": "b"})
    kms_client.rotate_key_on_demand(KeyId=key["KeyId"])
    opened = kms_client.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext={"a": "b"})
    assert opened["Plaintext"] == b"secret"
    assert opened["KeyId"] == key["Arn"]
    rotations = kms_client.list_key_rotations(KeyId=key["KeyId"])["Rotations"]
    assert [rotation["RotationType"] for rotation in rotations] == ["ON_DEMAND"]
