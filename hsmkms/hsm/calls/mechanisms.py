"""Build CK_MECHANISM structures with their parameters.

Parameters are given as python-pkcs11 takes them: GCMParams, tuples for OAEP, PSS, EdDSA and ECDH, raw bytes, or None.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from pkcs11.mechanisms import GCMParams, Mechanism

from hsmkms.hsm.calls.declarations import ffi

_CKZ_DATA_SPECIFIED: Final = 1


class BuiltMechanism(NamedTuple):
    """A CK_MECHANISM, and the memory that it points to, which must live as long as it is used."""

    pointer: Any
    kept: tuple[Any, ...]


def mechanism(kind: Mechanism, parameter: Any = None) -> BuiltMechanism:  # noqa: ANN401 - of many types
    """Build the mechanism; TypeError for a parameter that it does not take."""
    pointer = ffi.new("CK_MECHANISM *")
    pointer.mechanism = kind
    if parameter is None:
        return BuiltMechanism(pointer, ())
    if isinstance(parameter, bytes):
        kept: tuple[Any, ...] = (ffi.from_buffer(parameter),)
        pointer.ulParameterLen = len(parameter)
    elif kind in _BUILDERS:
        kept = _BUILDERS[kind](parameter)
        pointer.ulParameterLen = ffi.sizeof(kept[0][0])
    else:
        raise TypeError(f"CKM_{kind.name} takes no such parameter")
    pointer.pParameter = kept[0]
    return BuiltMechanism(pointer, kept)


def _bytes(data: bytes | None) -> Any:  # noqa: ANN401 - cdata
    return ffi.NULL if data is None else ffi.from_buffer("CK_BYTE[]", data)


def _gcm(parameter: GCMParams) -> tuple[Any, ...]:
    iv, aad = _bytes(parameter.nonce), _bytes(parameter.aad)
    built = ffi.new("CK_GCM_PARAMS *")
    built.pIv, built.ulIvLen, built.ulIvBits = iv, len(parameter.nonce), 8 * len(parameter.nonce)
    built.pAAD, built.ulAADLen, built.ulTagBits = aad, len(parameter.aad or b""), parameter.tag_bits
    return built, iv, aad


class _Gcm:
    """AES-GCM with parameters of the usual lengths, and their memory as Python sees it."""

    __slots__ = ("aad", "built", "iv", "parameters")

    def __init__(self) -> None:
        iv, aad = ffi.new("CK_BYTE[]", _GCM_IV_BYTES), ffi.new("CK_BYTE[]", _GCM_AAD_BYTES)
        self.iv, self.aad = ffi.buffer(iv), ffi.buffer(aad)
        parameters = self.parameters = ffi.new("CK_GCM_PARAMS *")
        parameters.pIv, parameters.ulIvLen, parameters.ulIvBits = iv, _GCM_IV_BYTES, 8 * _GCM_IV_BYTES
        parameters.pAAD, parameters.ulTagBits = aad, _GCM_TAG_BITS
        pointer = ffi.new("CK_MECHANISM *")
        pointer.mechanism, pointer.pParameter = Mechanism.AES_GCM, parameters
        pointer.ulParameterLen = ffi.sizeof(parameters[0])
        self.built = BuiltMechanism(pointer, (parameters, iv, aad))


class _OfThread(threading.local):
    """What is built once for each thread: AES-GCM is the hottest path."""

    def __init__(self) -> None:
        self.gcm = _Gcm()


_GCM_IV_BYTES: Final = 12
_GCM_AAD_BYTES: Final = 1024
_GCM_TAG_BITS: Final = 128
_of_thread: Final = _OfThread()


def gcm(iv: bytes, aad: bytes) -> BuiltMechanism:
    """Build AES-GCM with an IV of the caller's and a tag of 16 bytes; valid until the same thread builds the next."""
    size = len(aad)
    if size > _GCM_AAD_BYTES or len(iv) != _GCM_IV_BYTES:
        return mechanism(Mechanism.AES_GCM, GCMParams(iv, aad, _GCM_TAG_BITS))
    own = _of_thread.gcm
    own.iv[:] = iv
    own.aad[:size] = aad
    own.parameters.ulAADLen = size
    return own.built


class IvBuffer:
    """A writable IV, for tokens that choose it themselves; without bytes a null pointer."""

    def __init__(self, offered: bytes) -> None:
        self.size = len(offered)
        self.memory = ffi.new("CK_BYTE[]", offered) if offered else ffi.NULL

    def read(self) -> bytes:
        """Return what the buffer holds now."""
        return ffi.buffer(self.memory, self.size)[:] if self.size else b""


def gcm_with_buffer(iv: IvBuffer, iv_bits: int, aad: bytes, tag_bits: int) -> BuiltMechanism:
    """Build AES-GCM around a writable IV buffer."""
    pointer, built, kept = ffi.new("CK_MECHANISM *"), ffi.new("CK_GCM_PARAMS *"), _bytes(aad)
    built.pIv, built.ulIvLen, built.ulIvBits = iv.memory, iv.size, iv_bits
    built.pAAD, built.ulAADLen, built.ulTagBits = kept, len(aad), tag_bits
    pointer.mechanism, pointer.pParameter, pointer.ulParameterLen = Mechanism.AES_GCM, built, ffi.sizeof(built[0])
    return BuiltMechanism(pointer, (built, kept, iv.memory))


def _oaep(parameter: tuple[int, int, bytes | None]) -> tuple[Any, ...]:
    hash_algorithm, mask, label = parameter
    source = _bytes(label)
    fields = (hash_algorithm, mask, _CKZ_DATA_SPECIFIED, source, len(label or b""))
    return ffi.new("CK_RSA_PKCS_OAEP_PARAMS *", fields), source


def _pss(parameter: tuple[int, int, int]) -> tuple[Any, ...]:
    return (ffi.new("CK_RSA_PKCS_PSS_PARAMS *", tuple(map(int, parameter))),)


def _eddsa(parameter: tuple[bool, bytes | None]) -> tuple[Any, ...]:
    prehash, context = parameter
    data = _bytes(context)
    return ffi.new("CK_EDDSA_PARAMS *", (int(prehash), len(context or b""), data)), data


def _ecdh(parameter: tuple[int, bytes | None, bytes]) -> tuple[Any, ...]:
    function, shared, public = parameter
    shared_data, point = _bytes(shared), _bytes(public)
    fields = (function, len(shared or b""), shared_data, len(public), point)
    return ffi.new("CK_ECDH1_DERIVE_PARAMS *", fields), shared_data, point


_BUILDERS: Final[Mapping[Mechanism, Callable[[Any], tuple[Any, ...]]]] = {
    Mechanism.AES_GCM: _gcm,
    Mechanism.RSA_PKCS_OAEP: _oaep,
    Mechanism.RSA_PKCS_PSS: _pss,
    Mechanism.EDDSA: _eddsa,
    Mechanism.ECDH1_DERIVE: _ecdh,
}
