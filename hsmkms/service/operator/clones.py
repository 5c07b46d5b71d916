"""Accept a token's clone, a copy made with its vendor's tools, in its place, and record its serial.

Objects that were created on one of the two after the copy are not on the other, so only one of them is used: the one
whose serial is recorded. (Members of an HA group share their objects; their serials are listed in the configuration
instead.)
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
    """A clone that is to replace a recorded token of another serial.

    ``objects``: how many should be on it, the installation's own keys included; ``missing``: how many of them are not.
    ``lost_purposes``: purposes of the installation's own keys whose newest version it lacks; they must be renewed.
    """

    token_id: str
    label: str
    serial: str
    recorded_serial: str
    objects: int
    missing: int
    lost_purposes: list[str]


def find(core: Core, device: Device) -> Clone:
    """Describe an open device as the clone of a recorded token; the core must have been opened to accept it.

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
            f"nothing needs to be accepted: the token {device.profile.label!r} has the recorded serial, or is a member "
            "of its HA group"
        )
    with core.store.reading() as conn:
        needed = {cka_id for token_id, cka_id, *_ in objects.present(conn) if token_id == row.id}
        needed |= {each.cka_id for each in installation.installation_keys(conn, row.id)}
    present = {each.cka_id for each in device.keys.inventory(witness(core, row.id))}
    return Clone(
        token_id=row.id,
        label=device.profile.label,
        serial=device.profile.serial,
        recorded_serial=row.serial,
        objects=len(needed),
        missing=len(needed - present),
        lost_purposes=key_rotation.lost(core),
    )


def accept(core: Core, clone: Clone) -> None:
    """Record the clone's label and serial for the token. ConfigurationError while a process has the old one open."""
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
