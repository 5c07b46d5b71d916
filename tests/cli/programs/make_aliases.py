"""Makes many aliases through the library, as many for each new key as it may have."""

import sys

from hsmkms import Kms
from hsmkms.model.aliases import CreateAliasRequest
from hsmkms.model.keys import CreateKeyRequest

FOR_EACH_KEY = 50

with Kms.open() as kms:
    for number in range(int(sys.argv[1])):
        if number % FOR_EACH_KEY == 0:
            key_id = kms.create_key(CreateKeyRequest()).key_metadata.key_id
        kms.create_alias(CreateAliasRequest(alias_name=f"alias/many-{number}", target_key_id=key_id))
