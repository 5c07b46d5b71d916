"""Commands for the day after: backup, restore."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hsmkms.cli.invocation import Common, ConfigOption, OutputOption, QueryOption, named, outer_options
from hsmkms.cli.setup import CONFIG_FILE, write_private
from hsmkms.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmkms.config import Settings

PANEL: Final = "Backup"
_MOST_BYTES: Final = 65536
"""No file with a key is longer."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backup", rich_help_panel=PANEL)(backup)
    app.command("restore", rich_help_panel=PANEL)(restore)


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; it must not be there yet.")],
    *,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", metavar="PEM", help="Seal it to this RSA or X25519 key. Default: to a key on the token."
        ),
    ] = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """Write databases, audit log and configuration to one encrypted file, while everything goes on working.

    The token's objects are not in it, nor is the PIN: the token needs a backup of its own.

    Example: hsmkms backup /mnt/backup/2026-01-02.hsmkms --public-key operator.pem
    """
    from hsmkms import wiring  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.service.backup_keys import read_public_key  # noqa: PLC0415 - see above

    common = Common(config=config, output=output, query=query).over(outer_options(context))
    public = read_public_key(str(public_key), _read(public_key)) if public_key is not None else None
    found = wiring.configuration_file(common.config)
    with common.open() as kms:
        made = kms.operator.backup(file.absolute(), public, found.read_bytes())
    common.show(named(made))


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `hsmkms backup` wrote.")],
    *,
    private_key: Annotated[
        Path | None, typer.Option("--private-key", metavar="FILE", help="The key that it is sealed to, PEM or DER.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="DIR", help="Folder to restore into; default: the configured.")
    ] = None,
    accept_rollback: Annotated[
        bool, typer.Option("--accept-rollback", help="Also a state that is older than what the token remembers.")
    ] = False,
    accept_clone: Annotated[
        str | None,
        typer.Option("--accept-clone", metavar="TOKEN", help="Label or serial of a clone that replaces its token."),
    ] = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """Restore a backup into a folder without databases, if it belongs to this token; status 1 if objects are missing.

    With --data-dir, DIR/hsmkms.toml is the configuration; where there is none, that of the backup is put there.

    Example: hsmkms restore /mnt/backup/2026-01-02.hsmkms --private-key operator-private.pem
    """
    from hsmkms import wiring  # noqa: PLC0415 - see backup

    common = Common(config=config, output=output, query=query).over(outer_options(context))
    private = _private(private_key)
    settings = _settings(common.config, data_dir, file, private)
    restored = wiring.restore(settings, file, private, accept_rollback=accept_rollback, accept_clone=accept_clone)
    common.show(named(restored) | {"Missing": [named(each) for each in restored.missing]})
    if restored.missing:
        sys.exit(1)


def _settings(explicit: Path | None, data_dir: Path | None, file: Path, private: bytes | None) -> "Settings":
    """The settings to restore with; a folder that was named has its own file, which may first have to be put there."""
    from hsmkms import config, wiring  # noqa: PLC0415 - see backup

    if data_dir is None:
        return wiring.load_settings(explicit)
    own = data_dir.absolute() / CONFIG_FILE
    if explicit is None and not own.exists():
        text = wiring.configuration_in(file, private).decode()
        own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(own, text)
    settings = config.load(explicit or own)
    if settings.data_dir.resolve() != own.parent.resolve():
        raise ConfigurationError(
            f"{explicit or own} says data_dir = {settings.data_dir}, so nothing would look into {own.parent}: "
            "correct one of them"
        )
    return settings


def _private(file: Path | None) -> bytes | None:
    """PKCS #8 in DER."""
    if file is None:
        return None
    from hsmkms.cli.private_keys import pkcs8  # noqa: PLC0415 - see backup

    with pkcs8(str(file), bytearray(_read(file))) as der:
        return bytes(der)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_MOST_BYTES)
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc.strerror}") from exc
