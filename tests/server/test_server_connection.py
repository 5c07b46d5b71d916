"""HTTP/1.1 as clients of all kinds speak it: pipelines, pieces, limits, and what is no HTTP at all."""

import json
import socket
import time

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from raw_client import SECONDS, address_of, exchange, raw, read_answer, signed

from hsmkms.testing import Endpoint

HOST = {"Host": "x"}


def connect(endpoint: Endpoint) -> socket.socket:
    """A connection."""
    return socket.create_connection(address_of(endpoint), timeout=SECONDS)


def answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """So many answers from one connection, in their order."""
    received = b""
    responses: list[tuple[int, bytes]] = []
    while len(responses) < count:
        head, separator, rest = received.partition(b"\r\n\r\n")
        length = next((int(line[16:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0)
        if separator and len(rest) >= length:
            responses.append((int(head.split()[1]), rest[:length]))
            received = rest[length:]
            continue
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return responses


def test_pipeline_keeps_the_order(hsmkms_endpoint: Endpoint) -> None:
    """Requests that were sent ahead are answered in their order, also where a slow one stands before a quick one."""
    slow_body = b"{}"
    slow = raw("POST", "/", signed(hsmkms_endpoint, "CreateKey", slow_body), slow_body)
    quick_body = b'{"NumberOfBytes": 8}'
    quick = raw("POST", "/", signed(hsmkms_endpoint, "GenerateRandom", quick_body), quick_body)
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(slow + quick + slow + quick)
        responses = answers(connection, 4)
    assert [status for status, _ in responses] == [200] * 4
    assert [b"KeyMetadata" in body for _, body in responses] == [True, False, True, False]


def test_many_ahead(hsmkms_endpoint: Endpoint) -> None:
    """More requests than are kept waiting are all answered."""
    body = b'{"NumberOfBytes": 8}'
    one = raw("POST", "/", signed(hsmkms_endpoint, "GenerateRandom", body), body)
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(one * 200)
        responses = answers(connection, 200)
    assert [status for status, _ in responses] == [200] * 200


def test_a_length_with_many_zeros(hsmkms_endpoint: Endpoint) -> None:
    """A Content-Length may begin with any number of zeros: the request is answered, also after another one.

    int() refuses so many digits. The exception ended the connection, and after another response, the turn of others.
    """
    body = b'{"NumberOfBytes": 8}'
    for length in (b"0" * 5000 + b"%d" % len(body), b"0" * 5000 + b"%d 	" % len(body)):
        usual = raw("POST", "/", signed(hsmkms_endpoint, "GenerateRandom", body), body)
        one = usual.replace(b"Content-Length: %d" % len(body), b"Content-Length: " + length)
        assert one != usual
        with connect(hsmkms_endpoint) as connection:
            connection.sendall(one * 3)
            assert [status for status, _ in answers(connection, 3)] == [200] * 3
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 5000 + b" \r\n\r\n")
        assert answers(connection, 1)[0][0] == 400


def test_byte_by_byte(hsmkms_endpoint: Endpoint) -> None:
    """A request may come in pieces of any size."""
    body = b'{"NumberOfBytes": 8}'
    with connect(hsmkms_endpoint) as connection:
        for byte in raw("POST", "/", signed(hsmkms_endpoint, "GenerateRandom", body), body):
            connection.sendall(bytes((byte,)))
        status, _, _ = read_answer(connection)
    assert status == 200


def test_chunks(hsmkms_endpoint: Endpoint) -> None:
    """A body of unknown length is read like any other."""
    body = b'{"NumberOfBytes": 8}'
    headers = signed(hsmkms_endpoint, "GenerateRandom", body) | {"Transfer-Encoding": "chunked"}
    pieces = b"5\r\n" + body[:5] + b"\r\n" + b"%x\r\n" % len(body[5:]) + body[5:] + b"\r\n0\r\n\r\n"
    status, _, _ = exchange(hsmkms_endpoint, raw("POST", "/", headers, pieces))
    assert status == 200


def test_trailers_are_no_headers(hsmkms_endpoint: Endpoint) -> None:
    """What stands behind a body in chunks never counts as a header, neither of this request nor of the next."""
    body = b'{"NumberOfBytes": 8}'
    headers = signed(hsmkms_endpoint, "GenerateRandom", body)
    without = {name: value for name, value in headers.items() if name != "Authorization"}
    chunks = b"%x\r\n%s\r\n0\r\nAuthorization: %s\r\n\r\n" % (len(body), body, headers["Authorization"].encode())
    chunked = {"Transfer-Encoding": "chunked"}
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(raw("POST", "/", without | chunked, chunks) + raw("POST", "/", without, body))
        connection.sendall(raw("POST", "/", headers | chunked, chunks))
        responses = answers(connection, 3)
    assert [status for status, _ in responses] == [400, 400, 200]
    assert [json.loads(response_body).get("__type") for _, response_body in responses] == [
        "MissingAuthenticationTokenException"
    ] * 2 + [None]


@pytest.mark.parametrize("trailer", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_trailers_that_would_frame_a_body(hsmkms_endpoint: Endpoint, trailer: bytes) -> None:
    """Length and coding of a body stand before it: behind it they are refused, and the connection ends."""
    body = b'{"NumberOfBytes": 8}'
    headers = signed(hsmkms_endpoint, "GenerateRandom", body) | {"Transfer-Encoding": "chunked"}
    chunks = b"%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(body), body, trailer)
    status, answered, _ = exchange(hsmkms_endpoint, raw("POST", "/", headers, chunks))
    assert (status, answered["connection"]) == (400, "close")


@pytest.mark.parametrize(
    "frame",
    [b"1;" + b"x" * 80_000, b"1;x=y\r\na\r\n" * 20_000, b"0\r\nT: " + b"x" * 80_000, b"0\r\n" + b"T: x\r\n" * 20_000],
    ids=["extension", "extensions", "trailer", "trailers"],
)
def test_what_stands_around_chunks(hsmkms_endpoint: Endpoint, frame: bytes) -> None:
    """Extensions of chunks, and trailers, are bounded, whether many or one without an end."""
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + frame)
        status, headers, body = read_answer(connection)
    assert (status, headers["connection"]) == (400, "close")
    assert "chunks" in json.loads(body)["message"]


def large_body(size: int) -> bytes:
    """A right request of GenerateRandom with blanks, so that it has a size."""
    return b'{"NumberOfBytes": 8}'.ljust(size)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_large_bodies(hsmkms_endpoint: Endpoint, chunked: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A signed request may be as large as its operation needs, in either form, and no request larger."""
    framing = {"Transfer-Encoding": "chunked"} if chunked else {}

    def send(operation: str, size: int) -> tuple[int, str]:
        body = large_body(size)
        headers = signed(hsmkms_endpoint, operation, body) | framing
        sent = b"%x\r\n%s\r\n0\r\n\r\n" % (size, body) if chunked else body
        status, _, answer = exchange(hsmkms_endpoint, raw("POST", "/", headers, sent))
        return status, json.loads(answer).get("__type", "")

    assert send("GenerateRandom", 350_000) == (200, "")
    assert send("ListKeys", 64 * 1024) == (200, "")
    assert send("ListKeys", 100_000) == (413, "RequestEntityTooLargeException")
    assert send("GenerateRandom", 1_000_000) == (413, "RequestEntityTooLargeException")
    assert send("Nonsense", 100_000) == (400, "UnknownOperationException")


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ({"Authorization": ""}, "MissingAuthenticationTokenException"),
        ({"Authorization": "AWS4-HMAC-SHA256 x"}, "IncompleteSignatureException"),
        ({"X-Amz-Date": "20200101T000000Z"}, "InvalidSignatureException"),
        ({"region": "xx-nowhere-1"}, "InvalidSignatureException"),
    ],
    ids=["none", "broken", "old", "region"],
)
def test_large_bodies_of_strangers(hsmkms_endpoint: Endpoint, damage: dict[str, str], code: str) -> None:
    """A body of more than 64 KiB is neither read nor asked for if the head's signature is not for here and now."""
    region = damage.get("region", hsmkms_endpoint.region)
    endpoint = Endpoint(hsmkms_endpoint.url, region, hsmkms_endpoint.access_key_id, hsmkms_endpoint.secret_access_key)
    headers = signed(endpoint, "GenerateRandom", b"") | damage | {"Content-Length": "100000", "Expect": "100-continue"}
    sent = {name: value for name, value in headers.items() if value and name != "region"}
    status, answered, body = exchange(hsmkms_endpoint, raw("POST", "/", sent))
    assert (status, json.loads(body)["__type"], answered["connection"]) == (400, code, "close")


def test_continue_keeps_its_place(hsmkms_endpoint: Endpoint) -> None:
    """A client that sends Expect gets no 100 before the response to its earlier pipelined request."""
    slow_body = b"{}"
    slow = raw("POST", "/", signed(hsmkms_endpoint, "CreateKey", slow_body), slow_body)
    body = b'{"NumberOfBytes": 8}'
    headers = signed(hsmkms_endpoint, "GenerateRandom", body) | {"Expect": "100-continue"}
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(slow + raw("POST", "/", headers, body))
        responses = answers(connection, 2)
    assert [status for status, _ in responses] == [200, 200]


def test_name_of_a_header(hsmkms_endpoint: Endpoint) -> None:
    """Long names, which would fill the cache of names, are refused."""
    status, _, _ = exchange(hsmkms_endpoint, raw("GET", "/healthz", {"x" * 300: "y"}))
    assert status == 431


def test_continue(hsmkms_endpoint: Endpoint) -> None:
    """A client that sends Expect: 100-continue gets 100 Continue."""
    body = b'{"NumberOfBytes": 8}'
    headers = signed(hsmkms_endpoint, "GenerateRandom", body)
    head = raw("POST", "/", headers | {"Expect": "100-continue", "Content-Length": str(len(body))})
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        status, _, _ = read_answer(connection)
    assert status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % number for number in range(200)) + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nA: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"POST /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
    ids=[
        "tls",
        "version",
        "no request",
        "length",
        "two lengths",
        "chunk",
        "coding",
        "codings",
        "unknown coding",
        "no coding",
        "chunked, chunked",
        "chunked twice",
        "tunnel",
        "headers",
        "header",
        "target",
    ],
)
def test_what_is_not_taken(hsmkms_endpoint: Endpoint, data: bytes, status: int) -> None:
    """What is no request, or too large a head, is answered with an error, and the connection ends."""
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(data)
        answered, headers, body = read_answer(connection)
        assert (answered, headers["connection"]) == (status, "close")
        assert json.loads(body)["message"]
        assert connection.recv(1) == b""


def test_http_1_0(hsmkms_endpoint: Endpoint) -> None:
    """An old client gets its answer, and the end of the connection."""
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        status, _, _ = read_answer(connection)
        assert status == 200
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("PUT", "/"), ("POST", "/elsewhere"), ("DELETE", "/healthz")]
)
def test_other_methods_and_paths(hsmkms_endpoint: Endpoint, method: str, path: str) -> None:
    """Without a signature everything but the pages is refused in the same way."""
    status, _, body = exchange(hsmkms_endpoint, raw(method, path, HOST))
    assert (status, json.loads(body)["__type"]) == (400, "MissingAuthenticationTokenException")


