"""Read names of an installation for a shell's completion: without the token, and so without proof."""

from hsmkms.config.settings import Settings
from hsmkms.store import aliases, users
from hsmkms.wiring.stores import open_store


def alias_names(settings: Settings, region: str | None) -> list[str]:
    """Return the aliases of a region, by default of the configured one. Raises as ``Store.open`` does."""
    store = open_store(settings)
    try:
        with store.meta.reading() as conn:
            return [each.name for each in aliases.every(conn, region or settings.default_region)]
    finally:
        store.close()


def user_names(settings: Settings) -> list[str]:
    """Return the users. Raises as ``Store.open`` does."""
    store = open_store(settings)
    try:
        with store.meta.reading() as conn:
            return [each.name for each in users.users(conn)]
    finally:
        store.close()
