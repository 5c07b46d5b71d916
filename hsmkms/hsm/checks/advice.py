"""What an operator can do about a return code of a token."""

from typing import Final

_MECHANISM: Final = (
    "enable the mechanism in the token's policy (FIPS mode often hides some), or update its firmware; a token that has "
    "it not cannot do this"
)
_TEMPLATE: Final = (
    "the token refuses an attribute that hsmkms orders: look into the module's log for its name, and send this report "
    "as a bug report"
)
_DEVICE: Final = "look into the module's log and the HSM's own: the code itself says nothing more"
_DATA: Final = "the token computes in another way than the standard says: send this report as a bug report"
_SESSION: Final = "raise the number of sessions in the token's or the module's configuration, or close other programs"
_PIN: Final = "correct the PIN in its file; a few wrong ones lock it"
_MEMORY: Final = "free memory on the token, or use a larger one"
_GONE: Final = "check that the HSM is connected and running, then run token-check again"

ADVICE: Final = {
    "CKR_MECHANISM_INVALID": _MECHANISM,
    "CKR_MECHANISM_PARAM_INVALID": "the token has the mechanism, but not with these parameters: update its firmware",
    "CKR_FUNCTION_NOT_SUPPORTED": "the module does not have the function: use a newer version of it",
    "CKR_CURVE_NOT_SUPPORTED": "the token does not have this curve: use another key spec",
    "CKR_DOMAIN_PARAMS_INVALID": "the token does not have this curve, or not in this encoding: use another key spec",
    "CKR_KEY_SIZE_RANGE": "the token refuses keys of this length: look at its policy, or use another key spec",
    "CKR_ATTRIBUTE_TYPE_INVALID": _TEMPLATE,
    "CKR_ATTRIBUTE_VALUE_INVALID": _TEMPLATE,
    "CKR_ATTRIBUTE_READ_ONLY": _TEMPLATE,
    "CKR_TEMPLATE_INCOMPLETE": _TEMPLATE,
    "CKR_TEMPLATE_INCONSISTENT": _TEMPLATE,
    "CKR_KEY_FUNCTION_NOT_PERMITTED": _TEMPLATE,
    "CKR_ARGUMENTS_BAD": _TEMPLATE,
    "CKR_GENERAL_ERROR": _DEVICE,
    "CKR_FUNCTION_FAILED": _DEVICE,
    "CKR_DEVICE_ERROR": _DEVICE,
    "CKR_ENCRYPTED_DATA_INVALID": _DATA,
    "CKR_ENCRYPTED_DATA_LEN_RANGE": _DATA,
    "CKR_SIGNATURE_INVALID": _DATA,
    "CKR_DATA_INVALID": _DATA,
    "CKR_DATA_LEN_RANGE": _DATA,
    "CKR_BUFFER_TOO_SMALL": _DATA,
    "CKR_SESSION_COUNT": _SESSION,
    "CKR_DEVICE_MEMORY": _MEMORY,
    "CKR_TOKEN_RESOURCE_EXCEEDED": _MEMORY,
    "CKR_HOST_MEMORY": "the module has no memory: free some on this machine",
    "CKR_TOKEN_WRITE_PROTECTED": "make the token writable",
    "CKR_TOKEN_NOT_PRESENT": _GONE,
    "CKR_TOKEN_NOT_RECOGNIZED": _GONE,
    "CKR_DEVICE_REMOVED": _GONE,
    "CKR_USER_NOT_LOGGED_IN": "the module has lost the login: look into its log",
    "CKR_SESSION_HANDLE_INVALID": "the module has lost the session: look into its log",
    "CKR_PIN_INCORRECT": _PIN,
    "CKR_PIN_INVALID": _PIN,
    "CKR_PIN_LEN_RANGE": _PIN,
    "CKR_PIN_EXPIRED": "set a new PIN with the token's own tool",
    "CKR_PIN_LOCKED": "let the token's security officer unlock the PIN",
    "CKR_USER_PIN_NOT_INITIALIZED": "set a user PIN with the token's own tool",
}

OTHER: Final = "look the code up in the vendor's manual, and send this report as a bug report"


def advice_for(ckr: str) -> str:
    """Return what to do about a return code, given by its name; empty without one."""
    return ADVICE.get(ckr, OTHER) if ckr else ""
