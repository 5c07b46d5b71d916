"""Encapsulate and decapsulate keys with one call each: C_EncapsulateKey and C_DecapsulateKey of PKCS#11 3.2.

python-pkcs11 asks C_EncapsulateKey for the size of the ciphertext first, and NSS softokn answers that with
CKR_BUFFER_TOO_SMALL. The length is fixed by the parameter set of the key, so the buffer has it from the start.

Source: PKCS #11 3.2, sections 5.18.8 and 5.18.9. All functions raise PKCS11Error; FunctionNotSupported on tokens of an
older standard.
"""

from typing import Final

from pkcs11.exceptions import FunctionFailed, FunctionNotSupported
from pkcs11.types import Session

from hsmkms.hsm.calls.attributes import pack
from hsmkms.hsm.calls.creation import Packed, destroy_object
from hsmkms.hsm.calls.declarations import ffi
from hsmkms.hsm.calls.function_list import EncapsulationFunctions, functions_of, newest_list_of, session_handle
from hsmkms.hsm.calls.mechanisms import BuiltMechanism
from hsmkms.hsm.return_codes import CKR_OK, error_of

_usable: Final[dict[int, EncapsulationFunctions | None]] = {}
"""By the address of a function list; None if its functions cannot be used. No module is unloaded."""


def encapsulate_key(
    session: Session, public_key: int, by: BuiltMechanism, template: Packed, length: int
) -> tuple[bytes, int]:
    """Call C_EncapsulateKey for a ciphertext of ``length`` bytes; return it and the handle of the shared secret."""
    functions = _functions(session)
    made, (array, count, _kept) = ffi.new("CK_ULONG *"), pack(template)
    out, written = ffi.new("CK_BYTE[]", length), ffi.new("CK_ULONG *", length)
    code = functions.encapsulate_key(session_handle(session), by.pointer, public_key, array, count, out, written, made)
    if code != CKR_OK:
        raise error_of(code)
    if written[0] != length:
        destroy_object(session, made[0])
        raise FunctionFailed
    return ffi.buffer(out, length)[:], made[0]


def decapsulate_key(session: Session, private_key: int, by: BuiltMechanism, template: Packed, ciphertext: bytes) -> int:
    """Call C_DecapsulateKey; return the handle of the shared secret."""
    functions = _functions(session)
    made, (array, count, _kept) = ffi.new("CK_ULONG *"), pack(template)
    code = functions.decapsulate_key(
        session_handle(session), by.pointer, private_key, array, count, ciphertext, len(ciphertext), made
    )
    if code != CKR_OK:
        raise error_of(code)
    handle: int = made[0]
    return handle


def _functions(session: Session) -> EncapsulationFunctions:
    address = newest_list_of(session)
    if address not in _usable:
        _usable[address] = _tried(session, address)
    functions = _usable[address]
    if functions is None:
        raise FunctionNotSupported
    return functions


def _tried(session: Session, address: int) -> EncapsulationFunctions | None:
    """Return the functions of a list if the session is known in it: p11-kit's remote module connects once per list.

    PKCS11Error if the session is lost, since that says nothing of the list.
    """
    if not address:
        return None
    functions = EncapsulationFunctions(address)
    number, info = session_handle(session), ffi.new("CK_SESSION_INFO *")
    if functions.is_complete and functions.get_session_info(number, info) == CKR_OK:
        return functions
    code = functions_of(session).get_session_info(number, info)
    if code != CKR_OK:
        raise error_of(code)
    return None
