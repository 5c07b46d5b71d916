"""Find the keys that a member of an HA group lacks: what was acknowledged must be on all of them.

Replication is the work of the HSM or its client. Where it lags or was interrupted, a member that takes over does not
have the newest keys: they are named, and neither count as deleted nor are they made again.
"""

import logging
from functools import partial
from typing import Final

from hsmkms.errors import BindingError, HsmKmsError
from hsmkms.hsm.ports import Device
from hsmkms.model.cipher_format import mac_key_id, material_of_mac_key
from hsmkms.service.keys.installation_keys import witness
from hsmkms.service.runtime.core import Core
from hsmkms.store import installation, objects
from hsmkms.store.engine import Connection
from hsmkms.store.installation import TokenRow

log = logging.getLogger("hsmkms.service")

OWN_KEYS: Final = "the installation's own keys"
WRAPPING_KEYS: Final = "wrapping keys of imports"


def missing(core: Core, device: Device) -> list[str]:
    """Return the ids of the keys with an object that is missing on this member, ``OWN_KEYS``, ``WRAPPING_KEYS``.

    BindingError if it is a member of no token of the installation; TokenUnavailableError if it does not show the
    installation's own key, by which it is recognised.
    """
    row = _row(core, device)
    with core.store.reading() as conn:
        before = _needed(conn, row.id)
    present = {each.cka_id for each in device.keys.inventory(witness(core, row.id))}
    with core.store.reading() as conn:
        needed = _needed(conn, row.id)  # what was destroyed or created meanwhile is not missing
    return sorted({name for cka_id, name in needed.items() if cka_id in before and cka_id not in present})


def made_without(core: Core, device: Device) -> dict[str, list[str]]:
    """Return what members could not be asked for when it was made, by their serials, named as by ``missing``."""
    recorded = device.connection.unreplicated()
    if not recorded:
        return {}
    row = _row(core, device)
    with core.store.reading() as conn:
        needed = _needed(conn, row.id)

    def names(cka_ids: list[bytes]) -> list[str]:
        found = {needed.get(material_of_mac_key(each) or each) for each in cka_ids}
        return sorted(each for each in found if each is not None)

    return {serial: names(cka_ids) for serial, cka_ids in recorded.items()}


def check_again(core: Core) -> None:
    """Ask the members of HA groups, where they answer, for what they could not be asked for when it was made.

    What they have by now is no longer recorded. A token that cannot be asked is logged, and asked the next time.
    """
    for device in core.tokens.opened():
        if not _recorded(device):
            continue
        try:
            device.connection.check_unreplicated(partial(_standing, core, _row(core, device).id))
        except HsmKmsError as exc:
            log.warning("what is recorded as not replicated could not be checked: %s", exc)


def _standing(core: Core, token_id: str) -> frozenset[bytes]:
    """Return the CKA_IDs of all objects that should be on the token, or are being made there."""
    with core.store.reading() as conn:
        own = [each.cka_id for each in installation.installation_keys(conn, token_id)]
        standing = [*own, *objects.standing_ids(conn, token_id)]
    authenticating = [each for each in map(mac_key_id, standing) if each is not None]
    return frozenset([*standing, *authenticating])


def count_unreplicated(core: Core) -> int:
    """Return how many objects members of HA groups may lack, counted for each member."""
    recorded = [_recorded(each) for each in core.tokens.opened()]
    return sum(len(cka_ids) for each in recorded for cka_ids in each.values())


def _recorded(device: Device) -> dict[str, list[bytes]]:
    """Return what members could not be asked for, by their serials; nothing of a token that was not reached."""
    try:
        connection = device.connection
    except HsmKmsError:
        return {}
    return connection.unreplicated()


def _needed(conn: Connection, token_id: str) -> dict[bytes, str]:
    """Return what should be on the token: for each CKA_ID the key's id, or what it is instead."""
    own = {each.cka_id: OWN_KEYS for each in installation.installation_keys(conn, token_id)}
    return own | {
        cka_id: key_id or WRAPPING_KEYS for of, cka_id, _, _, key_id in objects.present(conn) if of == token_id
    }


def _row(core: Core, device: Device) -> TokenRow:
    for row in core.tokens.rows():
        if device.profile.serial in core.tokens.of(row.id).connection.members:
            return row
    raise BindingError(f"the token with serial {device.profile.serial} is no HA member of this installation's tokens")
