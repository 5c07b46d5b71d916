"""Create the databases of an installation, look whether they are there, and migrate them, on either engine.

Without a target they are files of the data folder.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hsmkms.errors import ConfigurationError, MigrationError
from hsmkms.store import files, migrate
from hsmkms.store.nodes import Node
from hsmkms.store.sqlite import connections

if TYPE_CHECKING:
    from hsmkms.store.postgresql.target import Target


def target_at(url: str, password: Callable[[], str] | None, listen_url: str | None = None) -> "Target":
    """Return the database at a URL; ``listen_url``: the same past a pooler.

    Raises ConfigurationError, also if its driver is not installed.
    """
    try:
        from hsmkms.store.postgresql.target import parse  # noqa: PLC0415 - its driver is an extra
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"store.url needs the Python package {exc.name}: run `pip install hsmkms[postgresql]`"
        ) from exc
    return parse(url, password, listen_url)


def exists(folder: Path, target: "Target | None") -> bool:
    """Return True if the databases are there."""
    if target is None:
        return connections.exists(folder)
    from hsmkms.store.postgresql import creation  # noqa: PLC0415 - as above

    return creation.exists(target)


def create(folder: Path, target: "Target | None") -> None:
    """Create both databases with empty tables, on a server with the folder as first node. StoreError if they exist."""
    if target is None:
        return migrate.create(folder)
    from hsmkms.store.postgresql import creation  # noqa: PLC0415 - as above

    return creation.create(target, folder)


def upgrade(folder: Path, target: "Target | None") -> list[str]:
    """Migrate both databases to this program's revision; return the revisions applied."""
    if target is None:
        return migrate.upgrade(folder)
    from hsmkms.store.postgresql import creation  # noqa: PLC0415 - as above

    return creation.upgrade(target, folder)


def registered_nodes(target: "Target | None") -> list[Node]:
    """Return the nodes of the databases; none if there are no databases yet, or if they are files."""
    if target is None:
        return []
    from hsmkms.store.postgresql import creation  # noqa: PLC0415 - as above

    return creation.registered(target)


def require_registered(folder: Path, target: "Target | None") -> None:
    """Raise StoreError if the databases are on a server, and the data folder is none of their nodes."""
    if target is not None:
        from hsmkms.store.postgresql import creation  # noqa: PLC0415 - as above

        creation.require_registered(target, folder)


def must_announce(folder: Path, target: "Target | None") -> bool:
    """Return True if a migration of the databases must be announced first: older programs could work on beside it."""
    return migrate.needs_announcement(current(folder, target))


def current(folder: Path, target: "Target | None") -> dict[str, str]:
    """Return the revision of each database, by the name that it has as a file."""
    if target is None:
        return migrate.current(folder)
    from hsmkms.store.postgresql import creation  # noqa: PLC0415 - as above

    return creation.current(target)


def require_newest(folder: Path, target: "Target | None") -> None:
    """Raise MigrationError unless the databases have this program's schema: it does not copy what it does not know."""
    found = current(folder, target)
    if found != {database.name: database.revisions[-1] for database in files.DATABASES}:
        raise MigrationError(
            f"the store has the schema {', '.join(found.values())}, which this program does not copy: run `hsmkms "
            "migrate`, or use the version of hsmkms that migrated it"
        )


def names(folder: Path, target: "Target | None") -> list[str]:
    """Return the databases' names for people."""
    return [target.name] if target is not None else [str(folder / each.name) for each in reversed(files.DATABASES)]
