"""Who calls, from where, and for which region: what every operation is judged and recorded by."""

from typing import Final

from msgspec import Struct, field

from hsmkms import uuids
from hsmkms.model.ids import root_arn

MAX_USER_AGENT: Final = 1024
"""Characters of what a client calls itself: policies and the audit log know no more."""


class Caller(Struct, frozen=True, kw_only=True):
    """The other side of one request.

    ``principal`` is an ARN; ``region`` the name space that the request is for; ``source_address`` an IP address, or
    None for a local program; ``secure_transport`` is true where nobody can listen (TLS, or the same machine).
    ``just_looked``: to recognise the caller for this one request, its process has asked what changed in the database.
    ``access_key_id`` is for the audit log alone, ``user_agent`` for that and for policies.
    """

    principal: str
    region: str
    source_address: str | None = None
    secure_transport: bool = True
    request_id: str = field(default_factory=uuids.new)
    grant_tokens: tuple[str, ...] = ()
    just_looked: bool = False
    access_key_id: str | None = None
    user_agent: str | None = None


def local_root(account: str, region: str) -> Caller:
    """The account's root, calling from this machine: whoever holds the PIN owns the token."""
    return Caller(principal=root_arn(account), region=region)
