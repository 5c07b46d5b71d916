"""How large the parts of a request may be that are not its body, and what they take in memory."""

from typing import Final

from hsmkms.server.messages import Refusal, RefusedError
from hsmkms.server.process.refusals import bad_request, head_too_large

MAX_BODY_BYTES: Final = 1024 * 1024
"""More than any request of the API can need: a key policy of 32 KB, an attestation document of 256 KB in base64."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""All of a request but its body: target and headers, and the sizes, extensions and trailers of chunks."""

MAX_HEADERS: Final = 100
SLICE_BYTES: Final = 8 * 1024
"""More than this is parsed in slices, so that no more than a slice is parsed while a request waits."""

LARGE_REQUEST_BYTES: Final = 8 * 1024
"""Larger requests count in the worker's budget while they wait for their response."""

UNCOUNTED_BYTES: Final = 2 * 1024
UNCOUNTED_HEADERS: Final = 24
"""An unfinished request counts once it has more: most clients send the head of a request by itself."""

UNCOUNTED_CONNECTIONS: Final = 256
"""While a worker has more connections, every unfinished request counts: so the others are 2 MiB together at most."""

HEADER_BYTES: Final = 160
REQUEST_BYTES: Final = 512
"""What a header and a request take in memory besides their own bytes."""


def frame_too_large() -> RefusedError:
    """Too many bytes of target and headers."""
    return head_too_large(f"The headers are larger than {MAX_HEAD_BYTES} bytes.")


def too_many_headers() -> RefusedError:
    """Too many headers, however small."""
    return head_too_large(f"There may be {MAX_HEADERS} headers at most.")


def counts(received: int, fields: int, connections: int) -> bool:
    """True if an unfinished request of so many bytes and headers counts, on a worker with so many connections."""
    return received > UNCOUNTED_BYTES or fields > UNCOUNTED_HEADERS or connections > UNCOUNTED_CONNECTIONS


def check_encodings(encodings: list[str], *, chunks_known: bool) -> None:
    """Take a body in chunks and nothing else. RefusedError: with 400, as no request gives an error of the server's.

    The parser takes whatever ends in chunks, and would pass on a compressed body as it is. ``chunks_known``: false for
    HTTP/1.0. A proxy of that version passes Transfer-Encoding on as a header like any other, and sees the end of the
    request elsewhere than the parser, so it must not be believed (RFC 9112, section 6.1).
    """
    if not chunks_known:
        raise RefusedError(bad_request("HTTP/1.0 has no Transfer-Encoding: send Content-Length, or HTTP/1.1."))
    if [encoding.strip().lower() for encoding in encodings] != ["chunked"]:
        raise RefusedError(bad_request("Send Transfer-Encoding: chunked, or none."))


def chunks_too_large() -> Refusal:
    """Too many bytes around the chunks of a body."""
    return bad_request(f"Sizes, extensions and trailers of the body's chunks are larger than {MAX_HEAD_BYTES} bytes.")
