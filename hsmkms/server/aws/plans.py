"""Remember what requests have in common that differ in their body, date and signature only.

A plan is made from a request whose signature was verified, and serves the requests that are like it: the same method
and path, query, header names, operation, and Authorization up to the signature. Each of them must still have its own
valid signature. Plans are dropped, all of them, as soon as any record changes in any process (``RecordCache.look``): a
deleted access key or user has no plan at the next request.
"""

from collections.abc import Callable, Hashable
from typing import Any, Final

from msgspec import Struct

from hsmkms.model.caller import Caller
from hsmkms.model.enums import Operation
from hsmkms.server.aws.sigv4 import Signing

MAX_PLANS: Final = 4096
"""Cache limit in plans; when it is reached the cache is cleared."""

MAX_ALIKE: Final = 2048
"""Limit in characters of what the plan's requests have in common, several times what clients send."""


class Plan(Struct, frozen=True, kw_only=True):
    """Common properties of requests. ``method``: the façade's; ``is_limited``: whether the operation has a quota."""

    signing: Signing
    principal: str
    region: str
    access_key_id: str
    operation: Operation
    is_limited: bool
    method: Callable[[Any, Caller], Struct | None]


def keep(plans: dict[Hashable, Plan], alike: tuple[str | None, ...], plan: Plan) -> None:
    """Keep a plan for the requests that are alike, unless what they have in common is long."""
    if sum(len(each or "") for each in alike) > MAX_ALIKE:
        return
    if len(plans) >= MAX_PLANS:
        plans.clear()
    plans[alike] = plan
