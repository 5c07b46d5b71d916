"""Change the token's PIN without downtime, in steps that can be finished after an interruption.

The new PIN is written beside the PIN file before it is set on the token, and replaces that file afterwards: so at any
moment one of the two files has the right PIN. Existing logins continue; later logins read the file again.
"""

import os
from contextlib import closing
from pathlib import Path

from hsmkms.config import pins
from hsmkms.config.pin_credentials import credential_names
from hsmkms.config.pins import PinSettings
from hsmkms.config.settings import Secret, Settings, TokenSettings
from hsmkms.errors import ConfigurationError, PinError
from hsmkms.hsm.ports import Device
from hsmkms.hsm.serials import serial_of
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.login import LoginGate, PinRefusedError, right_pin
from hsmkms.hsm.session.token_choice import choose
from hsmkms.model.permit import OperatorAct
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.wiring.shared_marks import shared_marks
from hsmkms.wiring.stores import require_registered
from hsmkms.wiring.tokens import device_settings, open_device


def change_pin(core: Core, settings: Settings, token: TokenSettings, new: Secret) -> Path:
    """Change a token's user PIN and the file that it is read from; return the file. Running processes continue.

    PinError if the token refuses the change; then nothing has changed. ``finish`` completes an interrupted change.
    """
    file = pin_file(token)
    draft = pins.draft_of(file)
    device = open_device(settings, token)  # maybe shared with the installation, which has it open
    gate = LoginGate(settings.data_dir, shared=shared_marks(settings))
    details = {"token": device.profile.label}
    with core.audit.acting("ChangePin", core.installation.default_region, details), gate.exclusive(), closing(device):
        gate.exchange_marks()
        gate.refuse_if_marked(device.profile.serial)
        if device.connection.pin_was_changed():
            raise ConfigurationError("another process has just changed the PIN: run change-pin again")
        names = credential_names(settings, token)
        old = pins.read_secret(token.pin, credentials=names)  # under the lock: the result of the last change

        # 1. Write the new PIN to the disk beside the old one, before it is set on the token.
        pins.write(draft, new)

        # 2. Device.
        try:
            _set_pin(device, gate, old, new)
        except PinError:
            draft.unlink()
            raise
        core.reached("change-pin 2: device")

        # 3. Replace the file, and make other processes reread it at their next login.
        gate.note_change()
        gate.publish_change(device.profile.label, device.profile.serial)
        pins.put_in_place(draft, file)
    return file


def _set_pin(device: Device, gate: LoginGate, old: Secret, new: Secret) -> None:
    """Change the PIN on the token; if it refuses the present PIN, the mark keeps that from being sent again."""
    profile = device.profile
    with gate.mark_at_hand(profile.label, profile.serial, old.origin) as leave_mark:
        try:
            device.connection.change_pin(own_permit(OperatorAct.CHANGE_PIN), old.reveal(), new.reveal())
        except PinRefusedError as exc:
            leave_mark()
            raise PinError(str(exc)) from exc


def finish(settings: Settings, token: TokenSettings) -> bool | None:
    """Complete an interrupted PIN change: True if the new PIN is the token's, None if no change was interrupted.

    At most one wrong PIN is tried, and then the right one; none that the token has refused before. PinError if the
    token accepts neither, or if the second attempt could be the last one.
    """
    file, draft = token.pin.file, interrupted(token)
    if file is None or draft is None:
        return None
    require_registered(settings)
    gate = LoginGate(settings.data_dir, shared=shared_marks(settings))
    with gate.exclusive():
        if not draft.exists():
            return None  # another process has just finished it
        if not draft.stat().st_size:  # killed before the new PIN was written, so it was never set on the token
            draft.unlink()
            return False
        gate.exchange_marks()
        right = _right_file(settings, token, (file, draft), gate)
        gate.note_change()
        if right == draft:
            pins.put_in_place(draft, file)
        else:
            draft.unlink()
        return right == draft


def _right_file(settings: Settings, token: TokenSettings, files: tuple[Path, Path], gate: LoginGate) -> Path:
    """Return the one of the two files that holds the token's PIN."""
    device = device_settings(settings, token)
    candidates = [pins.read_secret(PinSettings(file=each)) for each in files]
    module = modules.acquire(device.module, environment=device.environment, reserved=device.init_reserved)
    try:
        place = right_pin(lambda: choose(module, device.choice), candidates, gate)
        if place == 1:  # the new PIN
            found = choose(module, device.choice)
            gate.publish_change(found.label, serial_of(found))
    except PinError as exc:
        raise PinError(f"{exc}. Of {files[0]} and {files[1]} one has the right PIN: it must be in {files[0]}") from exc
    finally:
        module.release()
    if place is None:
        raise PinError(
            f"the token has refused the PIN of {files[0]} and that of {files[1]}, and neither is sent again: write the "
            f"right one into {files[0]}, remove {files[1]}, and run `hsmkms doctor --retry-pin`"
        )
    return files[place]


def interrupted(token: TokenSettings) -> Path | None:
    """Return the draft file with the other PIN, if a PIN change was interrupted (or is in progress)."""
    file = token.pin.file
    return pins.draft_of(file) if file is not None and pins.draft_of(file).exists() else None


def pin_file(token: TokenSettings) -> Path:
    """Return the file that the PIN is read from. ConfigurationError if there is none, or it cannot be replaced."""
    source = token.pin
    if isinstance(token.serial, tuple) and len(token.serial) > 1:
        raise ConfigurationError(
            f"each member of the HA group {', '.join(token.serial)} has a PIN of its own, and hsmkms would change "
            "that of one: stop what uses the token, change the PIN on every member with the vendor's tool, then in its "
            "source"
        )
    if source.file is None:
        raise ConfigurationError(
            f"the PIN comes from token.pin.{source.named[0]}, which hsmkms cannot change: stop what uses the token, "
            "change the PIN with the token's own tool, and then in that source"
        )
    if not os.access(source.file.parent, os.W_OK):
        raise ConfigurationError(f"{source.file} cannot be replaced by this user: run change-pin as its owner")
    return source.file
