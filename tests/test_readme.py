"""README and guide are true: generated parts are current, no command is missing, what they name exists.

That their commands run as they are printed is tested by `tests/cli/test_cli_guide_pages.py`.
"""

import importlib.machinery
import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import botocore.session
import pages
import pytest
import typer
from pages import GUIDE, PAGES, README, ROOT, SHOWN_ONLY

from hsmkms.cli.commands.guide import TOPICS, summary
from hsmkms.cli.main import application
from hsmkms.model.operations import OPERATIONS
from hsmkms.rules.iam.absent_keys import ABSENT
from hsmkms.rules.iam.condition_keys import NAMES

MAP = ROOT / "hsmkms" / "README.md"
MOST_LINES = 250
MOST_IN_A_LINE = 84
"""Of what a topic is for, so that the list of topics fits a terminal."""
NOT_PLAYED = {
    *("delete-group", "delete-group-policy", "get-group-policy", "get-user-policy", "guide"),
    *("list-group-policies", "list-groups", "list-user-policies", "list-user-tags", "list-users"),
    *("remove-user-from-group", "tag-user", "untag-user"),
}
"""Operator commands that no page runs; they have tests of their own under tests/cli."""
TEXTS = {page: page.read_text() for page in PAGES}
EVERYTHING = "\n".join(TEXTS.values())


def load_script(name: str) -> ModuleType:
    """A script without an ending, as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@cache
def group() -> Any:  # noqa: ANN401 - of the click that typer contains
    """The command line with all its commands."""
    return typer.main.get_group(application())


def commands() -> dict[str, str]:
    """Every command's name and help."""
    return {command.name or "": command.help or "" for command in group().commands.values()}


def test_generated_parts_are_current() -> None:
    """Writing the compatibility table and the index of the guide again changes nothing."""
    script = load_script("readme")
    compatibility, readme = TEXTS[script.COMPATIBILITY], TEXTS[README]
    assert script.rewritten(compatibility, "compatibility", script.table()) == compatibility
    assert script.rewritten(readme, "topics", script.index()) == readme


def test_tables_of_numbers_say_how_old_they_are() -> None:
    """The page says of each table at which revision it was measured, and whether what it measures has changed since.

    It says so as of a revision, so that a commit cannot make it wrong; that revision must not be old.
    """
    script = load_script("readme")
    if not script.measured.has_history():
        pytest.skip("without the history of the repository nobody can say what has changed: clone all of it")
    text = TEXTS[script.NUMBERS]
    assert text.count("Measured at revision") == len(script.measured.TABLES)
    newest = script.measured.written_at(text)
    assert script.numbers(text, newest) == text, "run scripts/readme"
    assert script.measured.lag(newest) <= script.measured.MAX_LAG, "run scripts/readme"


