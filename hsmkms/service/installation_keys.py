"""Keys of the installation itself on the token, each made when it is first needed.

Each purpose has versions: the newest is used, and the older ones verify what they have made.
"""

import uuid
from collections.abc import Callable, Iterator
from typing import Final

from msgspec.structs import replace

from hsmkms.errors import ObjectLostError
from hsmkms.model.permit import OperatorAct, Permit
from hsmkms.process import exclusive
from hsmkms.service.core import Core
from hsmkms.service.permits import own_permit
from hsmkms.store import installation
from hsmkms.store.installation import MAC_PURPOSE, InstallationKeyRow

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


def versions(core: Core, purpose: str) -> list[InstallationKeyRow]:
    """All versions of a purpose's key, oldest first; the newest may not be on the token yet."""
    with core.store.reading() as conn:
        return installation.versions(conn, purpose, core.installation.token_id)


def macs(core: Core, permit: Callable[[bytes], Permit], message: bytes) -> Iterator[bytes]:
    """What the installation's MAC key makes of a message: the newest version first, which is the one to use.

    ``permit``: leave for an object. Raises ObjectLostError if no version is on the token.
    """
    lost: ObjectLostError | None = ObjectLostError("the installation has no MAC key")
    for key in reversed(versions(core, MAC_PURPOSE)):
        try:
            ours = core.device.is_labelled(key.cka_id, key.label(core.installation.id))
            made = core.device.mac(permit(key.cka_id), key.cka_id, message) if ours else None
        except ObjectLostError as exc:
            lost = lost and exc
            continue
        if made is not None:  # else the row was put there by hand, with the id of a key that users can use
            lost = None
            yield made
    if lost is not None:
        raise lost


def witness(core: Core) -> bytes:
    """CKA_ID of the installation's MAC key: of the version known so far, or else of one that is on the token."""
    known = core.installation.mac_key
    if core.device.holds(known):
        return known
    for key in reversed(versions(core, MAC_PURPOSE)):
        if core.device.holds(key.cka_id):
            core.installation = replace(core.installation, mac_key=key.cka_id)
            return key.cka_id
    return known


def label_of(core: Core, key: InstallationKeyRow) -> str:
    """How an installation key is labelled on the token."""
    return key.label(core.installation.id)[: core.device.profile.label_bytes]


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
