"""Acts of the operator on users and groups, one after the other: CONFIG [METHOD, {ARGUMENT: VALUE}]... as JSON."""

import json
import sys
from pathlib import Path

import msgspec

from hsmkms.config import settings as config
from hsmkms.kms import Kms
from hsmkms.wiring import core as wiring

with Kms(wiring.core_of(config.load(Path(sys.argv[1])))) as kms:
    operators = (kms.operator.credentials, kms.operator.identities)
    acts = [
        getattr(next(operator for operator in operators if hasattr(operator, method)), method)(**arguments)
        for method, arguments in map(json.loads, sys.argv[2:])
    ]
sys.stdout.buffer.write(msgspec.json.encode(acts))