def test_a_table_is_as_old_as_the_code_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of this very revision is up to date; one of the first revision is not, since all the code came later."""
    measured = load_script("readme").measured
    if not measured.has_history():
        pytest.skip("without the history of the repository nobody can say what has changed: clone all of it")
    first = measured._git("rev-list", "--max-parents=0", "--max-count=1", "HEAD")
    for revision, changed in (("HEAD", False), (first, True)):
        table = measured.Measured(revision, "the package", ("hsmkms",))
        monkeypatch.setitem(measured.TABLES, "facade", table)
        verb, newest = "has" if changed else "has not", measured.head()
        expected = f"; the package {verb} changed since then, up to `{newest}`."
        assert measured.sentence("facade", newest).endswith(expected)


def test_numbers_of_readme_are_on_the_page_of_numbers() -> None:
    """README claims no number that the page does not have, with a date that the page has as well."""
    table = TEXTS[README].partition("## Numbers\n")[2].partition("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ") and not row.startswith("| What")]
    numbers = (GUIDE / "numbers.md").read_text()
    assert len(rows) > 3
    for row in rows:
        for number in re.findall(r"\d+(?:,\d{3})+|\d+\.\d+|\d{4}-\d\d-\d\d", row):
            assert re.search(rf"(?<![\d,.]){re.escape(number)}(?![\d]|,\d|\.\d)", numbers), f"{number} in {row}"


def test_the_readme_is_short() -> None:
    """The README has at most 250 lines; everything else is in the guide."""
    assert len(TEXTS[README].splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", sorted(GUIDE.glob("*.md")), ids=lambda page: page.stem)
def test_pages_begin_with_commands(page: Path) -> None:
    """A page has a title, a line that says what it is for, and then commands or a table that is generated."""
    title, line, first = TEXTS[page].split("\n\n")[:3]
    assert re.fullmatch("# .+", title)
    assert line == summary(TEXTS[page])
    assert "\n" not in line
    assert len(line) <= MOST_IN_A_LINE
    assert first.startswith(("```console\n$ ", "```sh\n", "<!-- ")), first


def test_topics_are_pages() -> None:
    """The list of topics names the pages of the guide."""
    assert {page.stem for page in GUIDE.glob("*.md")} == {*TOPICS}


@pytest.mark.parametrize("page", [*PAGES, MAP], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link is to a file that is there; in the guide to another page of it."""
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
        assert page.parent != GUIDE or "/" not in target, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_kinds_of_blocks(page: Path) -> None:
    """Commands are in blocks that the tests run, but for those few that are only shown, each for a reason."""
    kinds = {kind for kind, _ in pages.FENCE.findall(TEXTS[page])}
    assert len(re.findall("^```", TEXTS[page], re.MULTILINE)) == 2 * len(pages.FENCE.findall(TEXTS[page]))
    assert kinds <= {"console", "python", "json", "sh"} | (
        {"javascript", "java", "go"} if page.stem == "programs" else set()
    )
    assert ("sh" in kinds) == (page.stem in SHOWN_ONLY)


@pytest.mark.parametrize("text", [*TEXTS.values(), MAP.read_text()], ids=[*(page.stem for page in TEXTS), "map"])
def test_scripts_that_are_shown_exist(text: str) -> None:
    """Every script, sample and test that is named is there."""
    named = set(re.findall(r"(?<![\w/.-])((?:scripts|conf|tests|seeds|hsmkms)/[\w./-]*\w)", text))
    assert [path for path in sorted(named) if not (ROOT / path.partition("::")[0]).exists()] == []


