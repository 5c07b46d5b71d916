"""Create and check grant tokens."""

import secrets
from collections.abc import Sequence
from typing import Final

from hsmkms.errors import InvalidGrantTokenException
from hsmkms.model.caller import Caller
from hsmkms.model.permit import OperatorAct, Permit
from hsmkms.model.records import GrantRecord
from hsmkms.rules.iam import grant_token
from hsmkms.rules.iam.grant_token import Claims
from hsmkms.service.keys.installation_keys import is_mac, macs
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import grants
from hsmkms.store.sealed_rows import grant_subject

REMEMBERED: Final = 10_000
"""Tokens whose MAC is not checked again in a process."""

_NONCE_BYTES: Final = 8


def make(core: Core, grant: GrantRecord) -> str:
    """Return a new token of a grant."""
    signed = grant_token.signed_part(
        Claims(grant.grant_id, grant.key_id, grant.region, secrets.token_bytes(_NONCE_BYTES))
    )
    return grant_token.encode(signed, next(macs(core, _permit, signed)))


def check(core: Core, caller: Caller, tokens: Sequence[str]) -> bool:
    """Raise InvalidGrantTokenException unless each was made by this installation, for the caller's region.

    Return True if the grant of one of them has ended, which only a caller with the permission is to learn.
    """
    found = [find(core, caller, read(core, caller, token)) for token in tokens]
    return None in found


def read(core: Core, caller: Caller, token: str) -> Claims:
    """Return a token's claims; InvalidGrantTokenException unless this installation made it, for the caller's region."""
    claims = _claims(core, token)
    if claims.region != caller.region:
        raise InvalidGrantTokenException(grant_token.INVALID)
    return claims


def find(core: Core, caller: Caller, claims: Claims) -> GrantRecord | None:
    """Return the grant of a token, or None if it has ended."""
    key = core.cache.key(caller.region, claims.key_id)
    if key is None:
        return None
    for each in key.grants(caller.principal):
        if each.grant_id == claims.grant_id:
            return each
    with core.store.reading() as conn:
        rows = core.seals.check(conn, grant_subject(claims.grant_id))
    return next(iter(grants.proven(rows, caller.region)), None)


def _claims(core: Core, token: str) -> Claims:
    known = core.grant_tokens
    claims = known.get(token)
    if claims is None:
        signed, mac = grant_token.split(token)
        if not is_mac(core, _permit, signed, mac):
            raise InvalidGrantTokenException(grant_token.INVALID)
        claims = grant_token.read(signed)
        if len(known) >= REMEMBERED:
            known.clear()
        known[token] = claims
    return claims


def _permit(cka_id: bytes) -> Permit:
    return own_permit(OperatorAct.CREDENTIALS, cka_id)
