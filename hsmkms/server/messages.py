"""Requests as they were received, responses as they are sent, and refusals: HTTP of no protocol in particular."""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

Headers = Sequence[tuple[str, str]]


class RawRequest(Struct, frozen=True):
    """What was received. Header names in lower case, each with its values in their order; ``path`` as it was sent."""

    method: str
    path: str
    query: str
    headers: Mapping[str, Sequence[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one value of a header, or None; several values are joined."""
        values = self.headers.get(name)
        return None if values is None else values[0] if len(values) == 1 else ",".join(values)


class Response(Struct, frozen=True):
    """What is sent back. ``error``: what a protocol calls the error, or None."""

    status: int
    headers: Headers
    body: bytes
    error: str | None = None


Respond = Callable[[Response], None]


class Refusal(Struct, frozen=True):
    """Why a connection takes no request, or this one not; what answers for it renders that in its own form."""

    status: int
    message: str
    retry_after_seconds: int | None = None


class RefusedError(Exception):
    """Ends a request, and its connection: with a refusal, or with a response that is made already."""

    def __init__(self, answer: Refusal | Response) -> None:
        super().__init__(answer.status)
        self.answer = answer
