"""The protocols that the server speaks: one row each."""

from typing import Final

from hsmkms.server.aws.served import AWS
from hsmkms.server.messages import RawRequest
from hsmkms.server.protocol import ServedProtocol

PROTOCOLS: Final[tuple[ServedProtocol, ...]] = (AWS,)
"""The first one that takes a request answers it. The last one answers all others, and input that is no request."""

*OTHERS, DEFAULT = PROTOCOLS


def protocol_of(request: RawRequest) -> ServedProtocol:
    """Return the protocol that answers a request."""
    for each in OTHERS:  # on the path of every request, where a generator takes longer
        if each.takes(request):
            return each
    return DEFAULT