def test_the_map_names_every_layer() -> None:
    """The map for developers names what stands at the top of the package, and only what is there."""
    text = MAP.read_text()
    folders = [path.name for path in (ROOT / "hsmkms").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [folder for folder in folders if f"`hsmkms/{folder}/`" not in text] == []
    modules = [path.name for path in (ROOT / "hsmkms").glob("[a-z]*.py")]
    assert [name for name in modules if f"`{name}`" not in text and f"`hsmkms/{name}`" not in text] == []


def test_the_wheel_has_the_guide() -> None:
    """The wheel takes the package as a whole, so that the guide's pages and picture are in it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert settings["packages"] == ["hsmkms"]
    assert not {"include", "exclude", "only-include"} & {*settings}
    ignored = (ROOT / ".gitignore").read_text().split()
    assert not {"*.md", "*.svg", "guide", "hsmkms"} & {each.strip("/") for each in ignored}


def test_every_global_condition_key_is_named() -> None:
    """The guide names each condition key that is not of AWS KMS; those that no request has stand apart."""
    chapter = pages.section(TEXTS[GUIDE / "permissions.md"], "Condition keys")
    present, absent = chapter.split("No request here ever has the others")
    for name in NAMES:
        if not name.startswith("kms:"):
            part = absent if name in {key.name for key in ABSENT} else present
            assert f"`{name}`" in part, name


def test_the_compatibility_table_has_every_operation() -> None:
    """Each operation of botocore's model has one row, with a reason unless it works wholly, and the reason is true."""
    script = load_script("readme")
    rows = [row.strip("| ").split(" | ") for row in script.table().splitlines()[2:]]
    names = botocore.session.Session().get_service_model("kms").operation_names
    assert sorted(row[0] for row in rows) == sorted(names)
    for name, word, *reason in rows:
        assert word.strip(" |") in {"yes", "partly", "no"}, name
        assert bool(reason and reason[0].strip(" |")) == (word.strip(" |") != "yes"), name
    assert set(script.PARTLY) <= set(OPERATIONS)
    assert not set(script.PARTLY) & set(script.NEVER)


def operator_commands() -> set[str]:
    """The names of the commands that are no operation of the API."""
    table = load_script("readme").table()
    api = {re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower() for name in re.findall(r"[A-Z][A-Za-z]+", table)}
    return set(commands()) - api


def test_every_operator_command_is_explained() -> None:
    """Each command that is no operation of the API is explained in the README or the guide."""
    assert [name for name in sorted(operator_commands()) if f"hsmkms {name}" not in EVERYTHING] == []


def test_every_operator_command_is_played() -> None:
    """Each of them is run by a page as well, but for those that read or remove what others of their family have set."""
    run = "\n".join(command for text in TEXTS.values() for command in pages.commands(text))
    assert {name for name in operator_commands() if not re.search(rf"\bhsmkms {name}\b", run)} == NOT_PLAYED


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_an_example(name: str) -> None:
    """The help of each command ends with an example that begins with the command itself."""
    helped = commands()[name] or (group().commands[name].callback.__doc__ or "")
    assert f"Example: hsmkms {name}" in helped


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist(page: Path) -> None:
    """A page names no command, and with a command no option, that there is not, also outside its blocks."""
    common = {option for param in group().params for option in param.opts}
    for words in re.findall(r"`hsmkms ([^`]+)`", re.sub(r"\s+", " ", TEXTS[page])):
        name, *rest = words.split()
        if name.startswith("-") or name.isupper():
            assert name in {"--help", "--install-completion"} | common, words
            continue
        assert name in group().commands, words
        command = group().commands[name]
        if name == "audit":
            command = command.commands[rest[0]]
        known = common | {option for param in command.params for option in param.opts}
        assert {each.partition("=")[0] for each in rest if each.startswith("--")} <= known, words


def test_pages_do_not_collide() -> None:
    """Pages continue one tour, so no two of them create a user, a group, an alias, a policy file or a folder alike."""
    made: dict[tuple[str, str], str] = {}
    options = r"hsmkms create-(?:user|group|alias) --(user|group|alias)-name (\S+)|(mkdir) (?:--mode \d+ )?(~?\w\S*)"
    for page, text in TEXTS.items():
        for command in pages.commands(text):
            for found in re.finditer(options, command):
                kind, name = (word for word in found.groups() if word)
                assert made.setdefault((kind, name), page.stem) == page.stem, (kind, name)
    assert {kind for kind, _ in made} == {"user", "group", "alias", "mkdir"}


def test_no_placeholder_is_left() -> None:
    """Every number was measured."""
    assert "BENCH_" not in EVERYTHING


def test_threats_name_tests_that_exist() -> None:
    """Each row of the threat model says what does not hold, and names tests that are there."""
    (table,) = re.findall(r"^\| Who \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXTS[GUIDE / "security.md"], re.MULTILINE)
    rows = [line.strip("|").split(" | ") for line in table.splitlines()]
    assert len(rows) >= 10
    for who, holds, lacks, shown in rows:
        assert who.strip()
        assert holds.strip()
        assert lacks.strip()
        named = re.findall(r"`([^`]+)`", shown)
        assert named
        for path, _, test in (each.partition("::") for each in named):
            assert f"def {test}(" in (ROOT / path).read_text() if test else (ROOT / path).is_file()
