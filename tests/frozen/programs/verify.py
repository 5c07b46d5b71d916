"""Open an installation, verify its rows, try a key, accept them, and print it as JSON. Arguments: CONFIG KEY."""

import json
import sys
from pathlib import Path

from hsmkms import Kms
from hsmkms.config import settings as config
from hsmkms.errors import HsmKmsError
from hsmkms.model.keys import DescribeKeyRequest
from hsmkms.wiring import core as wiring

with Kms(wiring.core_of(config.load(Path(sys.argv[1])))) as kms:

    def described() -> str:
        """The state of the key, or the code of the refusal."""
        try:
            return str(kms.describe_key(DescribeKeyRequest(key_id=sys.argv[2])).key_metadata.key_state)
        except HsmKmsError as exc:
            return exc.code

    def faults() -> list[str]:
        """What verifying names."""
        return [fault.subject for fault in kms.operator.audit.verify_rows()]

    found = {"faults": faults(), "state": described()}
    kms.operator.audit.accept()
    json.dump(found | {"accepted": faults(), "then": described()}, sys.stdout)
