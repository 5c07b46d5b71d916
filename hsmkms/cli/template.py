"""The configuration file that `hsmkms init` writes: every value that it decided, each with a word about it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

_TEXT: Final = """\
# Written by `hsmkms init`. Paths count from the folder of this file. All settings: conf/hsmkms.toml of hsmkms.

# The account that all ARNs name: 12 digits, fixed for the life of the installation.
account_id = {account}
# Name spaces of keys and aliases, as in AWS; requests that name none go to the default one.
regions = {regions}
default_region = {default_region}
# The databases (meta.db, log.db), the login lock and the mark of a refused PIN.
data_dir = "."

[token]
# The PKCS#11 module, and the one token that it is used for.
module = {module}
label = {label}
serial = {serial}

[token.pin]
# Where the PIN comes from: file, environment, command or prompt.
{pin}
"""

_ENVIRONMENT: Final = """
[token.environment]
# Set before the module is loaded.
{variables}
"""


def configuration(
    *,
    account: str,
    regions: Sequence[str],
    module: Path,
    label: str,
    serial: str,
    pin_source: tuple[str, object],
    environment: dict[str, str],
) -> str:
    """The text of the file. ``pin_source`` is a member of ``[token.pin]`` and its value."""
    text = _TEXT.format(
        account=_quoted(account),
        regions=_quoted(list(regions)),
        default_region=_quoted(regions[0]),
        module=_quoted(str(module)),
        label=_quoted(label),
        serial=_quoted(serial),
        pin=f"{pin_source[0]} = {_quoted(pin_source[1])}",
    )
    if environment:
        text += _ENVIRONMENT.format(variables="\n".join(f"{name} = {_quoted(v)}" for name, v in environment.items()))
    return text


def _quoted(value: object) -> str:
    """A TOML value; JSON's strings, lists and booleans are written the same way."""
    return msgspec.json.encode(value).decode()
