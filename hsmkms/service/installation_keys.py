"""Keys of the installation itself on the token, each made when it is first needed."""

import uuid
from typing import Final

from hsmkms.model.permit import OperatorAct
from hsmkms.process import exclusive
from hsmkms.service.core import Core
from hsmkms.service.permits import own_permit
from hsmkms.store import installation
from hsmkms.store.installation import InstallationKeyRow

_LOCK_SECONDS: Final = 60.0


def sealing_key(core: Core, purpose: str) -> InstallationKeyRow:
    """The newest HMAC key of a purpose; made at its first use, in the same steps as at init."""
    token_id = core.installation.token_id
    with core.store.reading() as conn:
        key = installation.installation_key(conn, purpose, token_id)
    if key is not None and core.device.holds(key.cka_id):
        return key
    with exclusive(core.store.folder / f"{purpose}.lock", _LOCK_SECONDS):
        # 1. Intent.
        with core.store.atomic() as tx:
            key = installation.installation_key(tx, purpose, token_id) or installation.insert_installation_key(
                tx, purpose, 1, token_id, uuid.uuid4().bytes, core.clock()
            )
        # 2. Device, unless an interrupted attempt has made it.
        if not core.device.holds(key.cka_id):
            label = f"hsmkms/{core.installation.short_id}/{purpose}/{key.version}"
            permit = own_permit(OperatorAct.SEAL, key.cka_id)
            core.device.generate_mac_key(permit, key.cka_id, label[: core.device.profile.label_bytes])
    return key
