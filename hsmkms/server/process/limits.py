"""Limits of a request's head, encodings and chunks, and the memory that they take."""

from typing import Final

from hsmkms.server.messages import Refusal, RefusedError
from hsmkms.server.process.refusals import bad_request, head_too_large

MAX_BODY_BYTES: Final = 1024 * 1024
"""More than any request of the API needs: a key policy of 32 KB, an attestation document of 256 KB in base64."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""Limit of everything but the body: target and headers, and sizes, extensions and trailers of chunks."""

MAX_HEADERS: Final = 100
SLICE_BYTES: Final = 8 * 1024
"""Size of the slices in which input is parsed, so that at most one slice is parsed while a request waits."""

LARGE_REQUEST_BYTES: Final = 8 * 1024
"""Larger requests count in the worker's memory budget while they wait for their response."""

UNCOUNTED_BYTES: Final = 2 * 1024
UNCOUNTED_HEADERS: Final = 24
"""An unfinished request counts once it is larger: most clients send the head of a request separately."""

UNCOUNTED_CONNECTIONS: Final = 256
"""While a worker has more connections, every unfinished request counts, so that uncounted ones take 2 MiB at most."""

HEADER_BYTES: Final = 160
REQUEST_BYTES: Final = 512
"""Memory of a header and of a request besides their own bytes."""


def frame_too_large() -> RefusedError:
    """Refuse too many bytes of target and headers."""
    return head_too_large(f"The headers are larger than {MAX_HEAD_BYTES} bytes.")


def too_many_headers() -> RefusedError:
    """Refuse too many headers."""
    return head_too_large(f"There may be {MAX_HEADERS} headers at most.")


def counts(received: int, fields: int, connections: int) -> bool:
    """Return True if an unfinished request of this size counts, on a worker with so many connections."""
    return received > UNCOUNTED_BYTES or fields > UNCOUNTED_HEADERS or connections > UNCOUNTED_CONNECTIONS


def check_encoding(encoding: str, *, chunks_known: bool) -> None:
    """Accept the encoding ``chunked`` only; RefusedError (400, since no request may cause an error 5xx) for others.

    The parser accepts all encodings that end in ``chunked``, and would pass on a compressed body undecoded.
    ``chunks_known``: false for HTTP/1.0, where a proxy forwards Transfer-Encoding like any other header and sees
    another end of the request than the parser, so it must not be trusted (RFC 9112, section 6.1).
    """
    if not chunks_known:
        raise RefusedError(bad_request("HTTP/1.0 has no Transfer-Encoding: send Content-Length, or HTTP/1.1."))
    if encoding.strip().lower() != "chunked":
        raise RefusedError(bad_request("Send Transfer-Encoding: chunked, or none."))


def chunks_too_large() -> Refusal:
    """Refuse too many bytes around the chunks of a body."""
    return bad_request(f"Sizes, extensions and trailers of the body's chunks are larger than {MAX_HEAD_BYTES} bytes.")
