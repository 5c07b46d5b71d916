"""Resolve who may do what with a key: key policy, users' and groups' policies, and grants, as for a request."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from hsmkms.model.caller import Caller
from hsmkms.model.enums import Operation
from hsmkms.rules.iam import access
from hsmkms.rules.iam.documents import ACTIONS
from hsmkms.service.operator.simulation import CONTEXTS, WITHOUT_KEY, request_for
from hsmkms.service.pipeline import Call
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.record_cache import CachedKey

_NOT_DECIDED: Final = frozenset({"kms:RetireGrant"})
"""Decided by each grant alone."""


def _operation(action: str) -> Operation:
    return Operation.RE_ENCRYPT if action in CONTEXTS else Operation(action.removeprefix("kms:"))


ABOUT_KEYS: Final = tuple(
    sorted(each for each in ACTIONS - _NOT_DECIDED if _operation(each) not in WITHOUT_KEY and "CustomKey" not in each)
)
"""The actions that are about a key."""


class Rights(Struct, frozen=True, kw_only=True):
    """What one principal may do with a key, by the name of the policy or grant that decides.

    ``conditional``: actions about which a policy has a statement with conditions, so that other requests may be decided
    otherwise: these are for a request without encryption context and source address.
    """

    principal: str
    allowed: dict[str, list[str]]
    conditional: list[str]


def rights(core: Core, key: CachedKey, principals: Sequence[str]) -> list[Rights]:
    """Return the rights of each principal (ARN) on a key, those without any left out."""
    requests = {each: request_for(_operation(each), each, key.record.key_id, None, {}) for each in ABOUT_KEYS}
    resolved = [_of_principal(core, key, each, requests) for each in principals]
    return [each for each in resolved if each.allowed or each.conditional]


def _of_principal(core: Core, key: CachedKey, principal: str, requests: Mapping[str, Struct | None]) -> Rights:
    caller = Caller(principal=principal, region=key.record.region)
    own = core.cache.identity(principal, core.installation.account).own
    allowed: dict[str, list[str]] = defaultdict(list)
    conditional = []
    for action, request in requests.items():
        call = Call(core, _operation(action), caller, request)
        decision = core.authorise.decide(call.question(action, key.record.arn, key))
        name = action.removeprefix("kms:")
        if decision.allowed:
            allowed[_deciding(decision)].append(name)
        if access.asks_more(action, key.policy(), own):
            conditional.append(name)
    return Rights(principal=principal, allowed=dict(allowed), conditional=conditional)


def _deciding(decision: access.Decision) -> str:
    """Name what decides: the policy, its statement, and what delegates to it."""
    words = decision.policy or decision.kind
    if decision.statement:
        words = f"{words}, statement {decision.statement}"
    return f"{words}, by way of {decision.delegated_by}" if decision.delegated_by else words
