"""Create, copy, change and destroy objects, one call each; python-pkcs11 reads ten attributes of each new object.

Templates are sequences of attribute numbers and packed values, in the order in which the token gets them. All functions
return object handles and raise PKCS11Error.
"""

from collections.abc import Iterable
from typing import Any

from pkcs11.exceptions import KeyHandleInvalid, ObjectHandleInvalid, UnwrappingKeyHandleInvalid
from pkcs11.types import Session

from hsmkms.hsm.calls.attributes import pack
from hsmkms.hsm.calls.declarations import ffi
from hsmkms.hsm.calls.function_list import functions_of, session_handle
from hsmkms.hsm.calls.mechanisms import BuiltMechanism
from hsmkms.hsm.return_codes import CKR_OK, error_of

Packed = Iterable[tuple[int, bytes]]


def create_object(session: Session, template: Packed) -> int:
    """Call C_CreateObject."""
    made, (array, count, _kept) = ffi.new("CK_ULONG *"), pack(template)
    return _handle(functions_of(session).create_object(session_handle(session), array, count, made), made)


def generate_key(session: Session, by: BuiltMechanism, template: Packed) -> int:
    """Call C_GenerateKey."""
    made, (array, count, _kept) = ffi.new("CK_ULONG *"), pack(template)
    return _handle(functions_of(session).generate_key(session_handle(session), by.pointer, array, count, made), made)


def generate_key_pair(session: Session, by: BuiltMechanism, public: Packed, private: Packed) -> tuple[int, int]:
    """Call C_GenerateKeyPair; return the handles of the public and the private half."""
    (of_public, public_count, _kept), (of_private, private_count, _also_kept) = pack(public), pack(private)
    public_key, private_key = ffi.new("CK_ULONG *"), ffi.new("CK_ULONG *")
    code = functions_of(session).generate_key_pair(
        session_handle(session), by.pointer, of_public, public_count, of_private, private_count, public_key, private_key
    )
    return _handle(code, public_key), _handle(code, private_key)


def unwrap_key(session: Session, unwrapping_key: int, by: BuiltMechanism, wrapped: bytes, template: Packed) -> int:
    """Call C_UnwrapKey. A handle that is not valid is that of the unwrapping key, however the module calls it."""
    made, (array, count, _kept) = ffi.new("CK_ULONG *"), pack(template)
    code = functions_of(session).unwrap_key(
        session_handle(session), by.pointer, unwrapping_key, wrapped, len(wrapped), array, count, made
    )
    try:
        return _handle(code, made)
    except (KeyHandleInvalid, ObjectHandleInvalid) as exc:
        raise UnwrappingKeyHandleInvalid from exc


def derive_key(session: Session, base_key: int, by: BuiltMechanism, template: Packed) -> int:
    """Call C_DeriveKey."""
    made, (array, count, _kept) = ffi.new("CK_ULONG *"), pack(template)
    code = functions_of(session).derive_key(session_handle(session), by.pointer, base_key, array, count, made)
    return _handle(code, made)


def copy_object(session: Session, handle: int, changes: Packed) -> int:
    """Call C_CopyObject."""
    made, (array, count, _kept) = ffi.new("CK_ULONG *"), pack(changes)
    return _handle(functions_of(session).copy_object(session_handle(session), handle, array, count, made), made)


def set_attributes(session: Session, handle: int, changes: Packed) -> None:
    """Call C_SetAttributeValue."""
    array, count, _kept = pack(changes)
    code = functions_of(session).set_attribute_value(session_handle(session), handle, array, count)
    if code != CKR_OK:
        raise error_of(code)


def destroy_object(session: Session, handle: int) -> None:
    """Call C_DestroyObject."""
    code = functions_of(session).destroy_object(session_handle(session), handle)
    if code != CKR_OK:
        raise error_of(code)


def _handle(code: int, made: Any) -> int:  # noqa: ANN401 - cdata
    if code != CKR_OK:
        raise error_of(code)
    handle: int = made[0]
    return handle
