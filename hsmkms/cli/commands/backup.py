"""Commands about backups: backup, restore."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hsmkms.cli.commands.setup import CONFIG_FILE, make_data_folder
from hsmkms.cli.options import Common, named, with_common
from hsmkms.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmkms.config.settings import BackupSettings
    from hsmkms.service.backup.age_keys import PrivateKeys, Recipient
    from hsmkms.service.backup.restore import Order, Restored
    from hsmkms.service.backup.signature import SigningKey, VerifyingKey

PANEL: Final = "Backup"
_MOST_BYTES: Final = 65536
"""The maximum length of a file with keys."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backup", rich_help_panel=PANEL)(backup)
    app.command("restore", rich_help_panel=PANEL)(restore)


@with_common("config", "output", "query")
def backup(
    common: Common,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; it must not exist yet.")],
    *,
    recipient: Annotated[
        list[str] | None,
        typer.Option("--recipient", metavar="KEY", help="Encrypt it to age1…, ssh-ed25519 …, ssh-rsa …; repeatable."),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", metavar="FILE", help="Encrypt it to the public keys in a file: age, SSH, PEM (RSA, X25519)."
        ),
    ] = None,
    signing_key: Annotated[
        Path | None,
        typer.Option("--signing-key", metavar="PEM", help="Sign it with this private key (Ed25519, EC, RSA)."),
    ] = None,
) -> None:
    """Write databases, audit log and configuration to one encrypted file, without interrupting service.

    Without a recipient here or in the configuration only the token can open it. It does not contain the token's
    objects or the PIN: the token needs a backup of its own. `Restore` in the result says how to restore it.

    Example: hsmkms backup /mnt/backup/2026-01-02.age --public-key operator.txt
    """
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for the database and the token

    configuration = wiring.configuration_file(common.config)
    settings = wiring.load_settings(configuration).backup
    recipients = _recipients(recipient, public_key, settings)
    signing = _signing_key(signing_key, settings)
    with common.open() as kms:
        result = kms.operator.backup(file.absolute(), recipients, configuration.read_bytes(), signing)
    common.show(named(result))


@with_common("config", "output", "query")
def restore(
    common: Common,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by `hsmkms backup`.")],
    *,
    private_key: Annotated[
        Path | None,
        typer.Option("--private-key", metavar="FILE", help="Private key that decrypts it: age, SSH, PEM or DER."),
    ] = None,
    signed_by: Annotated[
        Path | None, typer.Option("--signed-by", metavar="PEM", help="Public key that must verify its signature.")
    ] = None,
    unproven: Annotated[bool, typer.Option("--unproven", help="Accept a backup whose origin is not proven.")] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Folder to restore into; default: the configured one."),
    ] = None,
    accept_configuration: Annotated[
        str | None,
        typer.Option(
            "--accept-configuration", metavar="SHA256", help="Accept the backup's configuration if it has this digest."
        ),
    ] = None,
    accept_rollback: Annotated[
        bool, typer.Option("--accept-rollback", help="Accept a state older than the one recorded on the token.")
    ] = False,
    accept_clone: Annotated[
        str | None,
        typer.Option("--accept-clone", metavar="TOKEN", help="Label or serial of a clone that replaces its token."),
    ] = None,
) -> None:
    """Restore a backup into a folder without databases, if it belongs to this token; status 1 if objects are missing.

    Refused if neither the token nor the key of --signed-by proves who made it. With --data-dir, DIR/hsmkms.toml is the
    configuration; if it does not exist, the backup's is used, after you have confirmed what it loads and runs. An audit
    log that the lost installation has left there is set aside, and so are journals of its databases.

    Example: hsmkms restore /mnt/backup/2026-01-02.age --private-key operator-private.txt
    """
    if signed_by is not None and unproven:
        raise typer.BadParameter("--signed-by demands a proof, and --unproven does without: give one of them")
    from hsmkms.service.backup.restore import Order  # noqa: PLC0415 - see backup

    order = Order(
        keys=_private_keys(private_key),
        signed_by=_verifying_key(signed_by),
        unproven=unproven,
        accept_rollback=accept_rollback,
        accept_clone=accept_clone,
    )
    restored = _restored(common.config, data_dir, file, order, accept_configuration)
    common.show(named(restored) | {"Missing": [named(each) for each in restored.missing]})
    if restored.missing:
        sys.exit(1)


