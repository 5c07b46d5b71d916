"""What a protocol is to the server. Each is a folder beside this module, and protocols.py lists them.

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
    """Where a request came from: an IP address, and whether nobody could listen on the way."""

    address: str | None
    secure: bool


class Handled(Struct, kw_only=True):
    """What is known of a request when it is answered, for the log and the metrics.

    ``key_id``: the key as the answer names it, else as the request did.
    """

    request_id: str
    operation: str | None = None
    principal: str | None = None
    region: str | None = None
    key_id: str | None = None
    response: Response | None = None
    access_key_id: str | None = None
    admitted: bool = False
    """True once the pipeline has it, which records it."""


class Endpoint(Protocol):
    """Answers the requests of a protocol for an open installation. Thread-safe."""

    def operation_of(self, request: RawRequest) -> str | None:
        """The operation that the head of a request names; it decides whether the event loop or a thread answers."""

    def answer(self, request: RawRequest, source: Source, *, just_looked: bool = False) -> Handled:
        """Answer a request, whatever is wrong with it.

        ``just_looked``: since it began to come, this process has looked at what others have changed.
        """

    def largest_body(self, head: RawRequest) -> int:
        """How many bytes the body of a request may have, if its head looks authentic; else the error that it gets."""


class Failure(Protocol):
    """Renders errors, also where no installation is open."""

    def __call__(self, error: Exception, request_id: str, head: RawRequest | None = None) -> Response:
        """An error; one that is none of ours tells nothing of itself. ``head``: the request that has it, if known."""


class ServedProtocol(Struct, frozen=True, kw_only=True):
    """A protocol. ``takes``: whether a request is of it; ``refusal`` renders what a connection refuses."""

    name: str
    takes: Callable[[RawRequest], bool]
    failure: Failure
    refusal: Callable[[Refusal], Response]
    open: Callable[[Kms, ServeSettings], Endpoint]
