"""Changing the token's PIN without downtime, in steps that can be finished after an interruption.

The new PIN lies beside the PIN file before the token knows it, and takes its place afterwards: so at any moment one of
two files has the right one. Logins that exist go on; who logs in later reads the file anew.
"""

import os
from contextlib import closing
from pathlib import Path

from hsmkms import pins
from hsmkms.attaching import device_settings, open_device
from hsmkms.config import Secret, Settings, TokenSettings
from hsmkms.errors import ConfigurationError, PinError
from hsmkms.hsm import module as modules
from hsmkms.hsm.choice import choose
from hsmkms.hsm.login import LoginGate, right_pin
from hsmkms.model.permit import OperatorAct
from hsmkms.pins import PinSettings
from hsmkms.service.core import Core
from hsmkms.service.permits import own_permit


def change_pin(core: Core, settings: Settings, token: TokenSettings, new: Secret) -> Path:
    """Change a token's user PIN and the file that it comes from; returns the file. Running processes go on.

    PinError if the token refuses it; then all is as before. Interrupted, it is finished by ``finish``.
    """
    file = pin_file(token)
    draft = pins.draft_of(file)
    old = pins.read_pin(token.pin)
    device = open_device(settings, token)  # maybe shared with the installation, which has it open
    gate = LoginGate(settings.data_dir)
    details = {"token": device.profile.label}
    with core.audit.acting("ChangePin", core.installation.default_region, details), gate.exclusive(), closing(device):
        # 1. Both PINs are on the disk, before the token knows the new one.
        pins.write(draft, new)

        # 2. Device.
        try:
            device.change_pin(own_permit(OperatorAct.CHANGE_PIN), old, new.reveal())
        except PinError:
            draft.unlink()
            raise
        core.reached("change-pin 2: device")

        # 3. Whoever logs in from now on reads the new one.
        gate.note_change()
        pins.put_in_place(draft, file)
    return file


def finish(settings: Settings, token: TokenSettings) -> bool | None:
    """Find out how an interrupted change of the PIN ended: true if the new PIN holds, None if none was interrupted.

    At most one wrong PIN is tried, and then a right one. PinError if the token takes neither.
    """
    file, draft = token.pin.file, interrupted(token)
    if file is None or draft is None:
        return None
    told, gate = device_settings(settings, token), LoginGate(settings.data_dir)
    with gate.exclusive():
        candidates = [pins.read_pin(PinSettings(file=each)) for each in (file, draft)]
        module = modules.acquire(told.module, environment=told.environment, reserved=told.init_reserved)
        try:
            right = right_pin(choose(module, told.choice), candidates, gate)
        finally:
            module.release()
        if right is None:
            raise PinError(
                f"the token takes neither the PIN of {file} nor that of {draft}: its security officer can set one"
            )
        gate.note_change()
        if right:
            pins.put_in_place(draft, file)
        else:
            draft.unlink()
        return bool(right)


def interrupted(token: TokenSettings) -> Path | None:
    """The file with the other PIN, if a change of it was interrupted (or is going on just now)."""
    file = token.pin.file
    return pins.draft_of(file) if file is not None and pins.draft_of(file).exists() else None


def pin_file(token: TokenSettings) -> Path:
    """The file that the PIN comes from. ConfigurationError if there is none, or this user cannot replace it."""
    source = token.pin
    if source.file is None:
        raise ConfigurationError(
            f"the PIN comes from token.pin.{source.named[0]}, which hsmkms cannot change: stop what uses the token, "
            "change the PIN with the token's own tool, and then what it comes from"
        )
    if not os.access(source.file.parent, os.W_OK):
        raise ConfigurationError(f"{source.file} cannot be replaced by this user: run change-pin as its owner")
    return source.file
