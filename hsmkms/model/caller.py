"""Who calls, from where, and for which region: what every operation is judged and recorded by."""

import uuid

from msgspec import Struct, field

from hsmkms.model.ids import root_arn


def new_request_id() -> str:
    """A fresh id for one request (x-amzn-RequestId)."""
    return str(uuid.uuid4())


class Caller(Struct, frozen=True, kw_only=True):
    """The other side of one request.

    ``principal`` is an ARN; ``region`` the name space that the request is for; ``source_address`` an IP address, or
    None for a local program; ``secure_transport`` is true where nobody can listen (TLS, or the same machine).
    """

    principal: str
    region: str
    source_address: str | None = None
    secure_transport: bool = True
    request_id: str = field(default_factory=new_request_id)
    grant_tokens: tuple[str, ...] = ()


def local_root(account: str, region: str) -> Caller:
    """The account's root, calling from this machine: whoever holds the PIN owns the token."""
    return Caller(principal=root_arn(account), region=region)