def _restored(
    explicit: Path | None, data_dir: Path | None, file: Path, order: "Order", accepted: str | None
) -> "Restored":
    """Restore with the operator's configuration; with the backup's only into a folder that has none."""
    from hsmkms.cli.commands.foreign_configuration import accept  # noqa: PLC0415 - see backup
    from hsmkms.config import settings as config  # noqa: PLC0415 - see backup
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see backup
    from hsmkms.wiring import restore as restore_wiring  # noqa: PLC0415 - see backup

    if data_dir is None:
        return restore_wiring.restore(wiring.load_settings(_own_configuration(explicit)), file, order)
    own = data_dir.absolute() / CONFIG_FILE
    if explicit is None and not own.exists():
        make_data_folder(own.parent)
        return restore_wiring.restore_with_its_configuration(
            own.parent, file, order, lambda unsealed, proof, settings: accept(unsealed, proof, settings, accepted)
        )
    settings = config.load(explicit or own)
    restore_wiring.check_place(settings, explicit or own, own.parent)
    return restore_wiring.restore(settings, file, order)


def _own_configuration(explicit: Path | None) -> Path:
    """Find the operator's configuration. ConfigurationError, with how to restore the backup's, if there is none."""
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see backup

    advice = "if it is lost, run the same command with --data-dir DIR, and the backup's configuration is restored too"
    try:
        configuration = wiring.configuration_file(explicit)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{str(exc).rpartition(': run ')[0]}: {advice}") from exc
    if not os.path.lexists(configuration):
        raise ConfigurationError(f"there is no configuration {configuration}: {advice}")
    return configuration


def _recipients(words: list[str] | None, file: Path | None, settings: "BackupSettings") -> list["Recipient"]:
    """Read the recipients of the options, or else those of the configuration."""
    from hsmkms.cli.commands.age_prompts import AgePerson  # noqa: PLC0415 - see backup
    from hsmkms.service.backup.age_keys import WRITTEN_OUT, read_recipient, read_recipients  # noqa: PLC0415 - see backup

    person = AgePerson()
    chosen = [read_recipient(each, person) for each in words or ()]
    chosen += read_recipients(str(file), _read(file), person) if file is not None else []
    for each in settings.recipients if not chosen else ():
        written_out = each.startswith(WRITTEN_OUT)
        chosen += [read_recipient(each, person)] if written_out else read_recipients(each, _read(Path(each)), person)
    return chosen


def _signing_key(file: Path | None, settings: "BackupSettings") -> "SigningKey | None":
    """Read the signing key of the option, or else that of the configuration; None if neither names one."""
    from hsmkms.config.settings import read_private_key  # noqa: PLC0415 - see backup
    from hsmkms.service.backup.signature import read_signing_key  # noqa: PLC0415 - see backup

    file = file or settings.signing_key
    if file is None and settings.signing_command is None:
        return None
    name = str(file) if file is not None else "backup.signing_command"
    command = settings.signing_command if file is None else None
    return read_signing_key(name, read_private_key("the signing key", file=file, command=command))


def _verifying_key(file: Path | None) -> "VerifyingKey | None":
    if file is None:
        return None
    from hsmkms.service.backup.signature import read_verifying_key  # noqa: PLC0415 - see backup

    return read_verifying_key(str(file), _read(file))


def _private_keys(file: Path | None) -> "PrivateKeys | None":
    if file is None:
        return None
    from hsmkms.cli.commands.age_prompts import AgePerson  # noqa: PLC0415 - see backup
    from hsmkms.cli.files.material_files import warn_if_open  # noqa: PLC0415 - see backup
    from hsmkms.cli.files.private_keys import pkcs8  # noqa: PLC0415 - see backup
    from hsmkms.service.backup.age_keys import (  # noqa: PLC0415 - see backup
        check_private,
        identity_of,
        is_identity_file,
        read_identities,
    )

    with suppress(OSError):
        warn_if_open(str(file), file.stat().st_mode)
    data = _read(file)
    check_private(str(file), data)
    if is_identity_file(data):
        return read_identities(str(file), data, AgePerson())
    with pkcs8(str(file), bytearray(data)) as der:
        return identity_of(bytes(der))


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_MOST_BYTES)
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc.strerror}") from exc
