"""What a call of PKCS#11 costs in Python: python-pkcs11, cffi (as hsmkms uses it) and ctypes, taking turns on SoftHSM.

Processor time is measured, so that other work on the machine disturbs little. The refused call has a session handle
that does not exist: it shows what lies outside the token.
"""

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_ulong, c_void_p, sizeof
from pathlib import Path

import bench
import declare
from pkcs11._pkcs11 import EncryptMixin
from pkcs11.mechanisms import GCMParams, KeyType, Mechanism
from pkcs11.types import Session

from hsmkms import Kms
from hsmkms.hsm.calls.function_list import functions_of
from hsmkms.hsm.calls.operations import SCRATCH
from hsmkms.hsm.crypto import gcm
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.wiring import core as wiring

ROUNDS, ACTS = 9, 2000
IV, AAD, PLAINTEXT = os.urandom(12), bytes(99), bytes(64)
NO_SESSION = 999_999_999


class Key(EncryptMixin):
    """A key of python-pkcs11's, by its handle."""

    __slots__ = ("handle", "key_type", "session")

    def __init__(self, session: Session, handle: int) -> None:
        self.session, self.handle, self.key_type = session, handle, KeyType.AES


class _Gcm(ctypes.Structure):
    _fields_ = (
        *(("iv", c_char_p), ("iv_bytes", c_ulong), ("iv_bits", c_ulong)),
        *(("aad", c_char_p), ("aad_bytes", c_ulong), ("tag_bits", c_ulong)),
    )


class _Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", c_ulong), ("parameter", c_void_p), ("length", c_ulong))


class ByCtypes:
    """The same calls by ctypes, with prototypes and memory prepared."""

    def __init__(self, session: Session, handle: int) -> None:
        names = list(declare.FUNCTIONS)
        listed = (c_void_p * (1 + len(names))).from_address(functions_of(session).address)
        prototype = CFUNCTYPE(c_ulong, c_ulong, POINTER(_Mechanism), c_ulong)
        self._begin = prototype(listed[1 + names.index("C_EncryptInit")])
        prototype = CFUNCTYPE(c_ulong, c_ulong, c_char_p, c_ulong, c_void_p, POINTER(c_ulong))
        self._encrypt = prototype(listed[1 + names.index("C_Encrypt")])
        self._session, self._handle = session, handle
        self._out, self._length = ctypes.create_string_buffer(8192), c_ulong()
        self._gcm = _Gcm(IV, 12, 96, AAD, len(AAD), 128)
        self._mechanism = _Mechanism(Mechanism.AES_GCM, ctypes.addressof(self._gcm), sizeof(self._gcm))

    def encrypt(self) -> bytes:
        """Encrypt."""
        self._gcm.iv, self._gcm.aad, self._gcm.aad_bytes, self._length.value = IV, AAD, len(AAD), 8192
        session = self._session.handle
        if self._begin(session, self._mechanism, self._handle):
            raise RuntimeError
        if self._encrypt(session, PLAINTEXT, len(PLAINTEXT), self._out, self._length):
            raise RuntimeError
        return ctypes.string_at(self._out, self._length.value)

    def refused(self) -> None:
        """Call with a session that does not exist."""
        self._encrypt(NO_SESSION, PLAINTEXT, len(PLAINTEXT), self._out, self._length)


def microseconds(act: Callable[[], object]) -> float:
    """Processor time of one act."""
    before = time.process_time()
    for _ in range(ACTS):
        act()
    return (time.process_time() - before) / ACTS * 1e6


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="hsmkms-bench-") as folder,
        Kms(wiring.core_of(bench.make_installation(Path(folder)))) as kms,
    ):
        made = kms.create_key(CreateKeyRequest()).key_metadata.key_id
        connection = kms.operator._core.device.connection
        cka_id = bytes.fromhex(kms.operator.attest(made)[0].cka_id)
        with connection.pool.session() as session:
            handle = connection.handles.search(session, cka_id)
            key, by_ctypes, functions = Key(session, handle), ByCtypes(session, handle), functions_of(session)
            parameters = GCMParams(IV, AAD, 128)
            contenders = {
                "AES-GCM, python-pkcs11 (3 calls)": lambda: key.encrypt(
                    PLAINTEXT, buffer_size=96, mechanism=Mechanism.AES_GCM, mechanism_param=parameters
                ),
                "AES-GCM, hsmkms by cffi (2 calls)": lambda: gcm.seal(session, handle, IV, PLAINTEXT, AAD),
                "AES-GCM, bare ctypes (2 calls)": by_ctypes.encrypt,
                "refused call, cffi": lambda: functions.encrypt(
                    NO_SESSION, PLAINTEXT, len(PLAINTEXT), SCRATCH.out, SCRATCH.length
                ),
                "refused call, ctypes": by_ctypes.refused,
            }
            rounds = [{name: microseconds(act) for name, act in contenders.items()} for _ in range(ROUNDS)]
    print("| what | microseconds of processor time |\n|---|---|")
    for name in contenders:
        print(f"| {name} | {statistics.median(each[name] for each in rounds):.1f} |")


if __name__ == "__main__":
    main()
