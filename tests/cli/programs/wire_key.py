"""Describes a key through the library, and prints the wire form as JSON."""

import json
import sys

from hsmkms import Kms
from hsmkms.model.keys import DescribeKeyRequest
from hsmkms.model.wire import to_wire

with Kms.open() as kms:
    print(json.dumps(to_wire(kms.describe_key(DescribeKeyRequest(key_id=sys.argv[1])))))  # noqa: T201
