"""aws-kms-crypt: a secret under a data key with a context. Prints one line."""

import os

import kmscrypt
from botocore.exceptions import ClientError

sealed = kmscrypt.encrypt("hunter2", os.environ["KEY_ALIAS"], {"purpose": "test"})
assert "hunter2" not in str(sealed)
assert kmscrypt.decrypt(sealed) == b"hunter2"
try:
    kmscrypt.decrypt({**sealed, "EncryptionContext": {"purpose": "theft"}})
except ClientError as exc:
    assert exc.response["Error"]["Code"] == "InvalidCiphertextException"
    print("the story holds")
