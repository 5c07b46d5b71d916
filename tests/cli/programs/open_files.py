"""Decrypts every file that seal_files wrote; prints each key's id with the number of its files, as JSON.

Fails for a file whose form or content is not what it was.
"""

import base64
import json
import sys
from collections import Counter
from pathlib import Path

from hsmkms import Kms
from hsmkms.model.crypto import DecryptRequest

context = json.loads(sys.argv[2]) if sys.argv[2:] else None
keys: Counter[str] = Counter()
with Kms.open() as kms:
    for file in Path(sys.argv[1]).iterdir():
        if file.name.startswith(".hsmkms-"):
            continue
        content = file.read_bytes()
        sealed = base64.decodebytes(content) if int(file.name) % 2 else content
        assert content in (sealed, base64.encodebytes(sealed)), file
        opened = kms.decrypt(DecryptRequest(ciphertext_blob=sealed, encryption_context=context))
        assert opened.plaintext == file.name.encode(), file
        keys[opened.key_id.rpartition("/")[2]] += 1
print(json.dumps(keys))  # noqa: T201
