"""Search for objects; python-pkcs11 reads ten attributes of each object that it finds."""

from typing import Final

from pkcs11.types import Session

from hsmkms.hsm.calls.attributes import pack
from hsmkms.hsm.calls.creation import Packed
from hsmkms.hsm.calls.declarations import ffi
from hsmkms.hsm.calls.function_list import Functions, functions_of, session_handle
from hsmkms.hsm.return_codes import CKR_OK, error_of

BATCH: Final = 256


def find_objects(session: Session, template: Packed) -> list[int]:
    """Return the handles of all objects that match. The search is always ended, so that another one can begin."""
    functions, number = functions_of(session), session_handle(session)
    array, count, _kept = pack(template)
    code = functions.find_objects_init(number, array, count)
    if code != CKR_OK:
        raise error_of(code)
    try:
        code, handles = _all(functions, number)
    finally:
        ended = functions.find_objects_final(number)
    for each in (code, ended):
        if each != CKR_OK:
            raise error_of(each)
    return handles


def _all(functions: Functions, session: int) -> tuple[int, list[int]]:
    """Ask until there are none left: a module may return fewer than there is room for."""
    batch, count = ffi.new("CK_ULONG[]", BATCH), ffi.new("CK_ULONG *")
    handles: list[int] = []
    while True:
        code = functions.find_objects(session, batch, BATCH, count)
        if code != CKR_OK or not count[0]:
            return code, handles
        handles += ffi.unpack(batch, count[0])
