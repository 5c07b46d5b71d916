"""Permits, which every procedure on the token requires.

A permit is issued by the pipeline that resolves a key, authorises the request and checks the key's state, or for an
act of the operator. Every procedure that uses, creates or destroys an object on the token checks it. So a caller of
the device that bypasses the pipeline fails at once, instead of working without authorisation.
"""

import time
from typing import Final

from msgspec import Struct

from hsmkms.errors import PermitError, PermitExpiredError
from hsmkms.model.enums import Operation, Word

LIFETIME_SECONDS: Final = 60.0
"""Lifetime of a permit, which includes the wait for a session; shorter if key material expires sooner."""


class OperatorAct(Word):
    """Acts on the token that are not operations of the API."""

    INITIALISE = "init"
    OPEN = "open"
    RECONCILE = "reconcile"
    MAINTAIN = "maintain"
    CREDENTIALS = "credentials"
    SEAL = "seal"
    BACKUP = "backup"
    CHANGE_PIN = "change-pin"
    REPORT = "report"


class Permit(Struct, frozen=True):
    """Permission for ``operation`` with the objects in ``covers`` (CKA_IDs) until ``not_after`` (monotonic seconds).

    ``version`` is the version of the record on which the decision was based; 0 if there is no record yet.
    """

    operation: Operation | OperatorAct
    covers: frozenset[bytes]
    version: int
    not_after: float

    def require(self, operations: frozenset[Operation | OperatorAct], cka_id: bytes | None = None) -> None:
        """Raise PermitError unless this permit is for one of ``operations``, covers the object, and has not expired."""
        if self.operation not in operations:
            raise PermitError(f"a permit for {self.operation} was shown where one of {sorted(operations)} is needed")
        if cka_id is not None and cka_id not in self.covers:
            raise PermitError(f"the permit for {self.operation} does not cover the object {cka_id.hex()}")
        if time.monotonic() > self.not_after:
            raise PermitExpiredError(f"the permit for {self.operation} has run out while the request waited: try again")
