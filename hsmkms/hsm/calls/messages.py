"""Encrypt by one call: C_EncryptMessage of PKCS#11 3.x, within an operation that C_MessageEncryptInit began.

The operation belongs to a session and a key. It is begun when a session encrypts under the same key twice in a row, so
that sessions in which keys alternate pay no more than two calls, and it is ended before the session does anything else:
some modules (NSS softokn) allow no other operation beside it.

A key is known by its CKA_ID and its handle: a module may give the handle of a destroyed key to a new one, and a key may
be made again under its CKA_ID, while the operation goes on under the old key. What another process or program does to a
key, the operation does not show either, so none lasts longer than ``LIFETIME_SECONDS``: the next C_MessageEncryptInit
names the handle, and fails if its object is gone. Source: PKCS #11 3.0, sections 5.9.1 to 5.9.5, and
CK_GCM_MESSAGE_PARAMS.
"""

import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from pkcs11.exceptions import (
    ArgumentsBad,
    FunctionNotSupported,
    MechanismInvalid,
    MechanismParamInvalid,
    PKCS11Error,
)
from pkcs11.mechanisms import Mechanism
from pkcs11.types import Session

from hsmkms.errors import TokenError
from hsmkms.hsm.calls.declarations import ffi
from hsmkms.hsm.calls.function_list import MessageFunctions, session_handle
from hsmkms.hsm.return_codes import CKR_OK, error_of

IV_BYTES: Final = 12
TAG_BYTES: Final = 16
_ZEROS: Final = bytes(IV_BYTES)

LIFETIME_SECONDS: Final = 1.0
"""How long a key that another program has destroyed may still encrypt, on a token that continues with it."""

OTHER_ANSWER: Final = (
    "the token encrypts in another way than when it was tried, so its answer was thrown away: restart hsmkms, which "
    "tries it again"
)

_UNSUPPORTED: Final = (ArgumentsBad, FunctionNotSupported, MechanismInvalid, MechanismParamInvalid)


class Generator(IntEnum):
    """Who chooses the IV of a message (CK_GENERATOR_FUNCTION).

    danger: CKG_GENERATE (1) is not among them; two modules count up from zero for it, in every operation again.
    """

    CALLER = 0
    RANDOM = 3


class _Parameters(threading.local):
    """CK_GCM_MESSAGE_PARAMS of a thread, with the memory for IV and tag."""

    def __init__(self) -> None:
        self.iv, self.tag = ffi.new("CK_BYTE[]", IV_BYTES), ffi.new("CK_BYTE[]", TAG_BYTES)
        self.pointer = ffi.new("CK_GCM_MESSAGE_PARAMS *")
        self.pointer.pIv, self.pointer.pTag = self.iv, self.tag
        self.size = ffi.sizeof(self.pointer[0])
        self.length = ffi.new("CK_ULONG *")


_of_thread: Final = _Parameters()
_MECHANISM: Final = ffi.new("CK_MECHANISM *", {"mechanism": Mechanism.AES_GCM})


