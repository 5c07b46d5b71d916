"""At which revision the tables of hsmkms/guide/numbers.md were measured, and whether the code has changed since then.

A table that was measured anew gets the revision that was checked out then; after that `scripts/readme` writes the
sentences. They say up to which revision they hold, so that no later commit makes them wrong; `tests/test_readme.py`
checks them against the history, and asks for new ones when they are more than `MAX_LAG` commits old.
"""

import re
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
    "peers": Measured("8121c42", "the code of the endpoint", _ENDPOINT),
    "costs": Measured("39105d9", "the code of the endpoint", _ENDPOINT),
    "distant": Measured("c95bd2e", "the code of the endpoint", _ENDPOINT),
    "single": Measured("1eaf8d9", "the code of the façade", _SERVICE),
    "nodes": Measured("8121c42", "the code of the endpoint", _ENDPOINT),
    "scale": Measured("e4946aa", "the code", ("hsmkms", ":!hsmkms/guide")),
    "durability": Measured("8121c42", "the code of the façade", _SERVICE),
    "facade": Measured("1eaf8d9", "the code of the façade", _SERVICE),
}

MAX_LAG: Final = 150
"""The number of commits after which the sentences must be written anew."""


def has_history() -> bool:
    """Whether this is a clone with all these revisions: a package or a shallow clone cannot tell what has changed."""
    if not (ROOT / ".git").exists():
        return False
    known = _git("rev-list", "--all", "--abbrev-commit", "--abbrev=7").split()
    return all(any(each.startswith(table.revision) for each in known) for table in TABLES.values())


def head() -> str:
    """The revision that is checked out, in its short form."""
    return _git("rev-parse", "--short=7", "HEAD")


def written_at(text: str) -> str:
    """The revision up to which the sentences of a page hold."""
    (revision,) = set(re.findall(r"changed since then, up to `([0-9a-f]+)`", text))
    return revision


def lag(revision: str) -> int:
    """The number of commits since a revision."""
    return int(_git("rev-list", "--count", f"{revision}..HEAD"))


def sentence(name: str, newest: str) -> str:
    """The page's sentence about the age of a table: whether the code has changed up to the revision ``newest``."""
    revision, what, paths = TABLES[name]
    day = _git("show", "--no-patch", "--format=%as", revision)
    changed = _git("rev-list", "--max-count=1", f"{revision}..{newest}", "--", *paths)
    verb = "has" if changed else "has not"
    return f"Measured at revision `{revision}` of {day}; {what} {verb} changed since then, up to `{newest}`."


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S607 - of PATH
    return done.stdout.strip()
