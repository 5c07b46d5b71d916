"""Read several attributes of an object with one C_GetAttributeValue, without asking for their sizes first.

An attribute counts as reported only if the module changed its length to one that fits the buffer; a number, whose
buffer has exactly its size (NSS softokn takes no larger one for objects of a token), if it changed what was in the
buffer, and so does a single byte. Whatever it left untouched, or marked as unavailable, is read again alone: some
modules stop at the first attribute that they do not know, and some refuse the whole call. Those that a module refuses
in this way are remembered, and read alone from then on.

Source: PKCS #11 2.40, section 5.7 (C_GetAttributeValue): a call that answers CKR_ATTRIBUTE_SENSITIVE,
CKR_ATTRIBUTE_TYPE_INVALID or CKR_BUFFER_TOO_SMALL for one attribute has processed all others.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pkcs11 import exceptions as ckr
from pkcs11.constants import Attribute
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from hsmkms.hsm.calls.declarations import ffi
from hsmkms.hsm.calls.function_list import Functions, functions_of, session_handle
from hsmkms.hsm.calls.operations import MOST, overwrite
from hsmkms.hsm.return_codes import (
    CKR_ATTRIBUTE_SENSITIVE,
    CKR_ATTRIBUTE_TYPE_INVALID,
    CKR_BUFFER_TOO_SMALL,
    CKR_OK,
    NotInitializedError,
    error_of,
)

ROOM: Final = 2048
"""Bytes for each attribute: more than any that hsmkms reads together has, so that an untouched length shows."""

ROOM_ALONE: Final = 8192

_NUMBER_BYTES: Final = ffi.sizeof("CK_ULONG")
_NUMBERS: Final = frozenset(
    {
        Attribute.CLASS,
        Attribute.KEY_TYPE,
        Attribute.KEY_GEN_MECHANISM,
        Attribute.CERTIFICATE_TYPE,
        Attribute.MODULUS_BITS,
        Attribute.PRIME_BITS,
        Attribute.SUBPRIME_BITS,
        Attribute.VALUE_BITS,
        Attribute.VALUE_LEN,
        Attribute.PARAMETER_SET,
    }
)
"""Attributes of type CK_ULONG."""

_NO_BOOLEAN: Final = b"\xa5"
_UNTOUCHED: Final = _NO_BOOLEAN + os.urandom(_NUMBER_BYTES - 1)
"""What is in a buffer before the call: neither CK_TRUE nor CK_FALSE, and no number but by a chance of 2^-56."""

_PROCESSED: Final = (CKR_OK, CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL)
_UNKNOWN: Final = (ckr.AttributeSensitive, ckr.AttributeTypeInvalid)
_LOST: Final = (
    ckr.SessionHandleInvalid,
    ckr.SessionClosed,
    ckr.ObjectHandleInvalid,
    ckr.UserNotLoggedIn,
    ckr.DeviceRemoved,
    ckr.TokenNotPresent,
    NotInitializedError,
)
"""Errors of the session or the object: each further attempt would fail as well."""


def read_one(session: Session, handle: int, attribute: int) -> bytes:
    """Return the value of an attribute; the PKCS11Error of a token that refuses it."""
    return _read_alone(functions_of(session), session_handle(session), handle, attribute)


def read_several(session: Session, handle: int, attributes: Sequence[int]) -> dict[int, bytes | None]:
    """Return the values of attributes, None for each that cannot be read."""
    functions, number = functions_of(session), session_handle(session)
    together = [each for each in attributes if each not in functions.call_alone]
    code, values = _read_together(functions, number, handle, together) if together else (CKR_OK, {})
    if code != CKR_OK and isinstance(error_of(code), _LOST):
        return dict.fromkeys(attributes)
    missing = [each for each in attributes if each not in values]
    found, refused = _read_each(functions, number, handle, missing)
    if code not in _PROCESSED and found:
        functions.call_alone.update(refused)
    return {each: values.get(each, found.get(each)) for each in attributes}


def _read_each(
    functions: Functions, session: int, handle: int, attributes: Iterable[int]
) -> tuple[dict[int, bytes], list[int]]:
    """Read attributes one by one; return the values, and those refused with an error about the whole call."""
    found: dict[int, bytes] = {}
    refused: list[int] = []
    for attribute in attributes:
        try:
            found[attribute] = _read_alone(functions, session, handle, attribute)
        except _UNKNOWN:
            continue
        except _LOST:
            break
        except PKCS11Error:
            refused.append(attribute)
    return found, refused


def _read_together(
    functions: Functions, session: int, handle: int, attributes: Sequence[int]
) -> tuple[int, dict[int, bytes]]:
    """Return the code of the call, and the values that it certainly gave."""
    count = len(attributes)
    memory, template = ffi.new("CK_BYTE[]", count * ROOM), ffi.new("CK_ATTRIBUTE[]", count)
    for index, attribute in enumerate(attributes):
        entry = template[index]
        entry.type, entry.pValue, entry.ulValueLen = attribute, memory + index * ROOM, _room(attribute, ROOM)
        ffi.memmove(memory + index * ROOM, _UNTOUCHED, _NUMBER_BYTES)
    code = functions.get_attribute_value(session, handle, template, count)
    values: dict[int, bytes] = {}
    if code in _PROCESSED:
        for index, attribute in enumerate(attributes):
            length = template[index].ulValueLen
            value: bytes | None = ffi.buffer(memory + index * ROOM, length)[:] if length < ROOM else None
            if value is not None and value not in (_UNTOUCHED, _NO_BOOLEAN):
                values[attribute] = value
    overwrite(memory, count * ROOM)
    return code, values


def _read_alone(functions: Functions, session: int, handle: int, attribute: int) -> bytes:
    """Read one attribute; a value that does not fit is read again with the size that the module names."""
    room = _room(attribute, ROOM_ALONE)
    code, value = _read_into(functions, session, handle, attribute, room)
    if code == CKR_BUFFER_TOO_SMALL:
        room = _size(functions, session, handle, attribute) + 1
        code, value = _read_into(functions, session, handle, attribute, room)
    if code != CKR_OK:
        raise error_of(code)
    if value is None:  # CKR_OK, and nothing written or CK_UNAVAILABLE_INFORMATION, which the standard rules out
        raise ckr.FunctionFailed
    return value


def _read_into(functions: Functions, session: int, handle: int, attribute: int, room: int) -> tuple[int, bytes | None]:
    """Return the code of the call, and the value if the module has written one that fits."""
    memory, template = ffi.new("CK_BYTE[]", room), ffi.new("CK_ATTRIBUTE *", (attribute, ffi.NULL, room))
    template.pValue = memory
    ffi.memmove(memory, _UNTOUCHED, min(room, _NUMBER_BYTES))
    code = functions.get_attribute_value(session, handle, template, 1)
    length, is_number = template.ulValueLen, attribute in _NUMBERS
    fits = length <= room if is_number else length < room
    value: bytes | None = ffi.buffer(memory, length)[:] if code == CKR_OK and fits else None
    overwrite(memory, room)
    return code, None if value == (_UNTOUCHED if is_number else _NO_BOOLEAN) else value


def _size(functions: Functions, session: int, handle: int, attribute: int) -> int:
    template = ffi.new("CK_ATTRIBUTE *", (attribute, ffi.NULL, 0))
    code = functions.get_attribute_value(session, handle, template, 1)
    if code != CKR_OK:
        raise error_of(code)
    size: int = template.ulValueLen
    if size > MOST:
        raise ckr.FunctionFailed
    return size


def _room(attribute: int, usual: int) -> int:
    return _NUMBER_BYTES if attribute in _NUMBERS else usual


def pack(template: Iterable[tuple[int, bytes]]) -> tuple[Any, int, list[Any]]:
    """Build a CK_ATTRIBUTE array of packed values; return it with its length and the memory that it points to."""
    items = list(template)
    kept = [ffi.from_buffer("CK_BYTE[]", value) for _, value in items]
    array = ffi.new("CK_ATTRIBUTE[]", [(kind, data, len(data)) for (kind, _), data in zip(items, kept, strict=True)])
    return array, len(items), kept
