"""Encode and parse import tokens: the terms of a wrapping key, opaque to the caller.

Its form is that of ``signed_claims``.
"""

from datetime import datetime
from typing import Final

from msgspec import Struct

from hsmkms.errors import InvalidImportTokenException
from hsmkms.model.enums import WrappingAlgorithm
from hsmkms.rules.signed_claims import SignedClaims

DAMAGED: Final = "The import token is damaged, or was made elsewhere: get a new one with GetParametersForImport."


class Claims(Struct, frozen=True, array_like=True):
    """The KMS key and its region, the wrapping key (its CKA_ID), the algorithm, and the expiry."""

    key_id: str
    region: str
    wrapping_key: bytes
    algorithm: WrappingAlgorithm
    valid_to: datetime


_FORM: Final = SignedClaims(b"hsmkms import token v1\x00", Claims, lambda: InvalidImportTokenException(DAMAGED))

signed_part: Final = _FORM.signed_part
split: Final = _FORM.split
read: Final = _FORM.read
