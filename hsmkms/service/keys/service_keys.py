"""Create service-managed keys at the first use of ``alias/aws/NAME``, without a CreateKey request."""

import logging
from functools import partial
from typing import Final

from hsmkms.model.enums import KeyManager
from hsmkms.model.permit import OperatorAct
from hsmkms.model.records import KeyRecord
from hsmkms.rules.iam import managed, policies
from hsmkms.service.keys import creation
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit

log = logging.getLogger("hsmkms.service")

DESCRIPTION: Final = "Default key that protects the data of {service} when no other key is named"


def draft(core: Core, region: str, alias_name: str) -> KeyRecord:
    """Return the record of a service's key about to be created."""
    return creation.new_record(
        core,
        region,
        creation.Nature(),
        manager=KeyManager.AWS,
        description=DESCRIPTION.format(service=managed.service_of(alias_name)),
        policy=policies.default_policy(core.installation.account),
    )


def make(core: Core, record: KeyRecord, alias_name: str) -> None:
    """Create the key of a service and its alias, unless another process has just done so."""
    if creation.make(core, record, {}, partial(own_permit, OperatorAct.MAINTAIN), alias=alias_name) is not None:
        log.info("made the key %s for %s at its first use", record.arn, alias_name)
