"""Issue permits for work that no user requested: opening, reconciling, maintaining the installation."""

import time

from hsmkms.model.permit import LIFETIME_SECONDS, OperatorAct, Permit


def own_permit(act: OperatorAct, *cka_ids: bytes) -> Permit:
    """Return a permit for an act of the operator or of the installation itself on these objects."""
    return Permit(act, frozenset(cka_ids), 0, time.monotonic() + LIFETIME_SECONDS)
