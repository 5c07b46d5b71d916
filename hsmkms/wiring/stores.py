"""Open the store that the settings name."""

from typing import TYPE_CHECKING

from hsmkms.config.settings import Settings
from hsmkms.config.store_settings import STRICT, password_reader
from hsmkms.errors import ConfigurationError
from hsmkms.store import setup
from hsmkms.store.consistency import Consistency
from hsmkms.store.engine import Store

if TYPE_CHECKING:
    from hsmkms.store.postgresql.target import Target


def target_of(settings: Settings) -> "Target | None":
    """Return the database that the settings name; None for files of the data folder."""
    store = settings.store
    if store.url is None:
        return None
    return setup.target_at(store.url, password_reader(store.password), store.listen_url)


def open_store(settings: Settings, *, older: bool = False, joining: bool = False) -> Store:
    """Open the store. Raises as ``Store.open`` does; see there for ``older`` and ``joining``."""
    store = settings.store
    consistency = Consistency(strict=store.consistency == STRICT, stale_seconds=store.stale_seconds)
    return Store.open(
        settings.data_dir, target=target_of(settings), consistency=consistency, older=older, joining=joining
    )


def require_registered(settings: Settings) -> None:
    """Raise StoreError if the databases have nodes, and the data folder is none: then its PIN is not sent."""
    setup.require_registered(settings.data_dir, target_of(settings))


def require_files(settings: Settings, act: str) -> None:
    """Raise ConfigurationError if the store is not in files of the data folder; ``act`` is what needs them."""
    if settings.store.url is not None:
        raise ConfigurationError(
            f"{act} works on databases in files, and this installation's is on a server (store.url): use its own tools"
        )