def test_date(hsmkms_endpoint: Endpoint) -> None:
    """Answers have a date, by which clients correct their clocks."""
    _, headers, _ = exchange(hsmkms_endpoint, raw("GET", "/healthz", HOST))
    assert (
        abs(time.mktime(time.strptime(headers["date"], "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone - time.time()) < 60
    )


def test_client_that_goes(hsmkms_endpoint: Endpoint) -> None:
    """A client that does not read its response affects no other."""
    body = b"{}"
    for _ in range(5):
        with connect(hsmkms_endpoint) as connection:
            connection.sendall(raw("POST", "/", signed(hsmkms_endpoint, "CreateKey", body), body))
    status, _, _ = exchange(hsmkms_endpoint, raw("GET", "/readyz", HOST))
    assert status == 200


def test_long_queue_behind_a_slow_one(hsmkms_endpoint: Endpoint) -> None:
    """A thousand quick requests that wait behind a slow one are answered, however deep the queue is."""
    slow_body = b"{}"
    slow = raw("POST", "/", signed(hsmkms_endpoint, "CreateKey", slow_body), slow_body)
    quick = b"POST / HTTP/1.1\r\nX-Amz-Target: TrentService.Encrypt\r\n\r\n"
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(slow + quick * 1000)
        responses = answers(connection, 1001)
    assert [status for status, _ in responses] == [200] + [400] * 1000


def test_refusal_keeps_its_place(hsmkms_endpoint: Endpoint) -> None:
    """What is no HTTP is refused after the requests before it have been answered."""
    slow_body = b"{}"
    slow = raw("POST", "/", signed(hsmkms_endpoint, "CreateKey", slow_body), slow_body)
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(slow + b"NONSENSE\r\n\r\n")
        responses = answers(connection, 2)
        assert connection.recv(1) == b""
    assert [status for status, _ in responses] == [200, 400]


def test_head(hsmkms_endpoint: Endpoint) -> None:
    """HEAD is answered without a body, so that the connection stays usable."""
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(raw("HEAD", "/healthz", HOST) + raw("HEAD", "/", HOST) + raw("GET", "/healthz", HOST))
        received = b""
        while received.count(b"HTTP/1.1") < 3 or not received.endswith(b"}"):
            received += connection.recv(65536)
    first, second, third = received.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200 ")
    assert second.startswith(b"400 ")
    assert (first.partition(b"\r\n\r\n")[2], second.partition(b"\r\n\r\n")[2]) == (b"", b"")
    assert third.endswith(b'\r\n\r\n{"status":"ok"}')


@pytest.mark.parametrize("target", ["http://somewhere/", "http://somewhere", "HTTP://somewhere:8443/"])
def test_whole_url(hsmkms_endpoint: Endpoint, target: str) -> None:
    """The target may be a whole URL, as a proxy sends it."""
    body = b'{"NumberOfBytes": 8}'
    status, _, _ = exchange(hsmkms_endpoint, raw("POST", target, signed(hsmkms_endpoint, "GenerateRandom", body), body))
    assert status == 200


@pytest.mark.parametrize(("method", "path"), [("POST", "/kms"), ("POST", "*"), ("GET", "/"), ("PUT", "/")])
def test_signed_elsewhere(hsmkms_endpoint: Endpoint, method: str, path: str) -> None:
    """With a good signature another path or method is an unknown operation."""
    request = AWSRequest(method, f"{hsmkms_endpoint.url}{path}".replace("*", ""), data=b"{}")
    request.headers["Host"] = "{}:{}".format(*address_of(hsmkms_endpoint))
    request.headers["X-Amz-Target"] = "TrentService.ListKeys"
    credentials = Credentials(hsmkms_endpoint.access_key_id, hsmkms_endpoint.secret_access_key)
    SigV4Auth(credentials, "kms", hsmkms_endpoint.region).add_auth(request)
    status, _, body = exchange(hsmkms_endpoint, raw(method, path, dict(request.headers.items()), b"{}"))
    parsed = json.loads(body)
    expected = "UnknownOperationException" if path != "*" else "InvalidSignatureException"
    assert (status, parsed["__type"]) == (400, expected)
