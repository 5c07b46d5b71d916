"""TLS with a certificate of the test's own: versions, boto3, and a new certificate at SIGHUP."""

import contextlib
import http.client
import json
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import boto3
import pytest
from cli_site import Site
from conftest import NewSite
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from floods import half_handshakes
from raw_client import address_of, raw, read_answer
from served import STOP_SECONDS, Served, credentials, processor_seconds, serving, set_in, start, trusting
from waiting import until

from hsmkms.server.process.acceptor import ALERT
from hsmkms.server.process.connections import LINGERING
from hsmkms.server.process.supervisor import START_REFUSED
from hsmkms.testing import read_endpoint

NARROW = 10

pytestmark = pytest.mark.xdist_group("served")

Secure = tuple[Site, Served, dict[str, Any]]


def make_certificate(folder: Path, name: str) -> None:
    """A certificate for 127.0.0.1 that vouches for itself, and its key, as an operator would put them there."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    (folder / "chain.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def chosen(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's side that speaks one version, and accepts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # what is refused must be refused by the server
    context.minimum_version = context.maximum_version = version
    return context


def shake_hands(server: Served, context: ssl.SSLContext) -> tuple[str | None, str]:
    """Version of TLS, and the name in the server's certificate."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname="127.0.0.1") as secure,
    ):
        der = secure.getpeercert(binary_form=True) or b""
        names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return secure.version(), str(names[0].value)


@pytest.fixture(scope="module")
def secure(new_site: NewSite) -> Iterator[Secure]:
    """A server with TLS, and an access key of the root."""
    site = new_site()
    make_certificate(site.data, "first")
    set_in(site, 'certificate = "chain.pem"', 'private_key = "key.pem"')
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    with serving(site, "--workers", 2) as server:
        yield site, server, root
        assert server.stop() == 0, server.log_text


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_versions(secure: Secure) -> None:
    """TLS 1.2 and 1.3 are spoken, older ones are refused."""
    _, server, _ = secure
    assert shake_hands(server, chosen(ssl.TLSVersion.TLSv1_2))[0] == "TLSv1.2"
    assert shake_hands(server, chosen(ssl.TLSVersion.TLSv1_3))[0] == "TLSv1.3"
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises(ssl.SSLError, match=r"EOF|VERSION"):
            shake_hands(server, chosen(version))


@pytest.mark.parametrize(
    ("offered", "chosen_one"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
    ids=["both", "HTTP/1.1", "HTTP/2", "nothing"],
)
def test_protocol_over_tls(secure: Secure, offered: list[str], chosen_one: str | None) -> None:
    """A client that offers HTTP/2 and HTTP/1.1 gets HTTP/1.1, in ALPN and in fact, whatever else it offers."""
    _, server, _ = secure
    context = chosen(ssl.TLSVersion.TLSv1_3)
    if offered:
        context.set_alpn_protocols(offered)
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname="127.0.0.1") as protected,
    ):
        assert protected.selected_alpn_protocol() == chosen_one
        protected.sendall(raw("GET", "/healthz", {"Host": "x"}))
        assert read_answer(protected)[0] == 200


def test_certificate_by_option(new_site: NewSite) -> None:
    """--certificate and --private-key go before what the configuration says; one without the other is refused."""
    site = new_site()
    (elsewhere := site.folder / "elsewhere").mkdir()
    make_certificate(site.data, "configured")
    make_certificate(elsewhere, "by option")
    set_in(site, 'certificate = "chain.pem"', 'private_key = "key.pem"')
    options = ("--certificate", "elsewhere/chain.pem", "--private-key", "elsewhere/key.pem")
    with serving(site, "--workers", 1, *options) as server:
        assert shake_hands(server, chosen(ssl.TLSVersion.TLSv1_3))[1] == "by option"
        assert server.stop() == 0, server.log_text
    site = new_site()
    alone = start(site, "--certificate", elsewhere / "chain.pem")
    assert alone.process.wait(STOP_SECONDS) == START_REFUSED
    assert "serve.certificate and serve.private_key go together" in alone.log_text


