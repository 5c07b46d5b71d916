"""Encrypts the name of each file to be, and writes it: every second one raw, the others in base64 of several lines."""

import base64
import json
import sys
from pathlib import Path

from hsmkms import Kms
from hsmkms.model.crypto import EncryptRequest

folder, key, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
context = json.loads(sys.argv[4]) if sys.argv[4:] else None
folder.mkdir(parents=True, exist_ok=True)
with Kms.open() as kms:
    for number in range(count):
        name = f"{number:05}"
        request = EncryptRequest(key_id=key, plaintext=name.encode(), encryption_context=context)
        sealed = kms.encrypt(request).ciphertext_blob
        (folder / name).write_bytes(base64.encodebytes(sealed) if number % 2 else sealed)
