"""Run mixed operations on several threads: print failures, the numbers of operations, and the IVs of ciphertexts.

Arguments: configuration, threads, operations of each, name of the alias that is moved about. Waits for a line on
standard input, so that several of them can be let go at one instant.
"""

import random
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

from service_sites import new_alias, new_key, report, seal, unseal

from hsmkms import Kms
from hsmkms.model.aliases import ListAliasesRequest, UpdateAliasRequest
from hsmkms.model.crypto import GenerateDataKeyRequest
from hsmkms.model.keys import DescribeKeyRequest, ListKeysRequest
from hsmkms.rules import blob

_, file, threads, operations, alias = sys.argv
WEIGHTS = {"encrypt": 40, "decrypt": 38, "describe": 10, "data key": 8, "list": 2, "alias": 2}

failures: list[str] = []
done: Counter[str] = Counter()
ivs: list[str] = []
lock = threading.Lock()


def work(kms: Kms, keys: list[str], seed: int) -> None:
    """One thread's share."""
    chance = random.Random(seed)  # noqa: S311 - a mix of operations, no secret
    sealed = [(seal(kms, keys[0], b"first"), b"first", {})]
    mine = [blob.parse(sealed[0][0]).iv.hex()]
    counted: Counter[str] = Counter()
    for number, what in enumerate(chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=int(operations))):
        context = {"thread": str(seed), "number": str(number)}
        if what == "encrypt":
            key = chance.choice([*keys, alias])
            plaintext = chance.randbytes(chance.randint(1, 200))
            sealed.append((seal(kms, key, plaintext, encryption_context=context), plaintext, context))
            mine.append(blob.parse(sealed[-1][0]).iv.hex())
        elif what == "decrypt":
            ciphertext, plaintext, encryption_context = chance.choice(sealed)
            assert unseal(kms, ciphertext, encryption_context=encryption_context) == plaintext
        elif what == "describe":
            assert kms.describe_key(DescribeKeyRequest(key_id=chance.choice(keys))).key_metadata.enabled
        elif what == "data key":
            made = kms.generate_data_key(GenerateDataKeyRequest(key_id=chance.choice(keys), key_spec="AES_256"))
            assert unseal(kms, made.ciphertext_blob) == made.plaintext
            mine.append(blob.parse(made.ciphertext_blob).iv.hex())
        elif what == "list":
            assert len(kms.list_keys(ListKeysRequest(limit=1000)).keys) >= len(keys)
            assert kms.list_aliases(ListAliasesRequest()).aliases
        else:
            kms.update_alias(UpdateAliasRequest(alias_name=alias, target_key_id=chance.choice(keys)))
        counted[what] += 1
    with lock:
        done.update(counted)
        ivs.extend(mine)


def guarded(kms: Kms, keys: list[str], seed: int) -> None:
    """Collect the exceptions of all threads."""
    try:
        work(kms, keys, seed)
    except BaseException:  # noqa: BLE001 - the test wants to see everything
        failures.append(traceback.format_exc())


sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.readline()
with Kms.open(Path(file)) as kms:
    keys = [new_key(kms).key_id for _ in range(3)]
    new_alias(kms, alias, keys[0])
    begun = time.monotonic()
    workers = [threading.Thread(target=guarded, args=(kms, keys, seed)) for seed in range(int(threads))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    report({"failures": failures, "done": done.total(), "ivs": ivs, "seconds": time.monotonic() - begun})
