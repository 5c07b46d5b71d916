"""Makes many keys through the library."""

import sys

from hsmkms import Kms
from hsmkms.model.keys import CreateKeyRequest

with Kms.open() as kms:
    for _ in range(int(sys.argv[1])):
        kms.create_key(CreateKeyRequest())
