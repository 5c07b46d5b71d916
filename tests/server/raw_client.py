"""A client without a library: raw sockets, and requests signed by botocore."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from hsmkms.testing import Endpoint

SECONDS = 60.0
"""After which a test gives up."""


def address_of(endpoint: Endpoint) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(endpoint.url)
    return parts.hostname or "", parts.port or 0


def signed(endpoint: Endpoint, operation: str, body: bytes, **headers: str) -> dict[str, str]:
    """The headers of a signed request; ``headers`` replace the usual ones (``X_Amz_Target`` for ``X-Amz-Target``)."""
    host, port = address_of(endpoint)
    usual = {
        "Content-Type": "application/x-amz-json-1.1",
        "Host": f"{host}:{port}",
        "X-Amz-Target": f"TrentService.{operation}",
    }
    request = AWSRequest(
        "POST", endpoint.url + "/", data=body, headers=usual | {n.replace("_", "-"): v for n, v in headers.items()}
    )
    SigV4Auth(Credentials(endpoint.access_key_id, endpoint.secret_access_key), "kms", endpoint.region).add_auth(request)
    return dict(request.headers.items())


def exchange(endpoint: Endpoint, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send raw bytes; status, headers and body of the answer."""
    with socket.create_connection(address_of(endpoint), timeout=SECONDS) as connection:
        connection.sendall(data)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer from a connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError(f"closed after {received!r}")
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    return int(status_line.split()[1]), headers, body


def raw(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request as bytes, with its Content-Length."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if not any(name.lower() in ("content-length", "transfer-encoding") for name in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body


def call(endpoint: Endpoint, operation: str, members: Any, **headers: str) -> tuple[int, dict[str, str], Any]:  # noqa: ANN401 - JSON
    """A signed request with JSON members (or raw bytes); status, headers and decoded body."""
    body = members if isinstance(members, bytes) else json.dumps(members).encode()
    status, response_headers, answer = exchange(
        endpoint, raw("POST", "/", signed(endpoint, operation, body, **headers), body)
    )
    return status, response_headers, json.loads(answer) if answer else None
