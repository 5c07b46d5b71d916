"""Errors that are older than any operation: what was sent is no request that is taken, or there is no room for it."""

from typing import Final

import msgspec

from hsmkms import uuids
from hsmkms.errors import HsmKmsError
from hsmkms.server.aws import other_services
from hsmkms.server.aws.protocol import CONTENT_TYPE, Response
from hsmkms.server.aws.sigv4 import RawRequest

RETRY_AFTER_SECONDS: Final = 1


class RefusedError(Exception):
    """Ends a request, and its connection, with a response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.error)
        self.response = response


def refusal(status: int, code: str, message: str, *further: tuple[str, str]) -> Response:
    """An error with a status, a code, a message and further headers."""
    body = msgspec.json.encode({"__type": code, "message": message})
    return Response(status, (("Content-Type", CONTENT_TYPE), ("x-amzn-ErrorType", code), *further), body, code)


def bad_request(message: str) -> Response:
    """What is no HTTP, or HTTP that is not taken."""
    return refusal(400, "BadRequestException", message)


def head_too_large(message: str) -> RefusedError:
    """A head that no client of the API sends."""
    return RefusedError(refusal(431, "BadRequestException", message))


def body_too_large(most: int) -> RefusedError:
    """A body that is larger than the request can need."""
    return RefusedError(
        refusal(413, "RequestEntityTooLargeException", f"The request body is larger than {most} bytes.")
    )


def refused(error: HsmKmsError, head: RawRequest) -> RefusedError:
    """A head with which no body of that size is read."""
    return RefusedError(other_services.failure(error, uuids.new(), head))


def busy(message: str) -> Response:
    """503: clients of AWS try again a little later."""
    retry = ("Retry-After", str(RETRY_AFTER_SECONDS))
    return refusal(503, "ServiceUnavailableException", message, retry)
