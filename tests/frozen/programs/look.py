"""Open an installation, and print as JSON what the expected file lists. Arguments: CONFIG EXPECTED."""

import base64
import json
import sys
from pathlib import Path

from hsmkms import Kms
from hsmkms.config import settings as config
from hsmkms.errors import HsmKmsError
from hsmkms.model.crypto import DecryptRequest, EncryptRequest
from hsmkms.wiring import core as wiring

told = json.loads(Path(sys.argv[2]).read_text())
with Kms(wiring.core_of(config.load(Path(sys.argv[1])))) as kms:

    def encrypted_by(key: str) -> str:
        """The key that encrypts under a name, or the code of the refusal."""
        try:
            return kms.encrypt(EncryptRequest(key_id=key, plaintext=b"p")).key_id
        except HsmKmsError as exc:
            return exc.code

    def opened(each: dict[str, str]) -> str:
        """What is in a ciphertext."""
        blob = base64.b64decode(each["blob"])
        found = kms.decrypt(DecryptRequest(ciphertext_blob=blob, encryption_context=each["context"]))
        return found.plaintext.decode()

    found = {
        "opened": [opened(ciphertext) for ciphertext in told["ciphertexts"]],
        "aliases": {alias: encrypted_by(alias)[-36:] for alias in told["aliases"]},
        "disabled": [encrypted_by(key) for key in told["disabled"]],
        "users": [user.user_name for user in kms.operator.credentials.list_users()],
        "differences": len(kms.operator.find_differences()),
        "faults": len(kms.operator.audit.verify().faults) + len(kms.operator.audit.verify_rows()),
    }
json.dump(found, sys.stdout)
