"""Encrypt under one key and print the number of encryptions after each, until killed."""

import itertools
import sys
from pathlib import Path

from service_sites import report, seal

from hsmkms import Kms

_, file, key_id = sys.argv
kms = Kms.open(Path(file))
for number in itertools.count(1):
    seal(kms, key_id)
    report(number)
