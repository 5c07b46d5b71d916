"""The protocols that the server speaks: one row each."""

from typing import Final

from hsmkms.server.aws.served import AWS
from hsmkms.server.messages import RawRequest
from hsmkms.server.protocol import ServedProtocol

PROTOCOLS: Final[tuple[ServedProtocol, ...]] = (AWS,)
"""A request is answered by the first one that takes it. The last one has whatever is left, and what is no request."""

*OTHERS, DEFAULT = PROTOCOLS


def protocol_of(request: RawRequest) -> ServedProtocol:
    """The protocol that answers a request."""
    return next((each for each in OTHERS if each.takes(request)), DEFAULT)
