"""Wrap 32 random bytes under a public key (base64 DER) by RSAES_OAEP_SHA_1; print base64."""

import base64
import os
import sys

from hsmkms.wrapping import read_public_key, wrap

sys.stdout.write(
    base64.b64encode(wrap(read_public_key(sys.argv[1].encode()), "RSAES_OAEP_SHA_1", os.urandom(32))).decode()
)
