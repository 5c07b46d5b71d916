"""Making and checking grant tokens."""

import hmac
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hsmkms.errors import InvalidGrantTokenException
from hsmkms.model.permit import OperatorAct, Permit
from hsmkms.model.records import GrantRecord
from hsmkms.rules.iam import grant_token
from hsmkms.rules.iam.grant_token import Claims
from hsmkms.service.keys.installation_keys import macs
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import grants
from hsmkms.store.sealed_rows import grant_subject

if TYPE_CHECKING:
    from hsmkms.service.pipeline import Call

REMEMBERED: Final = 10_000
"""Tokens whose MAC is not checked again in a process."""

_NONCE_BYTES: Final = 8


def make(core: Core, grant: GrantRecord) -> str:
    """A new token of a grant."""
    signed = grant_token.signed_part(
        Claims(grant.grant_id, grant.key_id, grant.region, secrets.token_bytes(_NONCE_BYTES))
    )
    return grant_token.encode(signed, next(macs(core, _permit, signed)))


def check(call: "Call", tokens: Sequence[str]) -> None:
    """Raise InvalidGrantTokenException unless each was made here, for this region.

    That its grant has ended is noted in the call: nobody learns it but who may do what he asks for.
    """
    for token in tokens:
        claims = read(call, token)
        if find(call, claims) is None:
            call.ended_grant_token = True


def read(call: "Call", token: str) -> Claims:
    """What a token says, or InvalidGrantTokenException if it was not made here, or for another region."""
    claims = _claims(call.core, token)
    if claims.region != call.region:
        raise InvalidGrantTokenException(grant_token.INVALID)
    return claims


def find(call: "Call", claims: Claims) -> GrantRecord | None:
    """The grant of a token, or None if it has ended."""
    key = call.core.cache.key(call.region, claims.key_id)
    if key is None:
        return None
    for each in key.grants(call.caller.principal):
        if each.grant_id == claims.grant_id:
            return each
    with call.core.store.reading() as conn:
        rows = call.core.seals.check(conn, grant_subject(claims.grant_id))
    return next(iter(grants.proven(rows, call.region)), None)


def _claims(core: Core, token: str) -> Claims:
    known = core.grant_tokens
    claims = known.get(token)
    if claims is None:
        signed, mac = grant_token.split(token)
        if not any(hmac.compare_digest(each, mac) for each in macs(core, _permit, signed)):
            raise InvalidGrantTokenException(grant_token.INVALID)
        claims = grant_token.read(signed)
        if len(known) >= REMEMBERED:
            known.clear()
        known[token] = claims
    return claims


def _permit(cka_id: bytes) -> Permit:
    return own_permit(OperatorAct.CREDENTIALS, cka_id)
