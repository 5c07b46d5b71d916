"""Another process that changes something: ``disable KEY``, or ``move ALIAS KEY``."""

import sys
from pathlib import Path

from service_sites import report

from hsmkms import Kms
from hsmkms.model.aliases import UpdateAliasRequest
from hsmkms.model.keys import DisableKeyRequest

_, file, what, *names = sys.argv
with Kms.open(Path(file)) as kms:
    if what == "disable":
        kms.disable_key(DisableKeyRequest(key_id=names[0]))
    else:
        kms.update_alias(UpdateAliasRequest(alias_name=names[0], target_key_id=names[1]))
report(what)
