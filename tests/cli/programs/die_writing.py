"""Send requests, publish the end of the audit log after some of them, and end as if killed.

Arguments: how many requests are sent before, and how many after it. They change nothing, so the outbox has no records.
"""

import os
import sys
from pathlib import Path

from hsmkms.config import settings as config
from hsmkms.kms import Kms
from hsmkms.model.keys import ListKeysRequest
from hsmkms.wiring import core as wiring

before, after = map(int, sys.argv[1:])
kms = Kms(wiring.core_of(config.load(Path(os.environ["HSMKMS_CONFIG"]))))
for number in range(before + after):
    if number == before:
        kms.operator.audit.publish_end()
    kms.list_keys(ListKeysRequest())
os._exit(0)  # no seal is made
