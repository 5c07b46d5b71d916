"""Refusals before a request is parsed: it is not acceptable HTTP, or there is no room for it."""

from typing import Final

from hsmkms.server.messages import Refusal, RefusedError

RETRY_AFTER_SECONDS: Final = 1

LATE: Final = Refusal(408, "The request did not come in time.")


def bad_request(message: str) -> Refusal:
    """Refuse what is not HTTP, or not accepted HTTP."""
    return Refusal(400, message)


def head_too_large(message: str) -> RefusedError:
    """Refuse a head that is too large."""
    return RefusedError(Refusal(431, message))


def body_too_large(most: int) -> RefusedError:
    """Refuse a body that is larger than the request can need."""
    return RefusedError(Refusal(413, f"The request body is larger than {most} bytes."))


def busy(message: str) -> Refusal:
    """Refuse with 503, after which clients retry."""
    return Refusal(503, message, RETRY_AFTER_SECONDS)
