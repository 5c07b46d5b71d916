"""The permit: what a procedure on the token must be shown.

A permit comes out of the one pipeline that resolves, authorises and checks the state of a key (or out of an
operator's own act), and every procedure that uses, makes or destroys an object on the token asks for it. So a new
caller of the device that forgot the pipeline fails at once, instead of working without admission.
"""

import time
from enum import StrEnum
from typing import Final

from msgspec import Struct

from hsmkms.errors import PermitError, PermitExpiredError
from hsmkms.model.enums import Operation

LIFETIME_SECONDS: Final = 60.0
"""A permit that waited longer than this for a session is void; shorter where key material expires sooner."""


class OperatorAct(StrEnum):
    """Acts on the token that are no operation of the API."""

    INITIALISE = "init"
    OPEN = "open"
    RECONCILE = "reconcile"
    MAINTAIN = "maintain"
    CREDENTIALS = "credentials"
    SEAL = "seal"
    BACKUP = "backup"
    CHANGE_PIN = "change-pin"


class Permit(Struct, frozen=True):
    """Leave to do ``operation`` with the objects in ``covers`` (CKA_IDs) until ``not_after`` (monotonic seconds).

    ``version`` is that of the record on which the decision was made; 0 where there is no record yet.
    """

    operation: Operation | OperatorAct
    covers: frozenset[bytes]
    version: int
    not_after: float

    def require(self, operations: frozenset[Operation | OperatorAct], cka_id: bytes | None = None) -> None:
        """Raise PermitError unless this permit is for one of ``operations``, covers the object, and still holds."""
        if self.operation not in operations:
            raise PermitError(f"a permit for {self.operation} was shown where one of {sorted(operations)} is needed")
        if cka_id is not None and cka_id not in self.covers:
            raise PermitError(f"the permit for {self.operation} does not cover the object {cka_id.hex()}")
        if time.monotonic() > self.not_after:
            raise PermitExpiredError(f"the permit for {self.operation} has run out while the request waited: try again")
