"""Make an installation with a user, and a key whose deletion is overdue. Arguments: folder, port.

Prints the user's access key id and secret.
"""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hsmkms.config.settings import ServeSettings
from hsmkms.kms import Kms
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.deletion import ScheduleKeyDeletionRequest
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.server import dev
from hsmkms.wiring import core as wiring

folder = Path(sys.argv[1])
settings = dev._settings(folder, "000000000000", ServeSettings(port=int(sys.argv[2]), workers=2, metrics_keys=1))
wiring.initialise(settings)
long_ago = datetime.now(UTC) - timedelta(days=40)
with Kms(wiring.core_of(settings, clock=lambda: long_ago)) as kms:
    doomed = kms.create_key(CreateKeyRequest()).key_metadata.key_id
    kms.schedule_key_deletion(ScheduleKeyDeletionRequest(key_id=doomed))
with Kms(wiring.core_of(settings)) as kms:
    kms.create_key(CreateKeyRequest())
    used = kms.create_key(CreateKeyRequest()).key_metadata.key_id
    kms.encrypt(EncryptRequest(key_id=used, plaintext=b"p"))
    kms.operator.credentials.create_user("alice")
    everything = '{"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}'
    kms.operator.identities.put_user_policy("alice", "all", everything)
    made = kms.operator.credentials.create_access_key("alice")
sys.stdout.write(f"{made.access_key_id} {made.secret_access_key}")
