"""Use the parent's Kms in a forked child, in every way, then a new one; the parent goes on. Prints the outcomes."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service_sites import new_key, report, seal, unseal

from hsmkms import Kms
from hsmkms.model.crypto import GenerateDataKeyRequest, GenerateRandomRequest
from hsmkms.model.keys import CreateKeyRequest, DescribeKeyRequest, ListKeysRequest
from hsmkms.rules import blob

_, file = sys.argv


def outcome(call: Callable[[], object]) -> str:
    """The name of the error that a call raised, or that it raised none."""
    try:
        call()
    except Exception as exc:  # noqa: BLE001 - its name is the outcome
        return type(exc).__name__
    return "no error"


def in_child(kms: Kms, key_id: str, sealed: bytes) -> dict[str, Any]:
    """What a child sees."""
    inherited = {
        "encrypt": outcome(lambda: seal(kms, key_id)),
        "decrypt": outcome(lambda: unseal(kms, sealed)),
        "data key": outcome(lambda: kms.generate_data_key(GenerateDataKeyRequest(key_id=key_id, number_of_bytes=1))),
        "random": outcome(lambda: kms.generate_random(GenerateRandomRequest(number_of_bytes=1))),
        "describe": outcome(lambda: kms.describe_key(DescribeKeyRequest(key_id=key_id))),
        "list": outcome(lambda: kms.list_keys(ListKeysRequest())),
        "create": outcome(lambda: kms.create_key(CreateKeyRequest())),
        "differences": outcome(kms.operator.find_differences),
        "attest": outcome(lambda: kms.operator.attest(key_id)),
    }
    closing = outcome(kms.close)
    with Kms.open(Path(file)) as own:
        opened = unseal(own, sealed) == b"secret"
        fresh = [seal(own, key_id) for _ in range(100)]
    return {"inherited": inherited, "closing": closing, "own": opened, "sealed": [each.hex() for each in fresh]}


with Kms.open(Path(file)) as kms:
    key_id = new_key(kms).key_id
    sealed = [seal(kms, key_id) for _ in range(10)]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            json.dump(in_child(kms, key_id, sealed[0]), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = json.loads(pipe.read() or "{}")
    _, status = os.waitpid(child, 0)
    sealed += [seal(kms, key_id) for _ in range(100)]
    parent = all(unseal(kms, ciphertext) == b"secret" for ciphertext in sealed)
    childs = [bytes.fromhex(each) for each in told.pop("sealed", [])]
    from_child = all(unseal(kms, each) == b"secret" for each in childs)
ivs = {blob.parse(each).iv for each in (*sealed, *childs)}
report(told | {"status": status, "parent": parent, "from child": from_child, "ivs": len(ivs)})
