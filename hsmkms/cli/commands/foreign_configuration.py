"""Show what a configuration from a backup loads and runs, and have the operator accept it before it is used.

That holds even if the backup is proven to be the operator's: the token can prove it only after the module was loaded,
and a signature covers the configuration at that time, not the files at its paths on this machine.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import typer

from hsmkms.cli.api.confirmations import at_a_terminal
from hsmkms.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmkms.config.settings import Settings
    from hsmkms.service.backup.unsealing import Unsealed

LOADED: Final = (
    "data_dir",
    "module",
    "uri",
    "init_reserved",
    "environment",
    "pin",
    "certificate",
    "private_key",
    "seal_file",
    "recipients",
    "signing_key",
    "signing_command",
    "url",
    "listen_url",
    "password",
)
"""Names of settings and tables whose values are loaded, run, read or written."""


def accept(unsealed: "Unsealed", signature: str | None, settings: "Settings", accepted: str | None) -> None:
    """Show what the configuration names; return if the person at the terminal, or the digest of the file, accepts it.

    ``accepted``: the SHA-256 of the backup that the operator gave. ConfigurationError if it does not match, or without
    a terminal; ``typer.Abort`` if the answer is no.
    """
    digest = unsealed.sha256
    if accepted is not None:
        if accepted.strip().lower() != digest:
            raise ConfigurationError(f"--accept-configuration names another file: this one has SHA-256 {digest}")
        return
    for line in described(settings, signature):
        typer.echo(line, err=True)
    if not at_a_terminal():
        raise ConfigurationError(
            "the configuration of the backup is used only if you accept what it loads and runs: give your own with "
            f"--config, or --accept-configuration {digest}, which is the SHA-256 of this file"
        )
    typer.confirm("Load and run this here", abort=True, err=True)


def described(settings: "Settings", signature: str | None) -> Iterator[str]:
    """Yield the settings as lines for a terminal, with control characters escaped."""
    flat = dict(_flat("", msgspec.to_builtins(settings, enc_hook=str)))
    usual = dict(_flat("", msgspec.to_builtins(_usual(), enc_hook=str)))
    loaded = {name: value for name, value in flat.items() if is_loaded(name) and value}
    others = {name: value for name, value in flat.items() if name not in loaded and value != usual.get(name)}
    proof = f"signed by {signature}" if signature is not None else "not proven so far; the token is asked next"
    yield f"Who made this backup: {proof}"
    yield "Its configuration loads, runs, reads and writes:"
    yield from _lines(loaded)
    yield "and sets besides:"
    yield from _lines(others)


def is_loaded(name: str) -> bool:
    """Return True for a setting that names something outside of the configuration."""
    return any(part in LOADED for part in name.split("."))


def _usual() -> "Settings":
    """Return settings with all defaults."""
    from hsmkms.config import settings as config  # noqa: PLC0415 - only this command needs it

    return config.Settings(account_id="", regions=(), token=config.TokenSettings(), default_region="")


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    # JSON in ASCII: the settings of an untrusted backup may have control characters.
    return (f"    {json.dumps(name)[1:-1]} = {json.dumps(value)}" for name, value in values.items())


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any setting
    """Yield the settings with their full names."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), each)
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        for place, each in enumerate(value, 1):
            yield from _flat(f"{prefix}[{place}]", each)
    else:
        yield prefix, value
