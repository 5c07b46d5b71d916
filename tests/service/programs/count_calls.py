"""Do each operation several times; print between which calls of the spy's log each of them ran."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import spylog
from service_sites import new_key, report, seal, unseal

from hsmkms import Kms
from hsmkms.model.asymmetric import SignRequest
from hsmkms.model.cipher_format import CipherFormat
from hsmkms.model.enums import KeySpec, KeyUsage, Origin, SigningAlgorithm, WrappingAlgorithm, WrappingKeySpec
from hsmkms.model.importing import GetParametersForImportRequest

_, file, log, rounds = sys.argv


def counted(act: Callable[[], object]) -> list[tuple[int, int]]:
    """The numbers of the spy's calls before and after each round."""
    marks = [len(spylog.read(Path(log)))]
    for _ in range(int(rounds)):
        act()
        marks.append(len(spylog.read(Path(log))))
    return list(itertools.pairwise(marks))


with Kms.open(Path(file)) as kms:
    kms.operator.audit.look_after()  # with a log, the first seal and its note are made now
    key = new_key(kms).key_id
    pair = new_key(kms, key_spec=KeySpec.ECC_NIST_P256, key_usage=KeyUsage.SIGN_VERIFY).key_id
    signing = SignRequest(key_id=pair, message=b"message", signing_algorithm=SigningAlgorithm.ECDSA_SHA_256)
    told = {"encrypt": counted(lambda: seal(kms, key))}
    sealed = seal(kms, key)
    told["decrypt"] = counted(lambda: unseal(kms, sealed))
    told["sign"] = counted(lambda: kms.sign(signing))
    told["create"] = counted(lambda: new_key(kms))
    if kms.operator.token_info().profile.cipher_format is CipherFormat.AES_256_GCM:  # else nothing is imported
        importing = GetParametersForImportRequest(
            key_id=new_key(kms, origin=Origin.EXTERNAL).key_id,
            wrapping_algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_1,
            wrapping_key_spec=WrappingKeySpec.RSA_2048,
        )
        told["parameters"] = counted(lambda: kms.get_parameters_for_import(importing))
    report(told)
