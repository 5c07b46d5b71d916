"""Restore a backup with the tokens of a configuration: the reader's own one, or the backup's."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from hsmkms.config import settings as config
from hsmkms.config.settings import Settings
from hsmkms.config.store_settings import StoreSettings
from hsmkms.errors import BindingError, ConfigurationError, HsmKmsError, ModuleError, TokenNotFoundError
from hsmkms.hsm.ports import Device
from hsmkms.service.backup import recipients
from hsmkms.service.backup import restore as restoring
from hsmkms.service.backup.age_keys import PrivateKeys
from hsmkms.service.backup.create import CONFIGURATION
from hsmkms.service.backup.recipients import Header
from hsmkms.service.backup.restore import Configured, Order, Restored
from hsmkms.service.backup.unsealing import Unsealed
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.ports import Checkpoint, no_checkpoint
from hsmkms.store import files, moving
from hsmkms.wiring import tokens as token_wiring
from hsmkms.wiring.core import core_of
from hsmkms.wiring.stores import target_of

if TYPE_CHECKING:
    from hsmkms.store.postgresql.target import Target

_NO_WISHES: Final = Order()

_OTHER_PATHS: Final = (
    "The backup's configuration has the paths of the machine that made it; where others are right here, write them "
    "into a configuration of your own, {}, first (`hsmkms guide lost-machine`)"
)

Accept = Callable[[Unsealed, str | None, Settings], None]
"""Shows what a configuration from a backup loads and runs, and raises unless a person accepts it.

Called with the unpacked backup, the signature on it (None without one), and the settings in it.
"""


def restore(settings: Settings, file: Path, order: Order = _NO_WISHES, reached: Checkpoint = no_checkpoint) -> Restored:
    """Restore a backup into the data folder of the settings; nothing is loaded that they do not name.

    See ``service/backup/restore.py``.
    """
    files.make_folder(settings.data_dir)
    server = target_of(settings)
    with ExitStack() as opened:
        reachable = cache(lambda: token_wiring.open_what_can_be(settings, opened))
        return restoring.restore(
            file,
            settings.data_dir,
            order,
            lambda header: _unseal(header, order.keys, reachable()[1]),
            lambda _, __: _configured(reachable(), order, server),
            reached,
            server=server,
        )


def restore_with_its_configuration(
    target: Path, file: Path, order: Order, accept: Accept, reached: Checkpoint = no_checkpoint
) -> Restored:
    """Restore a backup and its configuration into the folder ``target``, for a host that has lost its configuration.

    Nothing that the configuration names is loaded before ``accept`` has returned. ConfigurationError if the backup has
    none, or one for another folder.
    """
    with ExitStack() as opened:

        def configure(unsealed: Unsealed, signature: str | None) -> Configured:
            settings = settings_in(unsealed, target)
            accept(unsealed, signature, settings)
            config.check_owners(settings)
            server = target_of(settings)
            if server is not None:
                moving.require_room(target, server)
            try:
                reachable = token_wiring.open_what_can_be(settings, opened)
            except (ModuleError, TokenNotFoundError) as exc:
                raise type(exc)(f"{exc}. {_OTHER_PATHS.format(target / CONFIGURATION)}") from exc
            return _configured(reachable, order, server, unsealed.configuration)

        unseal = partial(_unseal, keys=order.keys, devices=())
        return restoring.restore(file, target, order, unseal, configure, reached)


def settings_in(unsealed: Unsealed, target: Path) -> Settings:
    """Parse the backup's configuration as if it were in ``target``. Raises ConfigurationError."""
    if unsealed.configuration is None:
        raise ConfigurationError("the backup holds no configuration: give one with --config")
    file = target / CONFIGURATION
    settings = config.parse(unsealed.configuration, file)
    check_place(settings, file, target)
    return settings


def check_place(settings: Settings, file: Path, folder: Path) -> None:
    """Raise ConfigurationError unless the data folder of these settings, read from ``file``, is ``folder``."""
    if settings.data_dir.resolve() != folder.resolve():
        raise ConfigurationError(
            f"{file} has data_dir = {settings.data_dir}, so no command would use {folder}: correct one of them"
        )


def _configured(
    reachable: tuple[Settings, list[Device], list[HsmKmsError]],
    order: Order,
    server: "Target | None",
    file: bytes | None = None,
) -> Configured:
    """Build the environment of a restore with only the tokens that could be opened.

    Tokens that refused their PIN must not be tried again from the staging folder, which does not have their marks.
    """
    settings, devices, faults = reachable
    accepting = token_wiring.named_token(settings, order.accept_clone) if order.accept_clone is not None else None

    def open_core(chosen: Settings) -> Core:
        try:
            return core_of(chosen, accepting=accepting)
        except BindingError as exc:
            raise (faults[0] if faults else exc) from exc  # the right token may be one that could not be opened

    return Configured(
        devices=devices,
        open_staged=lambda folder: open_core(replace(settings, data_dir=folder, store=StoreSettings())),
        open_restored=lambda: open_core(settings),
        file=file,
        server=server,
    )


def _unseal(header: Header, keys: PrivateKeys | None, devices: Sequence[Device]) -> bytes:
    """Unwrap the file key of hsmkms's own envelope with a private key or with one of the tokens."""
    if not recipients.is_by_token(header.method):
        if keys is None or keys.pkcs8 is None:
            raise ConfigurationError(
                f"the backup is sealed to a public key ({header.recipient}): give its --private-key, in PEM or DER"
            )
        return recipients.open_with_private_key(header, keys.pkcs8)
    if not devices:
        raise ConfigurationError(
            "only its token opens this backup: give the --config FILE that names the token. If it is lost, write one: "
            "account_id, regions, data_dir and [token] suffice (conf/hsmkms.toml describes every setting)"
        )
    for each in devices[:-1]:
        with suppress(BindingError):
            return recipients.open_with_token(header, each)
    return recipients.open_with_token(header, devices[-1])
