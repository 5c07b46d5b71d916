"""Register the API of AWS KMS as one of the server's protocols."""

from typing import Final

from hsmkms.server.aws import errors
from hsmkms.server.aws.endpoint import open_endpoint
from hsmkms.server.aws.protocol import TARGET
from hsmkms.server.messages import RawRequest
from hsmkms.server.protocol import ServedProtocol


def takes(request: RawRequest) -> bool:
    """Return True for a request that is signed or names an operation, as clients of AWS do."""
    return TARGET in request.headers or "authorization" in request.headers


AWS: Final = ServedProtocol(
    name="AWS JSON 1.1", takes=takes, failure=errors.failure, refusal=errors.refusal, open=open_endpoint
)
