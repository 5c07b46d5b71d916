"""Render errors for clients of AWS: those of operations, and refusals before any operation."""

from collections.abc import Mapping
from typing import Final

import msgspec

from hsmkms.server.aws import other_services, protocol
from hsmkms.server.aws.protocol import TYPE_HEADER
from hsmkms.server.messages import RawRequest, Refusal, Response

_CODES: Final[Mapping[int, str]] = {
    408: "RequestTimeoutException",
    413: "RequestEntityTooLargeException",
    503: "ServiceUnavailableException",
}
_OTHER: Final = "BadRequestException"


def failure(error: Exception, request_id: str, head: RawRequest | None = None) -> Response:
    """Render an error; with the request's head, in the form of the service that the client meant to call."""
    if head is None:
        return protocol.failure(error, request_id)
    return other_services.failure(error, request_id, head)


def refusal(refused: Refusal) -> Response:
    """Render a refusal as AWS JSON, whatever was sent."""
    code = _CODES.get(refused.status, _OTHER)
    body = msgspec.json.encode({"__type": code, "message": refused.message})
    retry = refused.retry_after_seconds
    further = (("Retry-After", str(retry)),) if retry is not None else ()
    return Response(refused.status, (TYPE_HEADER, ("x-amzn-ErrorType", code), *further), body, code)
