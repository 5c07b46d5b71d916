"""The specification in seeds/ is well formed, and says the truth about where each statement is built and tested."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from msgspec import Struct

ROOT = Path(__file__).parent.parent
SEEDS = ROOT / "seeds"
FILES = {
    "rotation": "R",
    "import": "I",
    "deletion": "D",
    "aliases": "A",
    "keys": "K",
    "endpoint": "E",
    "permissions": "P",
    "bridge": "B",
    "audit": "L",
    "outage": "O",
    "crashes": "C",
    "tokens": "T",
    "regions": "M",
    "nodes": "N",
}
"""Each file of statements, and the letter of its ids."""

ITEM = re.compile(
    r"- \*\*(?P<id>[A-Z]-[0-9]{2,3})\*\* (?P<statement>[^—]+[.:]) — "
    r"(?:code: (?P<code>`[^—]+`) — test: (?P<test>`[^—]+`)|open: (?P<open>[^—`]+))"
)
PATHS = re.compile(r"`([^`]+)`(?:, |$)")


class Seed(Struct, frozen=True, kw_only=True):
    """One statement: either built and tested, or open."""

    id: str
    statement: str
    code: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    open: str = ""


def parse(text: str) -> list[Seed]:
    """The items of a file. ValueError for an item that is not of the form, and for anything else but prose."""
    items: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("- "):
            items.append(line)
        elif line.startswith("  ") and items:
            items[-1] += f" {line.strip()}"
        elif line.startswith((" ", "*", "-", "|", ">", "`")):
            raise ValueError(f"line {number} is neither item, heading nor prose: {line}")
    return [read(item) for item in items]


def read(item: str) -> Seed:
    """One item, of which the lines have been joined."""
    match = ITEM.fullmatch(item)
    if match is None:
        raise ValueError(f"not `- **X-00** Statement. — code: … — test: …` or `… — open: …`: {item}")
    return Seed(
        id=match["id"],
        statement=match["statement"],
        code=paths(match["code"]),
        tests=paths(match["test"]),
        open=(match["open"] or "").strip(),
    )


def paths(text: str | None) -> tuple[str, ...]:
    """What stands between backquotes; commas between them, and nothing else."""
    paths_named = PATHS.findall(text or "")
    if ", ".join(f"`{path}`" for path in paths_named) != (text or ""):
        raise ValueError(f"not a list of `paths` with commas: {text}")
    return tuple(paths_named)


def seeds() -> list[Seed]:
    """All statements of all files."""
    return [seed for name in FILES for seed in parse((SEEDS / f"{name}.md").read_text())]


@cache
def functions(path: Path) -> frozenset[str]:
    """The test functions of a file, as pytest names them."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return frozenset(names)


def missing(seed: Seed) -> list[str]:
    """The code and the tests that a statement names and that do not exist."""
    gone = [path for path in seed.code if not (ROOT / path).is_file()]
    for test in seed.tests:
        path, _, name = test.partition("::")
        if not (ROOT / path).is_file() or name not in functions(ROOT / path):
            gone.append(test)
    return gone


def test_files() -> None:
    """There are no other files of statements, and the README lists all that there are."""
    assert {path.stem for path in SEEDS.glob("*.md")} == {*FILES, "README"}
    readme = (SEEDS / "README.md").read_text()
    for name, letter in FILES.items():
        assert f"| [{name}.md]({name}.md) | {letter} |" in readme


@pytest.mark.parametrize("name", FILES)
def test_form(name: str) -> None:
    """Every item has the form, an id with the letter of its file, and ids rise."""
    ids = [seed.id for seed in parse((SEEDS / f"{name}.md").read_text())]
    assert ids
    assert {key_id[0] for key_id in ids} == {FILES[name]}
    assert ids == sorted(set(ids), key=lambda each: int(each.partition("-")[2]))


def test_ids_are_unique() -> None:
    """No id stands twice, in whatever file."""
    ids = [seed.id for seed in seeds()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("seed", seeds(), ids=lambda seed: seed.id)
def test_code_and_tests_exist(seed: Seed) -> None:
    """What a statement names exists, or the statement says what is open."""
    assert seed.open or (seed.code and seed.tests)
    assert missing(seed) == []


@pytest.mark.parametrize(
    "item",
    [
        "- **R-01** It rotates.",
        "- **R-01** It rotates. — open:",
        "- **R-01** It rotates. — code: `hsmkms/errors.py`",
        "- **R-01** It rotates. — test: `tests/test_seeds.py::test_files`",
        "- **R-01** It rotates. — code: `a.py` — test: `b.py::c` — open: more",
        "- **R-01** It rotates. — code: a.py — test: `b.py::c`",
        "- **R-01** It rotates. — code: `a.py` `b.py` — test: `b.py::c`",
        "- **R-1** It rotates. — open: life cycle",
        "- R-01 It rotates. — open: life cycle",
        "- **R-01** It rotates — open: life cycle",
        "* **R-01** It rotates. — open: life cycle",
    ],
)
def test_bad_items(item: str) -> None:
    """An item with neither code and tests nor an open piece, or in another form, is refused."""
    with pytest.raises(ValueError, match=r"not|neither"):
        parse(item)


def test_good_items() -> None:
    """Items may span several lines."""
    text = (
        "# R\n\nProse.\n\n- **R-01** One\n  and. — code: `a.py`,\n  `b.py` — test: `t.py::x`\n"
        "- **R-02** Two.\n  — open: all of it\n"
    )
    assert parse(text) == [
        Seed(id="R-01", statement="One and.", code=("a.py", "b.py"), tests=("t.py::x",)),
        Seed(id="R-02", statement="Two.", open="all of it"),
    ]


def test_missing_is_seen() -> None:
    """Code, test files and test functions that do not exist are found."""
    here = "tests/test_seeds.py"
    seed = Seed(
        id="R-01",
        statement="x",
        code=("hsmkms/errors.py", "hsmkms/none.py"),
        tests=(f"{here}::test_files", f"{here}::test_none", "tests/none.py::test_files", here),
    )
    assert missing(seed) == ["hsmkms/none.py", f"{here}::test_none", "tests/none.py::test_files", here]