class _Use:
    """What a session encrypted last, and whether an operation is active in it.

    ``ends``: when an active operation is too old. ``is_stale``: its key was dropped from the caches after it had begun.
    """

    __slots__ = ("active", "cka_id", "ends", "is_stale", "key", "last_iv", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.cka_id = b""
        self.key = 0
        self.active = False
        self.ends = 0.0
        self.is_stale = False
        self.last_iv = b""


class Messages:
    """Message-based encryption in the sessions of one token. Thread-safe, since a session is lent to one thread.

    ``generator``: as tried out when the token was opened. None: the token cannot, or can no more.
    """

    def __init__(
        self,
        functions: MessageFunctions | None,
        generator: Generator | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._functions = functions
        self._clock = clock
        self.generator = generator if functions is not None else None
        self._uses: dict[int, _Use] = {}

    def seal(
        self,
        session: Session,
        cka_id: bytes,
        key: int,
        next_iv: Callable[[Session], bytes],
        plaintext: bytes,
        aad: bytes,
    ) -> tuple[bytes, bytes] | None:
        """Encrypt; return the IV and ciphertext || tag, or None if it is to be done in two calls.

        ``next_iv`` is called if the caller is to choose it. TokenError if the token answers in another way than when it
        was tried out; PKCS11Error is not translated.
        """
        functions, generator = self._functions, self.generator
        if functions is None or generator is None:
            return None
        use = self._use(session)
        if use.cka_id != cka_id or use.key != key or use.is_stale or (use.active and self._clock() >= use.ends):
            self.end(session)
            use.cka_id, use.key, use.is_stale = cka_id, key, False
            return None
        try:
            if not use.active:
                begin(functions, session, key)
                use.active, use.ends = True, self._clock() + LIFETIME_SECONDS
            iv = next_iv(session) if generator is Generator.CALLER else _ZEROS
            sealed = encrypt(functions, session, generator, iv, plaintext, aad)
        except PKCS11Error as exc:
            self.end(session)
            if isinstance(exc, _UNSUPPORTED):
                self.generator = None
                return None
            raise
        is_new = sealed[0] == iv if generator is Generator.CALLER else sealed[0] not in (_ZEROS, use.last_iv)
        if not is_new or len(sealed[1]) != len(plaintext) + TAG_BYTES:
            raise TokenError(OTHER_ANSWER)
        use.last_iv = sealed[0]
        return sealed

    def end(self, session: Session) -> None:
        """End the operation that is active in a session, before the session does anything else."""
        if not self._uses:  # as on every token without PKCS#11 3: each of its calls comes through here
            return
        use = self._uses.get(session_handle(session))
        if use is None or use.session is not session:
            return
        use.cka_id = b""
        if use.active and self._functions is not None:
            use.active = False
            self._functions.end(session_handle(session))  # if it fails, the next operation says why

    def forget_key(self, cka_id: bytes) -> None:
        """Have the operations under a key ended before anything else is encrypted in their sessions."""
        for use in list(self._uses.values()):
            if use.cka_id == cka_id:
                use.is_stale = True

    def forget_sessions(self) -> None:
        """Forget the operations of sessions that a lost login has closed."""
        self._uses = {}

    def _use(self, session: Session) -> _Use:
        number = session_handle(session)
        use = self._uses.get(number)
        if use is None or use.session is not session:  # the module gave the number of a closed session to a new one
            use = self._uses[number] = _Use(session)
        return use


def begin(functions: MessageFunctions, session: Session, key: int) -> None:
    """Call C_MessageEncryptInit for AES-GCM."""
    code = functions.begin(session_handle(session), _MECHANISM, key)
    if code != CKR_OK:
        raise error_of(code)


def encrypt(
    functions: MessageFunctions, session: Session, generator: Generator, iv: bytes, plaintext: bytes, aad: bytes
) -> tuple[bytes, bytes]:
    """Call C_EncryptMessage; return the IV as it is afterwards, and ciphertext || tag."""
    own, size = _of_thread, len(plaintext)
    own.pointer.ulIvLen, own.pointer.ulIvFixedBits, own.pointer.ulTagBits = IV_BYTES, 0, 8 * TAG_BYTES
    own.pointer.ivGenerator = generator
    ffi.memmove(own.iv, iv, IV_BYTES)
    out, own.length[0] = ffi.new("CK_BYTE[]", size + TAG_BYTES), size + TAG_BYTES
    code = functions.encrypt(
        session_handle(session), own.pointer, own.size, aad, len(aad), plaintext, size, out, own.length
    )
    if code != CKR_OK:
        raise error_of(code)
    written = min(own.length[0], size + TAG_BYTES)
    return ffi.buffer(own.iv, IV_BYTES)[:], ffi.buffer(out, written)[:] + ffi.buffer(own.tag, TAG_BYTES)[:]
