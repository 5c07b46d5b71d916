"""Find SoftHSM's token folder, whose files belong to the user who made them: others see a token without its objects."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from hsmkms import ownership

VARIABLE: Final = "SOFTHSM2_CONF"

_folder_in: Final = re.compile(r"(?m)^\s*directories\.tokendir\s*=\s*(.+?)\s*$").search


def token_folder(environment: Mapping[str, str]) -> Path | None:
    """Return the token folder that SoftHSM's configuration names; None without one that can be read."""
    file = environment.get(VARIABLE) or os.environ.get(VARIABLE)
    if not file:
        return None
    try:
        named = _folder_in(Path(file).read_text())
    except (OSError, UnicodeDecodeError):
        return None  # SoftHSM itself reports it
    return Path(named[1]) if named is not None else None


def check_owner(environment: Mapping[str, str], serials: Collection[str]) -> None:
    """Raise ConfigurationError if objects of a token would be, or are, invisible to one of its users.

    SoftHSM names a token's folder by a UUID that ends with the serial. Other tokens in the same place are not in
    question: distributions share it among a group.
    """
    place = token_folder(environment)
    try:
        folders = [each for each in place.iterdir() if each.is_dir()] if place is not None else []
    except OSError:
        return  # SoftHSM itself reports it
    for folder in folders:
        if any(each and folder.name.replace("-", "").endswith(each) for each in serials):
            ownership.check_user("the SoftHSM token", folder)
            ownership.check_usable("the SoftHSM token's file", folder)
