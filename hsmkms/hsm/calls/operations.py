"""Encrypt, decrypt, sign, verify and wrap with two calls: the ...Init function and the operation.

python-pkcs11 asks for the size of the output first, which costs a network HSM another round trip, and which some tokens
answer wrongly (NSS softokn leaves out the tag of AES-GCM). Here the buffer is large enough for what hsmkms does; if a
token still answers CKR_BUFFER_TOO_SMALL, which leaves the operation active, it is called once more with the size that
it returned.

Buffers belong to the thread and are used again. What may have held plaintext is overwritten at once; the ``bytes`` that
is returned is Python's own copy. The caller has the session for itself (session/pool.py), so that no lock is needed.
An interruption between the two calls leaves the operation active: the next one in that session raises OperationActive,
which counts as a lost session. Source: PKCS #11 2.40, sections 5.2 and 5.8 to 5.13.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

from pkcs11.exceptions import SignatureInvalid, SignatureLenRange
from pkcs11.types import Session

from hsmkms.hsm.calls.declarations import ffi
from hsmkms.hsm.calls.function_list import functions_of, session_handle
from hsmkms.hsm.calls.mechanisms import BuiltMechanism
from hsmkms.hsm.return_codes import CKR_BUFFER_TOO_SMALL, CKR_FUNCTION_FAILED, CKR_OK, BufferTooSmallError, error_of

ROOM: Final = 8192
"""Bytes of a thread's own buffer: enough for 4,096 bytes of plaintext, an ML-DSA signature, a wrapped RSA key."""

MOST: Final = 1 << 20
"""The largest output that a token may ask for."""

_ZEROS: Final = bytes(ROOM)


class Scratch(threading.local):
    """Memory that a thread uses again for each call. ``written``: that of ``out`` as Python sees it."""

    def __init__(self) -> None:
        self.out = ffi.new("CK_BYTE[]", ROOM)
        self.written = ffi.buffer(self.out)
        self.length = ffi.new("CK_ULONG *")


SCRATCH: Final = Scratch()


def encrypt(session: Session, key: int, by: BuiltMechanism, data: bytes, room: int = ROOM) -> bytes:
    """Encrypt; ``room``: the longest output that is expected."""
    functions = functions_of(session)
    return operate(functions.encrypt_init, functions.encrypt, session_handle(session), key, by, data, room)


def decrypt(session: Session, key: int, by: BuiltMechanism, data: bytes, room: int = ROOM) -> bytes:
    """Decrypt; the buffer is overwritten also if the token refuses the data after it has written some of it."""
    functions = functions_of(session)
    return operate(functions.decrypt_init, functions.decrypt, session_handle(session), key, by, data, room, wipe=True)


def sign(session: Session, key: int, by: BuiltMechanism, data: bytes, size: int | None = None) -> bytes:
    """Sign, or compute a MAC; the buffer is overwritten, since keys are derived from some MACs.

    ``size``: of the output, where the module must not be given more room.
    """
    functions, handle = functions_of(session), session_handle(session)
    room, exact = size or ROOM, size is not None
    return operate(functions.sign_init, functions.sign, handle, key, by, data, room, wipe=True, exact=exact)


def verify(session: Session, key: int, by: BuiltMechanism, data: bytes, signature: bytes) -> bool:
    """Verify; False for CKR_SIGNATURE_INVALID and CKR_SIGNATURE_LEN_RANGE."""
    functions, handle = functions_of(session), session_handle(session)
    _require_ok(functions.verify_init(handle, by.pointer, key))
    try:
        _require_ok(functions.verify(handle, data, len(data), signature, len(signature)))
    except (SignatureInvalid, SignatureLenRange):
        return False
    return True


def wrap_key(session: Session, wrapping_key: int, by: BuiltMechanism, key: int) -> bytes:
    """Wrap a key: one call, since there is no operation to begin."""
    wrap, handle, length = functions_of(session).wrap_key, session_handle(session), SCRATCH.length
    out, room = SCRATCH.out, ROOM
    length[0] = room
    code = wrap(handle, by.pointer, wrapping_key, key, out, length)
    if code == CKR_BUFFER_TOO_SMALL and room < length[0] <= MOST:
        room = length[0]
        out = ffi.new("CK_BYTE[]", room)
        code = wrap(handle, by.pointer, wrapping_key, key, out, length)
    return _taken(code, out, length[0], room, wipe=False)


def operate(  # noqa: PLR0913 - a call of two steps, and its buffer
    begin: Callable[..., int],
    finish: Callable[..., int],
    session: int,
    key: int,
    by: BuiltMechanism,
    data: bytes,
    room: int,
    *,
    wipe: bool = False,
    exact: bool = False,
) -> bytes:
    """Begin an operation and finish it; written out for speed, since every request comes through here."""
    code = begin(session, by.pointer, key)
    if code != CKR_OK:
        raise error_of(code)
    if room > ROOM:
        return _finish_large(finish, session, data, room, wipe=wipe)
    scratch = SCRATCH
    out, length = scratch.out, scratch.length
    if not exact:
        room = ROOM
    length[0] = room
    try:
        code = finish(session, data, len(data), out, length)
        written = length[0]
        if code == CKR_OK and (written != ROOM or exact):
            if written > room:
                raise BufferTooSmallError
            output: bytes = scratch.written[:written]
            return output
    finally:
        if wipe:
            overwrite(out, room)
    if code == CKR_BUFFER_TOO_SMALL and room < written <= MOST:
        return _finish_large(finish, session, data, written, wipe=wipe, again=True)
    # Without an error it has written nothing: none of our outputs is as long as the whole buffer.
    raise error_of(code if code != CKR_OK else CKR_FUNCTION_FAILED)


def _finish_large(
    finish: Callable[..., int], session: int, data: bytes, room: int, *, wipe: bool, again: bool = False
) -> bytes:
    """Finish an operation whose output needs a buffer of its own; ``again``: the token has named this size."""
    out, length = ffi.new("CK_BYTE[]", room), SCRATCH.length
    length[0] = room
    code = finish(session, data, len(data), out, length)
    if code == CKR_BUFFER_TOO_SMALL and room < length[0] <= MOST and not again:
        if wipe:
            overwrite(out, room)
        return _finish_large(finish, session, data, length[0], wipe=wipe, again=True)
    return _taken(code, out, length[0], room, wipe=wipe)


def _taken(code: int, out: Any, written: int, room: int, *, wipe: bool) -> bytes:  # noqa: ANN401 - cdata
    """Return what a call wrote into the buffer; the error of its code."""
    try:
        if code != CKR_OK:
            raise error_of(code)
        if written > room:
            raise BufferTooSmallError
        output: bytes = ffi.buffer(out, written)[:]
        return output
    finally:
        if wipe:
            overwrite(out, room)


def overwrite(memory: Any, size: int) -> None:  # noqa: ANN401 - cdata
    """Fill memory with zeros."""
    ffi.memmove(memory, _ZEROS if size == ROOM else bytes(size), size)


def _require_ok(code: int) -> None:
    if code != CKR_OK:
        raise error_of(code)
