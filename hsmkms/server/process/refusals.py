"""What is older than any operation: what was sent is no request that is taken, or there is no room for it."""

from typing import Final

from hsmkms.server.messages import Refusal, RefusedError

RETRY_AFTER_SECONDS: Final = 1

LATE: Final = Refusal(408, "The request did not come in time.")


def bad_request(message: str) -> Refusal:
    """What is no HTTP, or HTTP that is not taken."""
    return Refusal(400, message)


def head_too_large(message: str) -> RefusedError:
    """A head that no client sends."""
    return RefusedError(Refusal(431, message))


def body_too_large(most: int) -> RefusedError:
    """A body that is larger than the request can need."""
    return RefusedError(Refusal(413, f"The request body is larger than {most} bytes."))


def busy(message: str) -> Refusal:
    """503: clients try again a little later."""
    return Refusal(503, message, RETRY_AFTER_SECONDS)
