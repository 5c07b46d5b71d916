"""How errors are named at the command line: what the endpoint would answer by its AWS code, the operator's by class."""

import pytest

from hsmkms.cli.errors import describe
from hsmkms.errors import HsmKmsError, PinError, RejectedDataError, RejectedMaterialError, TokenUnavailableError
from hsmkms.errors import ValidationException as Validation


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (RejectedDataError("no"), "InvalidCiphertextException"),
        (RejectedMaterialError("no"), "IncorrectKeyMaterialException"),
        (Validation("no"), "ValidationException"),
        (PinError("no"), "PinError"),
        (TokenUnavailableError("no"), "TokenUnavailableError"),
    ],
)
def test_names(error: HsmKmsError, name: str) -> None:
    """What is wrong with a request's data is named as an AWS client sees it."""
    assert describe(error) == f"{name}: no"
