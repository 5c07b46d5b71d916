"""Open an installation and run the commands on standard input, one a line; print the outcome of each as JSON."""

import sys
from pathlib import Path

from service_sites import new_key, report, unseal

from hsmkms.config import settings as config
from hsmkms.errors import HsmKmsError
from hsmkms.kms import Kms
from hsmkms.wiring import core as wiring

with Kms(wiring.core_of(config.load(Path(sys.argv[1])))) as kms:
    report("open")
    for line in sys.stdin:
        word, _, argument = line.strip().partition(" ")
        try:
            if word == "create":
                report(["", new_key(kms).key_id])
            elif word == "unseal":
                report(["", (unseal(kms, bytes.fromhex(argument)) or b"").decode()])
            elif word == "ready":
                kms.operator.watch.check_token()
                report(["", "; ".join(kms.operator.watch.older_tokens())])
            elif word == "alarms":
                use, alarms = kms.operator.watch.sessions(), kms.operator.watch.alarms()
                report([use.away, use.wrong, len(alarms.older), sorted(alarms.altered)])
        except HsmKmsError as exc:
            report([exc.code, str(exc)])
