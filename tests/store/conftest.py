"""Real databases in a temporary folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_samples import ACCOUNT, INSTALLATION, NOW, TOKEN

from hsmkms.store import installation, migrate
from hsmkms.store.engine import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with two fresh databases, of an installation with one token."""
    made = tmp_path / "data 100%?#"  # nothing in a path may mean anything to SQLite or Alembic
    migrate.create(made)
    store = Store.open(made)
    with store.atomic() as tx:
        installation.insert(tx, INSTALLATION, ACCOUNT, NOW)
        installation.insert_token(tx, TOKEN, "label", "serial", "manufacturer", "model", NOW)
    store.close()
    return made


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """An open store that gives up waiting for a lock soon."""
    opened = Store.open(folder, busy_timeout_seconds=0.2)
    yield opened
    opened.close()
