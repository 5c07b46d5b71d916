"""Accepting the clone of a token: a copy made by its vendor's means takes its place, under another serial.

Whatever was made on the one after it was copied is not on the other, so only one of both counts: the one whose serial
is recorded. (Members of an HA group share their objects; their serials are listed in the configuration instead.)
"""

from msgspec import Struct

from hsmkms.errors import BindingError, ConfigurationError, TokenUnavailableError
from hsmkms.hsm.ports import Device
from hsmkms.service.audit.freshness import Freshness
from hsmkms.service.keys.installation_keys import witness
from hsmkms.service.operator import key_rotation
from hsmkms.service.runtime import binding, open_processes
from hsmkms.service.runtime.core import Core
from hsmkms.store import installation, objects
from hsmkms.store.installation import TokenRow


class Clone(Struct, frozen=True, kw_only=True):
    """A token that is to take the place of a recorded one, whose ``serial`` is another one.

    ``objects``: those that should be there, with the installation's own keys; ``missing``: how many of them are not.
    ``lost_purposes``: of the installation's own keys whose newest version it lacks; they have to be renewed.
    """

    token_id: str
    label: str
    serial: str
    recorded_serial: str
    objects: int
    missing: int
    lost_purposes: list[str]


def find(core: Core, device: Device) -> Clone:
    """The recorded token whose clone an open device is; the core was opened for accepting it.

    BindingError if it is no token of this installation, ConfigurationError if its serial is the recorded one.
    """
    row = next((each for each in core.tokens.rows() if _device(core, each) is device), None)
    if row is None:
        raise BindingError(
            f"the token {device.profile.label!r} (serial {device.profile.serial}) does not hold this installation's "
            "key, so it is no clone of one of its tokens: restore the vendor's copy onto it first"
        )
    if row.serial == device.profile.serial or (row.serial and not binding.is_clone(device, row)):
        raise ConfigurationError(
            f"nothing is to be accepted: the token {device.profile.label!r} has the serial that is recorded, or is a "
            "member of its HA group"
        )
    with core.store.reading() as conn:
        needed = {cka_id for token_id, cka_id, *_ in objects.present(conn) if token_id == row.id}
        needed |= {each.cka_id for each in installation.installation_keys(conn, row.id)}
    there = {each.cka_id for each in device.keys.inventory(witness(core, row.id))}
    return Clone(
        token_id=row.id,
        label=device.profile.label,
        serial=device.profile.serial,
        recorded_serial=row.serial,
        objects=len(needed),
        missing=len(needed - there),
        lost_purposes=key_rotation.lost(core),
    )


def accept(core: Core, clone: Clone) -> None:
    """Record the clone's names in the place of the token's. ConfigurationError while a process has that one open."""
    others = open_processes.holders(core.store.folder, clone.recorded_serial)
    if others:
        raise ConfigurationError(
            f"processes have the token with the serial {clone.recorded_serial} open "
            f"(pid {', '.join(map(str, others))}): stop them first"
        )
    with core.store.atomic() as tx:
        installation.rename_token(tx, clone.token_id, clone.label, clone.serial)
    Freshness(core).take(clone.token_id)


def _device(core: Core, row: TokenRow) -> Device | None:
    try:
        return core.tokens.of(row.id)
    except TokenUnavailableError:
        return None
