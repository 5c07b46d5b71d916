"""Keys of the installation itself on the token, each made when it is first needed."""

import uuid
from collections.abc import Callable
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

    def make(key: InstallationKeyRow, label: str) -> None:
        core.device.generate_mac_key(own_permit(OperatorAct.SEAL, key.cka_id), key.cka_id, label)

    return _newest(core, purpose, make)


def encryption_key(core: Core, purpose: str, act: OperatorAct) -> InstallationKeyRow:
    """The newest AES-256 key of a purpose; made at its first use."""

    def make(key: InstallationKeyRow, label: str) -> None:
        core.device.generate_backing_key(own_permit(act, key.cka_id), key.cka_id, label)

    return _newest(core, purpose, make)


def label_of(core: Core, key: InstallationKeyRow) -> str:
    """How an installation key is labelled on the token."""
    label = f"hsmkms/{core.installation.short_id}/{key.purpose}/{key.version}"
    return label[: core.device.profile.label_bytes]


def _newest(core: Core, purpose: str, make: Callable[[InstallationKeyRow, str], None]) -> InstallationKeyRow:
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
            make(key, label_of(core, key))
    return key
