"""HTTP messages, independent of protocols: raw requests, responses and refusals."""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

Headers = Sequence[tuple[str, str]]


class RawRequest(Struct, frozen=True):
    """A request as received. Header names are in lower case, a repeated header's values joined by commas.

    ``path`` is not decoded.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class Response(Struct, frozen=True):
    """A response. ``error``: the protocol's code of the error, or None."""

    status: int
    headers: Headers
    body: bytes
    error: str | None = None


Respond = Callable[[Response], None]


class Refusal(Struct, frozen=True):
    """Reason why a connection refuses a request, or all requests; the protocol renders it."""

    status: int
    message: str
    retry_after_seconds: int | None = None


class RefusedError(Exception):
    """Ends a request and its connection, with a refusal or a rendered response."""

    def __init__(self, answer: Refusal | Response) -> None:
        super().__init__(answer.status)
        self.answer = answer
