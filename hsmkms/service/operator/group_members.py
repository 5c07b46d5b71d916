"""Find the keys that a member of an HA group lacks: what was acknowledged must be on all of them.

Replication is the work of the HSM or its client. Where it lags or was interrupted, a member that takes over does not
have the newest keys: they are named, and neither count as deleted nor are they made again.
"""

from typing import Final

from hsmkms.errors import BindingError
from hsmkms.hsm.ports import Device
from hsmkms.service.keys.installation_keys import witness
from hsmkms.service.runtime.core import Core
from hsmkms.store import installation, objects
from hsmkms.store.engine import Connection
from hsmkms.store.installation import TokenRow

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
