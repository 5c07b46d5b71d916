"""Translation of CKR codes: a table, and one sentence for all other codes."""

import logging

import pytest
from pkcs11 import exceptions as ckr

from hsmkms import errors
from hsmkms.hsm import return_codes
from hsmkms.hsm.ckr_names import ckr_name, ckr_of
from hsmkms.hsm.faults import FAULTS, translate, translated

EXPECTED = {
    "SessionHandleInvalid": "SessionLostError",
    "SessionClosed": "SessionLostError",
    "UserNotLoggedIn": "SessionLostError",
    "OperationActive": "SessionLostError",
    "OperationNotInitialized": "SessionLostError",
    "DeviceRemoved": "SessionLostError",
    "TokenNotPresent": "SessionLostError",
    "SlotIDInvalid": "SessionLostError",
    "PinLocked": "TokenUnavailableError",
    "HostMemory": "TokenUnavailableError",
    "KeyHandleInvalid": "ObjectLostError",
    "ObjectHandleInvalid": "ObjectLostError",
    "UnwrappingKeyHandleInvalid": "ObjectLostError",
    "DeviceError": "TokenUnavailableError",
    "TokenNotRecognised": "TokenUnavailableError",
    "GeneralError": "TokenUnavailableError",
    "FunctionFailed": "TokenUnavailableError",
    "FunctionCancelled": "TokenUnavailableError",
    "SessionCount": "TokenUnavailableError",
    "DeviceMemory": "TokenFullError",
    "EncryptedDataInvalid": "RejectedDataError",
    "EncryptedDataLenRange": "RejectedDataError",
    "SignatureInvalid": "RejectedDataError",
    "SignatureLenRange": "RejectedDataError",
    "WrappedKeyInvalid": "RejectedDataError",
    "WrappedKeyLenRange": "RejectedDataError",
    "MechanismInvalid": "UnsupportedOperationException",
    "FunctionNotSupported": "UnsupportedOperationException",
    "MechanismParamInvalid": "UnsupportedOperationException",
    "FunctionRejected": "UnsupportedOperationException",
    "TemplateIncomplete": "UnsupportedOperationException",
    "TemplateInconsistent": "UnsupportedOperationException",
    "AttributeTypeInvalid": "UnsupportedOperationException",
    "AttributeValueInvalid": "UnsupportedOperationException",
    "AttributeReadOnly": "UnsupportedOperationException",
    "DomainParamsInvalid": "UnsupportedOperationException",
    "KeySizeRange": "UnsupportedOperationException",
    "KeyTypeInconsistent": "UnsupportedOperationException",
    "UnwrappingKeySizeRange": "UnsupportedOperationException",
    "UnwrappingKeyTypeInconsistent": "UnsupportedOperationException",
    "TokenWriteProtected": "TokenError",
    "CurveNotSupportedError": "UnsupportedOperationException",
    "BufferTooSmallError": "TokenError",
    "NotInitializedError": "SessionLostError",
    "TokenResourceExceededError": "TokenFullError",
}
"""Typed by hand from the meaning of each code in PKCS #11 2.40, section 5.1."""

CODES = {
    "SessionLostError": "DependencyTimeoutException",
    "TokenUnavailableError": "DependencyTimeoutException",
    "ObjectLostError": "KeyUnavailableException",
    "TokenFullError": "LimitExceededException",
    "RejectedDataError": "InvalidCiphertextException",
    "UnsupportedOperationException": "UnsupportedOperationException",
    "TokenError": "KMSInternalException",
}


def test_table_is_complete() -> None:
    """Every row of the table is in the table of this test."""
    assert {fault.__name__ for fault in FAULTS} == EXPECTED.keys()


@pytest.mark.parametrize(("fault", "expected"), EXPECTED.items())
def test_fault_becomes_its_error(fault: str, expected: str) -> None:
    """Each code becomes its own error, with that error's AWS code, a sentence, and its cause."""
    original = getattr(ckr, fault, None) or getattr(return_codes, fault)
    original = original("detail of the vendor")
    with pytest.raises(errors.HsmKmsError) as caught, translated():
        raise original
    assert type(caught.value).__name__ == expected
    assert caught.value.code == CODES[expected]
    assert caught.value.__cause__ is original
    assert "detail of the vendor" not in str(caught.value)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (ckr.ArgumentsBad, "CKR_ARGUMENTS_BAD"),
        (ckr.PinIncorrect, "CKR_PIN_INCORRECT"),
        (ckr.PKCS11Error, "a return code without a name"),
    ],
)
def test_other_faults_are_internal(fault: type[ckr.PKCS11Error], name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A code outside the table becomes an internal error that names the code, while the log has the detail."""
    with caplog.at_level(logging.ERROR, logger="hsmkms.hsm"):
        error = translate(fault("detail of the vendor"))
    assert type(error) is errors.TokenError
    assert error.code == "KMSInternalException"
    assert str(error) == (
        f"the token answered {name} to a call that it should accept: check it with `hsmkms token-check`"
    )
    assert fault.__name__ in caplog.text
    assert "detail of the vendor" in caplog.text


@pytest.mark.parametrize(
    ("number", "name"),
    [(0x1B, "CKR_ACTION_PROHIBITED"), (0x68, "CKR_KEY_FUNCTION_NOT_PERMITTED"), (0x140, "CKR_CURVE_NOT_SUPPORTED")],
)
def test_refusals_without_a_class(number: int, name: str) -> None:
    """Codes without a class in python-pkcs11 are refusals with their name as well."""
    error = translate(ckr.PKCS11Error(f"Unmapped error code {number:#x}"))
    assert type(error) is errors.UnsupportedOperationException
    assert str(error).endswith(f"({name})")


def test_names_of_codes() -> None:
    """Every class has the name of its code in the standard; a vendor's number stays a number."""
    assert ckr_name(ckr.SlotIDInvalid()) == "CKR_SLOT_ID_INVALID"
    assert ckr_name(ckr.GeneralError()) == "CKR_GENERAL_ERROR"
    assert ckr_name(ckr.TokenNotRecognised()) == "CKR_TOKEN_NOT_RECOGNIZED"
    assert ckr_name(ckr.PKCS11Error("Unmapped error code 0x80000123")) == "CKR 0x80000123"
    assert ckr_name(ckr.PKCS11Error("Buffer was too small. Should never see this.")) == "CKR_BUFFER_TOO_SMALL"
    assert ckr_of(errors.TokenError("no code")) == ""
    with (
        pytest.raises(errors.UnsupportedOperationException, match=r"\(CKR_MECHANISM_INVALID\)") as caught,
        translated(),
    ):
        raise ckr.MechanismInvalid
    assert ckr_of(caught.value) == "CKR_MECHANISM_INVALID"


def test_known_faults_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A known return code is translated for the caller, and not logged."""
    translate(ckr.GeneralError())
    assert caplog.text == ""


def test_subclasses_are_translated_as_their_base() -> None:
    """A subclass of a python-pkcs11 error is translated like its base class."""

    class Special(ckr.DeviceMemory):
        pass

    assert isinstance(translate(Special()), errors.TokenFullError)


def test_other_errors_pass() -> None:
    """Only PKCS#11 errors are translated."""
    with pytest.raises(ZeroDivisionError), translated():
        _ = 1 // 0


def test_what_is_worth_a_second_try() -> None:
    """A lost session, which is retried, is distinguished from a token that is away, which is not."""
    assert issubclass(errors.SessionLostError, errors.TokenUnavailableError)
    assert not issubclass(errors.TokenUnavailableError, errors.SessionLostError)
