"""The README is true: its generated parts are current, and no command is missing from it."""

import importlib.machinery
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import botocore.session
import pytest
import typer

from hsmkms.cli.main import app
from hsmkms.model.operations import OPERATIONS
from hsmkms.rules.absent_keys import ABSENT
from hsmkms.rules.condition_keys import NAMES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def load_script(name: str) -> ModuleType:
    """A script without an ending, as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def commands() -> dict[str, str]:
    """Every command's name and help."""
    return {each.name or "": each.help or "" for each in typer.main.get_group(app).commands.values()}


def test_the_compatibility_table_is_current() -> None:
    """Writing the generated part again changes nothing."""
    assert load_script("readme").rewritten(README) == README


def test_every_global_condition_key_is_named() -> None:
    """The README names each condition key that is not of AWS KMS; those that no request has stand apart."""
    chapter = README[README.index("**Condition keys.**") : README.index("Letter case does not count in the KEY")]
    present, absent = chapter.split("No request here ever has the others")
    for each in NAMES:
        if not each.startswith("kms:"):
            part = absent if each in {key.name for key in ABSENT} else present
            assert f"`{each}`" in part, each


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


def test_every_operator_command_is_in_the_readme() -> None:
    """Each command that is no operation of the API is explained somewhere in the README."""
    script = load_script("readme")
    table = script.table()
    api = {re.sub(r"(?<=[a-z])(?=[A-Z])", "-", each).lower() for each in re.findall(r"[A-Z][A-Za-z]+", table)}
    missing = [name for name in commands() if name not in api and f"hsmkms {name}" not in README]
    assert missing == []


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_an_example(name: str) -> None:
    """The help of each command ends with an example that begins with the command itself."""
    helped = commands()[name] or (typer.main.get_group(app).commands[name].callback.__doc__ or "")
    assert f"Example: hsmkms {name}" in helped


def test_commands_in_the_readme_exist() -> None:
    """The README shows no command that there is not."""
    shown = set(re.findall(r"\$ hsmkms ([a-z-]+)", README))
    assert shown <= set(commands())


def test_no_placeholder_is_left() -> None:
    """Every number in the README was measured."""
    assert "BENCH_" not in README


def test_threats_name_tests_that_exist() -> None:
    """Each row of the threat model says what does not hold, and names tests that are there."""
    (table,) = re.findall(r"^\| Who \|.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE)
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
