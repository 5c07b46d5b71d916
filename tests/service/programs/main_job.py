"""The main job: create a key, name it, encrypt, decrypt, make a data key. Prints what must not show on the token."""

import sys
from pathlib import Path

from service_sites import new_alias, new_key, report, seal, unseal

from hsmkms import Kms
from hsmkms.model.crypto import GenerateDataKeyRequest

_, file = sys.argv
PLAINTEXT = b"the plaintext of the main job, spied upon"
with Kms.open(Path(file)) as kms:
    made = new_key(kms)
    new_alias(kms, "alias/spied", made.key_id)
    sealed = [seal(kms, "alias/spied", PLAINTEXT, encryption_context={"a": "1"}) for _ in range(3)]
    opened = [unseal(kms, ciphertext, encryption_context={"a": "1"}) for ciphertext in sealed]
    data_key = kms.generate_data_key(GenerateDataKeyRequest(key_id="alias/spied", key_spec="AES_256"))
    report({"key": made.key_id, "opened": opened == [PLAINTEXT] * 3})
