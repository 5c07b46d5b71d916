"""Leave for what the installation does by itself, and no user asked for: opening, reconciling, maintaining."""

import time

from hsmkms.model.permit import LIFETIME_SECONDS, OperatorAct, Permit


def own_permit(act: OperatorAct, *cka_ids: bytes) -> Permit:
    """A permit for an act of the operator's or of the installation's own on these objects."""
    return Permit(act, frozenset(cka_ids), 0, time.monotonic() + LIFETIME_SECONDS)
