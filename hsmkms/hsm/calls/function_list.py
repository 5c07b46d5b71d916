"""Find the function list that python-pkcs11 uses, so that a process has one for each module.

A second ``C_GetFunctionList`` is not always the same list: p11-kit's remote module opens another connection for each,
with sessions and a login of its own. So python-pkcs11 loads the module and asks once, and its pointer is read out of
its objects: ``HasFuncList``, the base of library, slot, token and session, holds three pointers and nothing else, right
behind the head of a Python object. Nothing public returns them. Three checks make that safe: the size of that base must
be that of three pointers (another version of python-pkcs11 may differ), a list must have a known version, and calls go
only through lists that were registered when their module was loaded.
"""

from collections.abc import Callable
from ctypes import c_size_t
from typing import Any, Final

from pkcs11._pkcs11 import HasFuncList  # type: ignore[attr-defined]
from pkcs11.types import Session

from hsmkms.hsm.calls.declarations import ffi
from hsmkms.hsm.return_codes import CKR_OK

_HEAD: Final = object.__basicsize__
_POINTERS: Final = 3
"""The function lists of PKCS#11 2.40, 3.0 and 3.2."""

_LAYOUT_IS_KNOWN: Final = HasFuncList.__basicsize__ == _HEAD + _POINTERS * ffi.sizeof("void *")
_VERSIONS: Final = (2, 3)
_NEWEST: Final = (3, 2)
"""The version of the last list, as C_GetInterface was asked for it."""

UNKNOWN_LAYOUT: Final = (
    "this version of python-pkcs11 keeps its function list elsewhere: install one of 0.10.1 to 0.10.x"
)
NO_LIST: Final = "C_GetFunctionList gave no function list of PKCS#11 2 or 3"


def lists_of(library: HasFuncList) -> list[int]:
    """Return the addresses of a library's function lists: of 2.40, and of 3.x where it has them, else 0.

    LookupError if python-pkcs11 or the module is one that hsmkms cannot use.
    """
    if not _LAYOUT_IS_KNOWN:
        raise LookupError(UNKNOWN_LAYOUT)
    first, *newer = ffi.unpack(ffi.cast("uintptr_t *", id(library) + _HEAD), _POINTERS)
    if not first or _major(first) not in _VERSIONS:
        raise LookupError(NO_LIST)
    return [first, *(each if each and _major(each) == _VERSIONS[-1] else 0 for each in newer)]


def _major(address: int) -> int:
    version: int = ffi.cast("CK_VERSION *", address).major
    return version


class Functions:
    """The entry points of a module that is loaded in this process, as callables that return CKR codes.

    ``call_alone``: attributes that the module refuses to read together with others (attributes.py).
    """

    def __init__(self, address: int) -> None:
        listed = ffi.cast("CK_FUNCTION_LIST *", address)
        self.address = address
        self.call_alone: set[int] = set()
        self.initialize: Callable[..., int] = listed.C_Initialize
        self.finalize: Callable[..., int] = listed.C_Finalize
        self.get_token_info: Callable[..., int] = listed.C_GetTokenInfo
        self.get_mechanism_info: Callable[..., int] = listed.C_GetMechanismInfo
        self.get_session_info: Callable[..., int] = listed.C_GetSessionInfo
        self.close_session: Callable[..., int] = listed.C_CloseSession
        self.init_token: Callable[..., int] = listed.C_InitToken
        self.create_object: Callable[..., int] = listed.C_CreateObject
        self.copy_object: Callable[..., int] = listed.C_CopyObject
        self.destroy_object: Callable[..., int] = listed.C_DestroyObject
        self.set_attribute_value: Callable[..., int] = listed.C_SetAttributeValue
        self.get_attribute_value: Callable[..., int] = listed.C_GetAttributeValue
        self.find_objects_init: Callable[..., int] = listed.C_FindObjectsInit
        self.find_objects: Callable[..., int] = listed.C_FindObjects
        self.find_objects_final: Callable[..., int] = listed.C_FindObjectsFinal
        self.encrypt_init: Callable[..., int] = listed.C_EncryptInit
        self.encrypt: Callable[..., int] = listed.C_Encrypt
        self.decrypt_init: Callable[..., int] = listed.C_DecryptInit
        self.decrypt: Callable[..., int] = listed.C_Decrypt
        self.sign_init: Callable[..., int] = listed.C_SignInit
        self.sign: Callable[..., int] = listed.C_Sign
        self.verify_init: Callable[..., int] = listed.C_VerifyInit
        self.verify: Callable[..., int] = listed.C_Verify
        self.generate_key: Callable[..., int] = listed.C_GenerateKey
        self.generate_key_pair: Callable[..., int] = listed.C_GenerateKeyPair
        self.wrap_key: Callable[..., int] = listed.C_WrapKey
        self.unwrap_key: Callable[..., int] = listed.C_UnwrapKey
        self.derive_key: Callable[..., int] = listed.C_DeriveKey


class EncapsulationFunctions:
    """The entry points for key encapsulation of a list of PKCS#11 3.2."""

    def __init__(self, address: int) -> None:
        listed = ffi.cast("CK_FUNCTION_LIST_3_2 *", address)
        self.is_complete = ffi.NULL not in (listed.C_EncapsulateKey, listed.C_DecapsulateKey)
        self.encapsulate_key: Callable[..., int] = listed.C_EncapsulateKey
        self.decapsulate_key: Callable[..., int] = listed.C_DecapsulateKey
        self.get_session_info: Callable[..., int] = listed.C_GetSessionInfo


class MessageFunctions:
    """The entry points for message-based encryption of a list of PKCS#11 3.x."""

    def __init__(self, address: int) -> None:
        listed = ffi.cast("CK_FUNCTION_LIST_3_0 *", address)
        self.is_complete = ffi.NULL not in (
            listed.C_MessageEncryptInit,
            listed.C_EncryptMessage,
            listed.C_MessageEncryptFinal,
        )
        self.begin: Callable[..., int] = listed.C_MessageEncryptInit
        self.encrypt: Callable[..., int] = listed.C_EncryptMessage
        self.end: Callable[..., int] = listed.C_MessageEncryptFinal
        self.get_session_info: Callable[..., int] = listed.C_GetSessionInfo

    def knows(self, session: Session) -> bool:
        """Return whether the session is valid in this list: on p11-kit's remote module each list is a connection."""
        return self.get_session_info(session_handle(session), ffi.new("CK_SESSION_INFO *")) == CKR_OK


_registered: Final[dict[int, Functions]] = {}


def register(address: int) -> Functions:
    """Return the functions of a list, which stays known as long as the process lives: no module is unloaded."""
    functions = _registered[address] = Functions(address)
    return functions


def functions_of(session: Session) -> Functions:
    """Return the functions of the list through which python-pkcs11 opened this session."""
    return _registered[c_size_t.from_address(id(session) + _HEAD).value]


def newest_list_of(session: Session) -> int:
    """Return the address of the list of PKCS#11 3.2 that a session's module gave python-pkcs11; 0 if it has none."""
    functions_of(session)  # a session of a module that was loaded and registered here
    address: int = ffi.cast("uintptr_t *", id(session) + _HEAD)[_POINTERS - 1]
    if not address:
        return 0
    version = ffi.cast("CK_VERSION *", address)
    return address if (version.major, version.minor) >= _NEWEST else 0


def session_handle(session: Session) -> Any:  # noqa: ANN401 - an int, which the stub leaves out
    """Return a session's PKCS #11 handle."""
    return session.handle  # type: ignore[attr-defined]
