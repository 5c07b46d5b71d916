"""At which revision the tables of hsmkms/guide/numbers.md were measured, and whether the code has changed since then.

A table that was measured anew gets the revision that was checked out then; after that `scripts/readme` writes the
sentences. A sentence becomes wrong only once, by the first change of what the table measures, so that
`tests/test_readme.py` asks for them then and not with every commit.
"""

import subprocess
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent


class Measured(NamedTuple):
    """The revision that brought the numbers of a table, and the folders that it measures; ``what`` names them."""

    revision: str
    what: str
    paths: tuple[str, ...]


_SERVICE: Final = ("hsmkms", ":!hsmkms/cli", ":!hsmkms/guide", ":!hsmkms/server")
_ENDPOINT: Final = ("hsmkms", ":!hsmkms/cli", ":!hsmkms/guide")

TABLES: Final = {
    "endpoint": Measured("51105c1", "the code of the endpoint", _ENDPOINT),
    "costs": Measured("39105d9", "the code of the endpoint", _ENDPOINT),
    "distant": Measured("c95bd2e", "the code of the endpoint", _ENDPOINT),
    "single": Measured("5cb181f", "the code of the façade", _SERVICE),
    "scale": Measured("59661d3", "the code", ("hsmkms", ":!hsmkms/guide")),
    "facade": Measured("5cb181f", "the code of the façade", _SERVICE),
}


def has_history() -> bool:
    """Whether this is a clone with all these revisions: a package or a shallow clone cannot tell what has changed."""
    if not (ROOT / ".git").exists():
        return False
    known = _git("rev-list", "--all", "--abbrev-commit", "--abbrev=7").split()
    return all(any(each.startswith(table.revision) for each in known) for table in TABLES.values())


def sentence(name: str) -> str:
    """What the page says about the age of a table."""
    revision, what, paths = TABLES[name]
    day = _git("show", "--no-patch", "--format=%as", revision)
    changed = _git("rev-list", "--max-count=1", f"{revision}..HEAD", "--", *paths)
    return f"Measured at revision `{revision}` of {day}; {what} {'has' if changed else 'has not'} changed since then."


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S607 - of PATH
    return done.stdout.strip()
