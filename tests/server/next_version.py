"""A program of the next schema, for tests of rolling upgrades: this one with one migration more.

The migration adds a column to a sealed table, a table whose rows belong to keys, an index, and a revision of log.db.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from cli_site import Site

import hsmkms
from hsmkms.store import files
from hsmkms.store.schema import LOG_REVISIONS, META_REVISIONS
from hsmkms.store.sqlite import schema

META = f"meta_{len(META_REVISIONS) + 1:04}"
LOG = f"log_{len(LOG_REVISIONS) + 1:04}"

_META_MIGRATION = f'''"""What comes next."""
import sqlalchemy as sa
from alembic import op
revision = "{META}"
down_revision = "{META_REVISIONS[-1]}"


def upgrade() -> None:
    """Add a column, a table and an index."""
    op.add_column("regional_key", sa.Column("colour", sa.Text, nullable=True))
    op.create_table(
        "key_note",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("loud", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key_note")),
    )
    op.create_index(op.f("ix_key_note_note"), "key_note", ["note"])
'''
_LOG_MIGRATION = f'''"""What comes next."""
import sqlalchemy as sa
from alembic import op
revision = "{LOG}"
down_revision = "{LOG_REVISIONS[-1]}"


def upgrade() -> None:
    """Add a column."""
    op.add_column("last_use", sa.Column("colour", sa.Text, nullable=True))
'''
_TABLE = """key_note: Final = Table(
    "key_note",
    meta,
    Column("key_id", Text, primary_key=True),
    Column("note", Text, nullable=False, index=True),
    Column("loud", Boolean, nullable=False),
)

"""
_COLUMN = '    Column("colour", Text),\n'
_LISTING = """
import sys
from pathlib import Path
from hsmkms.store import migrate
from hsmkms.store import files
migrate.create(Path(sys.argv[1]))
"""


def make(folder: Path) -> Path:
    """Make the program: the folder for PYTHONPATH."""
    package = folder / "hsmkms"
    shutil.copytree(Path(hsmkms.__file__).parent, package, ignore=shutil.ignore_patterns("guide"))
    _change(
        package / "store/schema.py",
        (f"range(1, {len(META_REVISIONS) + 1}))\nLOG", f"range(1, {len(META_REVISIONS) + 2}))\nLOG"),
        (
            f'LOG_REVISIONS: Final = tuple(f"log_{{number:04}}" for number in range(1, {len(LOG_REVISIONS) + 1}))',
            f'LOG_REVISIONS: Final = tuple(f"log_{{number:04}}" for number in range(1, {len(LOG_REVISIONS) + 2}))',
        ),
        (
            '    Column("version", WIDE, nullable=False),\n    one_of("lifecycle"',
            '    Column("version", WIDE, nullable=False),\n    Column("colour", Text),\n    one_of("lifecycle"',
        ),
        ("orphan: Final = Table(", f"{_TABLE}orphan: Final = Table("),
    )
    _change(
        package / "store/log_schema.py",
        (
            '    Column("request_id", Text, nullable=False),\n    one_of("operation", TrackedOperation),',
            f'    Column("request_id", Text, nullable=False),\n{_COLUMN}    one_of("operation", TrackedOperation),',
        ),
    )
    _change(
        package / "store/sealed_tables.py",
        ("    schema.key: _KEY,\n", "    schema.key: _KEY,\n    schema.key_note: _KEY,\n"),
    )
    migrations = package / "store/migrations"
    (migrations / f"meta/versions/{META}.py").write_text(_META_MIGRATION)
    (migrations / f"log/versions/{LOG}.py").write_text(_LOG_MIGRATION)
    environment = {"PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, "-c", _LISTING, folder / "listing"], cwd=folder, env=environment, check=True)
    with closing(sqlite3.connect(folder / "listing" / files.META.name)) as connection:
        objects = sorted(schema.objects(connection))
    _change(
        package / "store/sqlite/schema.py",
        (
            "OBJECTS: Final[frozenset[Object]] = frozenset(",
            f"OBJECTS: Final = frozenset({objects!r})\n_FORMER = frozenset(",
        ),
    )
    return folder


def _change(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text()
    for old, new in changes:
        assert text.count(old) == 1, (file, old)
        text = text.replace(old, new)
    file.write_text(text)


def run(program: Path, site: Site, script: str, *arguments: str) -> Any:  # noqa: ANN401 - JSON
    """Run a script by the next program in a process of its own; what it printed."""
    environment = site.environment(PYTHONPATH=str(program))
    command = [sys.executable, "-c", script, str(site.config), *arguments]
    done = subprocess.run(command, cwd=site.folder, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr, done
    return json.loads(done.stdout)
