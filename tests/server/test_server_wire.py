"""Header names, HTTP/1.0, offered upgrades, and the forms in which clients send a request."""

import json
import shutil
import socket
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from raw_client import SECONDS, address_of, call, exchange, raw, read_answer, signed

from hsmkms.server.aws.errors import refusal
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.messages import RawRequest
from hsmkms.server.process.heads import CLOSED, head_of
from hsmkms.server.process.refusals import LATE, busy
from hsmkms.server.unavailable_app import StandIn
from hsmkms.testing import Endpoint

BODY = b'{"NumberOfBytes": 8}'
USUAL_CASE = {
    "Content-Type",
    "Content-Length",
    "Date",
    "Connection",
    "Retry-After",
    "x-amzn-RequestId",
    "x-amzn-ErrorType",
}
H2C = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA"}


def connect(endpoint: Endpoint) -> socket.socket:
    """A connection."""
    return socket.create_connection(address_of(endpoint), timeout=SECONDS)


def heads(endpoint: Endpoint, *requests: bytes) -> list[bytes]:
    """The heads of the answers to requests, each on a connection of its own."""
    responses = []
    for request in requests:
        with connect(endpoint) as connection:
            connection.sendall(request)
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65536)
        responses.append(received.partition(b"\r\n\r\n")[0])
    return responses


def names_of(head: bytes) -> set[str]:
    """The names of the headers, as they were sent."""
    return {line.partition(":")[0] for line in head.decode().split("\r\n")[1:]}


def random_request(endpoint: Endpoint, version: str = "1.1", **headers: str) -> bytes:
    """A signed GenerateRandom with further headers, which are not signed."""
    sent = raw("POST", "/", signed(endpoint, "GenerateRandom", BODY) | headers, BODY)
    return sent.replace(b" HTTP/1.1\r\n", f" HTTP/{version}\r\n".encode(), 1)


# -- header names -----------------------------------------------------------------------------------------------


def test_header_names(hsmkms_endpoint: Endpoint) -> None:
    """Every kind of answer has its header names in the usual case: some clients compare them with it."""
    host = {"Host": "x"}
    responses = heads(
        hsmkms_endpoint,
        random_request(hsmkms_endpoint),
        raw("POST", "/", host, b"{}"),
        b"NONSENSE\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
        raw("GET", "/", {f"a{number}": "b" for number in range(200)}),
        random_request(hsmkms_endpoint, "1.0", Connection="keep-alive"),
        *(raw("GET", page, host) for page in ("/healthz", "/readyz", "/metrics")),
    )
    assert set().union(*map(names_of, responses)) <= USUAL_CASE
    assert names_of(responses[0]) == {"Content-Type", "x-amzn-RequestId", "Content-Length", "Date"}
    assert names_of(responses[1]) == names_of(responses[0]) | {"x-amzn-ErrorType"}
    assert names_of(responses[2]) == names_of(responses[1]) - {"x-amzn-RequestId"} | {"Connection"}
    assert names_of(responses[5]) == names_of(responses[0]) | {"Connection"}
    assert all(names_of(page) == {"Content-Type", "Content-Length", "Date"} for page in responses[-3:])


def test_header_names_of_a_busy_server(tmp_path: Path) -> None:
    """What a server answers that has no room, or no token yet, has them as well."""
    responses = [refusal(busy("x")), refusal(LATE)]
    stand_in = StandIn(tmp_path, Heartbeat())
    for method, path in (("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"), ("POST", "/")):
        stand_in(RawRequest(method, path, "", {}, b""), "", responses.append)
    assert [response.status for response in responses] == [503, 408, 200, 503, 200, 503]
    for response in responses:
        assert {"Content-Type", "Content-Length"} <= names_of(head_of(response, CLOSED).strip()) <= USUAL_CASE


# -- User-Agent -------------------------------------------------------------------------------------------------