def test_development_server_with_a_certificate(tmp_path: Path) -> None:
    """The development server takes a certificate as well, and prints the URL for it."""
    make_certificate(tmp_path, "development")
    command = [
        sys.executable,
        "-m",
        "hsmkms",
        "serve",
        "--dev",
        "--certificate",
        "chain.pem",
        "--private-key",
        "key.pem",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            endpoint = read_endpoint(process)
            assert endpoint.url.startswith("https://127.0.0.1:")
            with (
                socket.create_connection(address_of(endpoint), timeout=20) as connection,
                trusting(tmp_path / "chain.pem").wrap_socket(connection, server_hostname="127.0.0.1") as protected,
            ):
                protected.sendall(raw("GET", "/healthz", {"Host": "x"}))
                assert read_answer(protected)[0] == 200
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def test_plain_http_on_the_secure_port(secure: Secure) -> None:
    """A client without TLS gets no response in the clear."""
    _, server, _ = secure
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in connection.recv(65536)


def test_client_with_trust(secure: Secure) -> None:
    """boto3 works over TLS with the certificate to trust, and refuses without it."""
    site, server, root = secure

    def client(verify: str | bool) -> Any:  # noqa: ANN401, FBT001 - boto3's own
        endpoint = server.endpoint(root, "https")
        return boto3.client(
            "kms",
            endpoint_url=endpoint.url,
            region_name=endpoint.region,
            aws_access_key_id=endpoint.access_key_id,
            aws_secret_access_key=endpoint.secret_access_key,
            verify=verify,
            config=boto3.session.Config(retries={"total_max_attempts": 1}),
        )

    assert len(client(str(site.data / "chain.pem")).generate_random(NumberOfBytes=16)["Plaintext"]) == 16
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        client(verify=True).generate_random(NumberOfBytes=16)


@pytest.fixture
def narrow(new_site: NewSite) -> Iterator[Served]:
    """A server with TLS whose one worker serves ten connections."""
    site = new_site()
    make_certificate(site.data, "first")
    set_in(site, 'certificate = "chain.pem"', 'private_key = "key.pem"', f"max_connections = {NARROW}")
    with serving(site, "--workers", 1) as server:
        yield server


def test_more_connections_than_are_served(narrow: Served) -> None:
    """After its handshake a client beyond the limit gets 503, and is served once other connections have closed."""
    context = chosen(ssl.TLSVersion.TLSv1_3)
    address = ("127.0.0.1", narrow.port)
    with contextlib.ExitStack() as opened:
        for _ in range(NARROW):
            opened.enter_context(context.wrap_socket(socket.create_connection(address, timeout=20)))
        with context.wrap_socket(socket.create_connection(address, timeout=20)) as refused:
            status, headers, body = read_answer(refused)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert "connections" in json.loads(body)["message"]

    def served() -> bool:
        with context.wrap_socket(socket.create_connection(address, timeout=20)) as connection:
            connection.sendall(raw("GET", "/healthz", {"Host": "x"}))
            return read_answer(connection)[0] == 200

    until(served)


def test_half_handshakes(narrow: Served) -> None:
    """Who has not finished a handshake counts as well; beyond a reserve clients get an alert, until the others go."""
    context = chosen(ssl.TLSVersion.TLSv1_3)
    address = ("127.0.0.1", narrow.port)
    with half_handshakes(address, NARROW + LINGERING + 20) as made:
        assert [each.recv(100) for each in made[-20:]] == [ALERT] * 20
        with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
            context.wrap_socket(socket.create_connection(address, timeout=20))
    until(lambda: _shakes_hands(address, context))


def test_out_of_file_descriptors(narrow: Served) -> None:
    """A worker that may open no more files does not spin; given them back, it serves who has waited."""
    context = chosen(ssl.TLSVersion.TLSv1_3)
    address = ("127.0.0.1", narrow.port)
    until(lambda: _shakes_hands(address, context))
    (worker,) = narrow.workers()
    limit = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    most = max(int(file.name) for file in narrow.files(worker).iterdir()) + 1
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (most, limit[1]))
    try:
        with contextlib.ExitStack() as opened:
            for _ in range(40):
                opened.enter_context(socket.create_connection(address, timeout=20))
            began, used = time.monotonic(), processor_seconds(worker)
            time.sleep(1)
            assert processor_seconds(worker) - used < 0.5 * (time.monotonic() - began), "it spins"
    finally:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, limit)
    until(lambda: _shakes_hands(address, context))
    assert narrow.workers() == {worker}


def _shakes_hands(address: tuple[str, int], context: ssl.SSLContext) -> bool:
    try:
        context.wrap_socket(socket.create_connection(address, timeout=20)).close()
    except OSError:
        return False
    return True


def test_new_certificate(secure: Secure) -> None:
    """SIGHUP takes the certificate that is on the disk then; one that cannot be read leaves the old one in use."""
    site, server, _ = secure
    context = chosen(ssl.TLSVersion.TLSv1_3)
    before = server.workers()
    assert shake_hands(server, context)[1] == "first"
    make_certificate(site.data, "second")
    kept = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=20, context=context)
    kept.request("GET", "/healthz")
    assert kept.getresponse().read() == b'{"status":"ok"}'
    server.process.send_signal(signal.SIGHUP)
    until(lambda: len(server.workers()) == 2 and not server.workers() & before)
    assert {shake_hands(server, context)[1] for _ in range(8)} == {"second"}
    kept.close()

    (site.data / "key.pem").write_text("nonsense\n")
    served = server.workers()
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "a new worker did not start" in server.log_text)
    assert server.workers() == served
    assert shake_hands(server, context)[1] == "second"


def test_certificate_that_cannot_be_read(new_site: NewSite) -> None:
    """A server whose certificate is not there does not start, and says which setting it is."""
    site = new_site()
    set_in(site, 'certificate = "nowhere.pem"', 'private_key = "key.pem"')
    server = start(site)
    assert server.process.wait(STOP_SECONDS) == 78
    assert "serve.certificate" in server.log_text
