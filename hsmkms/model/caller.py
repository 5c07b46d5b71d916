"""The caller of a request: principal, source address and region, as authorisation and audit log use them."""

from typing import Final

from msgspec import Struct, field

from hsmkms import uuids
from hsmkms.model.ids import root_arn

MAX_USER_AGENT: Final = 1024
"""Longest User-Agent in characters that policies and the audit log use; the rest is cut off."""


class Caller(Struct, frozen=True, kw_only=True):
    """The caller of one request.

    ``principal`` is an ARN; ``region`` the region of the request; ``source_address`` an IP address, or None for a
    local program; ``secure_transport`` is true for TLS, and for callers on the same machine. ``access_key_id`` is
    for the audit log only, ``user_agent`` for the audit log and policies.
    """

    principal: str
    region: str
    source_address: str | None = None
    secure_transport: bool = True
    request_id: str = field(default_factory=uuids.new)
    grant_tokens: tuple[str, ...] = ()
    access_key_id: str | None = None
    user_agent: str | None = None


def local_root(account: str, region: str) -> Caller:
    """Return the account's root on this machine: the PIN gives full control of the token."""
    return Caller(principal=root_arn(account), region=region)
