"""Interfaces between the server and its protocols, each a folder beside this module; protocols.py lists them.

A protocol turns requests into calls of the façade, and renders its outcomes and errors in its own content type. It
knows nothing of listeners, workers and connections, and they know nothing of it.
"""

from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from hsmkms.config.settings import ServeSettings
from hsmkms.kms import Kms
from hsmkms.server.messages import RawRequest, Refusal, Response

AWAY: Final = "the token does not answer: check that the HSM is connected and running, then try again"


class Source(Struct, frozen=True):
    """Where a request came from: its IP address, and whether the connection was encrypted or local."""

    address: str | None
    secure: bool


class Handled(Struct, kw_only=True):
    """A request and its response, for the log and the metrics.

    ``key_id``: the key as the response names it, or else the request.
    """

    request_id: str
    operation: str | None = None
    principal: str | None = None
    region: str | None = None
    key_id: str | None = None
    response: Response | None = None
    access_key_id: str | None = None
    call: Callable[[], Struct | None] | None = None
    """The call of the façade that answers an authenticated request. The pipeline writes its audit record."""
    algorithm: str | None = None
    """The algorithm that Sign names; it decides how long the call takes."""
    outcome: Struct | None = None
    """What that call has returned."""


class Endpoint(Protocol):
    """Answers the requests of a protocol for an open installation. Thread-safe.

    A request passes three stages: ``authenticate``, ``perform`` and ``render``. Every error becomes the response, and
    the later stages leave a request alone that has its response.
    """

    def operation_of(self, request: RawRequest) -> str | None:
        """Return the operation that a request's head names; it decides whether the event loop or a thread answers."""

    def authenticate(self, request: RawRequest, source: Source, operation: str | None, handled: Handled) -> None:
        """Check who sends the request and decode it. ``operation``: the result of ``operation_of``."""

    def perform(self, handled: Handled) -> None:
        """Call the façade."""

    def render(self, handled: Handled) -> None:
        """Encode what the façade has returned as the response."""

    def largest_body(self, head: RawRequest) -> int:
        """Return the limit in bytes of a request's body, or raise the error of a head that does not look authentic."""


class Failure(Protocol):
    """Renders errors, with or without an open installation."""

    def __call__(self, error: Exception, request_id: str, head: RawRequest | None = None) -> Response:
        """Render an error; unexpected exceptions get a fixed message. ``head``: the request that failed, if known."""


class ServedProtocol(Struct, frozen=True, kw_only=True):
    """A protocol. ``takes``: whether it serves a request; ``refusal`` renders a refusal of the connection."""

    name: str
    takes: Callable[[RawRequest], bool]
    failure: Failure
    refusal: Callable[[Refusal], Response]
    open: Callable[[Kms, ServeSettings], Endpoint]