def test_policies_know_no_more_of_a_user_agent_than_the_audit_log(hsmkms_endpoint: Endpoint) -> None:
    """What a client calls itself is cut after 1,024 characters, so that its length is no work for patterns."""
    statements = [
        {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"},
        {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "kms:Encrypt",
            "Resource": "*",
            "Condition": {"StringLike": {"aws:UserAgent": "*z"}},
        },
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    _, _, made = call(hsmkms_endpoint, "CreateKey", {"Policy": policy})
    members = {"KeyId": made["KeyMetadata"]["KeyId"], "Plaintext": "eA=="}
    for length, status in ((1024, 400), (1025, 200)):
        name = "z".rjust(length, "a")
        assert call(hsmkms_endpoint, "Encrypt", members, User_Agent=name)[0] == status


# -- HTTP/1.0 ---------------------------------------------------------------------------------------------------


def test_http_1_0_that_asks_to_go_on(hsmkms_endpoint: Endpoint) -> None:
    """A client of HTTP/1.0 that asks for keep-alive gets it, with the header that says so."""
    with connect(hsmkms_endpoint) as connection:
        for _ in range(2):
            connection.sendall(random_request(hsmkms_endpoint, "1.0", Connection="Keep-Alive"))
            status, headers, body = read_answer(connection)
            assert (status, headers["connection"]) == (200, "keep-alive")
            assert json.loads(body)["Plaintext"]


@pytest.mark.parametrize(
    ("version", "headers"), [("1.0", {}), ("1.0", {"Connection": "close"}), ("1.1", {"Connection": "close"})]
)
def test_client_that_does_not_go_on(hsmkms_endpoint: Endpoint, version: str, headers: dict[str, str]) -> None:
    """Other clients of HTTP/1.0, and those that send Connection: close, get that header, and the connection ends."""
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(random_request(hsmkms_endpoint, version, **headers))
        status, answered, _ = read_answer(connection)
        assert (status, answered["connection"]) == (200, "close")
        assert connection.recv(1) == b""


def test_http_1_0_gets_no_continue(hsmkms_endpoint: Endpoint) -> None:
    """HTTP/1.0 knows no interim answers: who asks for one gets none."""
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(random_request(hsmkms_endpoint, "1.0", Expect="100-continue"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("offer", [{}, H2C], ids=["plain", "upgrade"])
def test_http_1_0_has_no_chunks(hsmkms_endpoint: Endpoint, offer: dict[str, str]) -> None:
    """Chunks in HTTP/1.0 are refused and end the connection: proxies of that version see another end of the body."""
    offered = {"Transfer-Encoding": "chunked", "Connection": "keep-alive"} | offer
    head = raw("POST", "/", signed(hsmkms_endpoint, "GenerateRandom", BODY) | offered)
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(
            head.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1) + chunks + random_request(hsmkms_endpoint)
        )
        status, headers, body = read_answer(connection)
        assert (status, headers["connection"]) == (400, "close")
        assert "HTTP/1.0 has no Transfer-Encoding" in json.loads(body)["message"]
        assert connection.recv(1) == b""


def test_ab(hsmkms_endpoint: Endpoint) -> None:
    """ApacheBench, which speaks HTTP/1.0, keeps its connections with -k."""
    program = shutil.which("ab")
    if program is None:
        pytest.skip("ab (apache2-utils) is not installed")
    command = [program, "-k", "-n", "50", "-c", "2", hsmkms_endpoint.url + "/healthz"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout
    assert "Complete requests:      50\nFailed requests:        0\n" in result
    assert "Keep-Alive requests:    50\n" in result


# -- offered upgrades -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_bytes", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_offered_upgrade(hsmkms_endpoint: Endpoint, *, chunked: bool, by_bytes: bool) -> None:
    """A client that offers HTTP/2 is answered over HTTP/1.1, its body is read, and its connection stays open."""
    one = random_request(hsmkms_endpoint, **H2C)
    if chunked:
        framing = {"Transfer-Encoding": "chunked"}
        headers = signed(hsmkms_endpoint, "GenerateRandom", BODY) | H2C | framing
        one = raw("POST", "/", headers, b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
    with connect(hsmkms_endpoint) as connection:
        for _ in range(2):
            for piece in [one[at : at + 1] for at in range(len(one))] if by_bytes else [one]:
                connection.sendall(piece)
            status, headers, body = read_answer(connection)
            assert (status, headers.get("connection")) == (200, None)
            assert json.loads(body)["Plaintext"]


def test_many_offered_upgrades(hsmkms_endpoint: Endpoint) -> None:
    """Offers that were sent ahead in one piece, with bodies and without, are all answered, in their order."""
    page = raw("GET", "/healthz", {"Host": "x"} | H2C).replace(b"Content-Length: 0\r\n", b"")
    with connect(hsmkms_endpoint) as connection:
        connection.sendall((page + random_request(hsmkms_endpoint, **H2C)) * 40)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 80 or not received.endswith(b"}"):
            received += connection.recv(65536)
    assert received.count(b'"status"') == received.count(b'"Plaintext"') == 40


def test_offered_upgrade_that_ends(hsmkms_endpoint: Endpoint) -> None:
    """What the client says of its connection holds with an offer as well."""
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(random_request(hsmkms_endpoint, **H2C | {"Connection": "close, Upgrade"}))
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "bad", ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked, identity"]
)
def test_offered_upgrade_without_a_clear_end(hsmkms_endpoint: Endpoint, bad: str) -> None:
    """An offer makes no body acceptable whose end is not clear."""
    offer = "".join(f"{name}: {value}\r\n" for name, value in H2C.items())
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{offer}{bad}\r\n\r\n0\r\n\r\n".encode())
        status, headers, _ = read_answer(connection)
    assert (status, headers["connection"]) == (400, "close")


def test_large_body_behind_an_offer(hsmkms_endpoint: Endpoint) -> None:
    """An unsigned body is refused before it arrives, with an upgrade offer as without."""
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(raw("POST", "/", {"Host": "x", "Content-Length": "100000"} | H2C))
        status, headers, body = read_answer(connection)
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["__type"] == "MissingAuthenticationTokenException"


def test_curl(hsmkms_endpoint: Endpoint, tmp_path: Path) -> None:
    """Curl is answered with --http2 and --http1.0, and signs by itself."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    asked = tmp_path / "asked.json"
    asked.write_bytes(BODY)
    key = f"{hsmkms_endpoint.access_key_id}:{hsmkms_endpoint.secret_access_key}"
    signing = ["--aws-sigv4", f"aws:amz:{hsmkms_endpoint.region}:kms", "--user", key]
    target = ["-H", "X-Amz-Target: TrentService.GenerateRandom", "-H", "Content-Type: application/x-amz-json-1.1"]
    for protocol in ("--http1.0", "--http1.1", "--http2"):
        command = [program, "-sS", "--fail-with-body", protocol, *signing, *target, "--data-binary", f"@{asked}"]
        result = subprocess.run([*command, hsmkms_endpoint.url], capture_output=True, check=True, timeout=SECONDS)
        assert json.loads(result.stdout)["Plaintext"]


def test_java(hsmkms_endpoint: Endpoint) -> None:
    """Java's own HTTP client, which offers HTTP/2 by itself, is answered, twice on one connection."""
    program = shutil.which("java")
    if program is None:
        pytest.skip("java is not installed")
    source = Path(__file__).parent / "programs" / "OffersHttp2.java"
    headers = signed(hsmkms_endpoint, "GenerateRandom", BODY)
    arguments = [each for pair in headers.items() if pair[0].lower() != "host" for each in pair]
    command = [program, str(source), hsmkms_endpoint.url + "/", BODY.decode(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    if "compiler" in done.stderr:
        pytest.skip("java cannot run a source file here: there is no compiler")
    lines = done.stdout.splitlines()
    assert [line.startswith('200 HTTP_1_1 {"Plaintext":') for line in lines] == [True, True], done


# -- forms of a request -----------------------------------------------------------------------------------------


def test_forms_of_requests(hsmkms_endpoint: Endpoint) -> None:
    """Whole URLs as targets, HEAD, OPTIONS, and line ends between requests: each is answered, on one connection."""
    host = {"Host": "x"}
    with connect(hsmkms_endpoint) as connection:
        connection.sendall(raw("GET", hsmkms_endpoint.url + "/healthz", host) + b"\r\n\r\n")
        assert read_answer(connection)[::2] == (200, b'{"status":"ok"}')
        connection.sendall(b"\r\n" + raw("OPTIONS", "/", host))
        status, _, body = read_answer(connection)
        assert (status, json.loads(body)["__type"]) == (400, "MissingAuthenticationTokenException")
        connection.sendall(raw("HEAD", "/healthz", host) + raw("GET", "/healthz", host))
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 2 or not received.endswith(b"}"):
            received += connection.recv(65536)
    assert received.count(b"Content-Length: 15\r\n") == 2
    assert received.count(b'{"status":"ok"}') == 1


# -- requests for other services --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "operation", "members"),
    [
        ("s3", "list_buckets", {}),
        ("s3", "put_object", {"Bucket": "b", "Key": "k", "Body": b"x" * 100_000}),
        ("sts", "get_caller_identity", {}),
        ("dynamodb", "list_tables", {}),
        ("lambda", "list_functions", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_requests_for_other_services(
    hsmkms_endpoint: Endpoint, service: str, operation: str, members: dict[str, object]
) -> None:
    """Who sends all services here by AWS_ENDPOINT_URL reads which variable to set instead, in its client's form."""
    client = boto3.client(
        service,
        endpoint_url=hsmkms_endpoint.url,
        region_name=hsmkms_endpoint.region,
        aws_access_key_id=hsmkms_endpoint.access_key_id,
        aws_secret_access_key=hsmkms_endpoint.secret_access_key,
        config=Config(retries={"total_max_attempts": 1}),
    )
    with pytest.raises(ClientError) as caught:
        getattr(client, operation)(**members)
    error = caught.value.response["Error"]
    assert error["Code"] == "InvalidSignatureException"
    assert f"signed for '{service}'" in error["Message"]
    assert "set AWS_ENDPOINT_URL_KMS instead of AWS_ENDPOINT_URL" in error["Message"]


@pytest.mark.parametrize("service", ["<b>&amp;", "kms"])
def test_other_services_in_xml(hsmkms_endpoint: Endpoint, service: str) -> None:
    """What a stranger names as a service breaks no XML; a form that is signed for this service is answered in JSON."""
    credential = f"AKIAIOSFODNN7EXAMPLE/20260102/us-east-1/{service}/aws4_request"
    headers = {
        "Host": "x",
        "X-Amz-Date": "20260102T030405Z",
        "Content-Type": "application/x-www-form-urlencoded",
        "Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature={'0' * 64}",
    }
    status, answered, body = exchange(hsmkms_endpoint, raw("POST", "/", headers))
    assert status == 400
    if service == "kms":
        assert json.loads(body)["__type"] == answered["x-amzn-errortype"]
    else:
        assert answered["content-type"] == "text/xml"
        message = ET.fromstring(body).findtext("Error/Message") or ""  # noqa: S314 - of our own server
        assert f"signed for '{service}'" in message
