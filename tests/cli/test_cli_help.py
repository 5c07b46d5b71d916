"""Help: an example for everything, every operation, every option; and what it need not import."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import pytest
import typer
from cli_site import BIN, SECONDS, Site
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from hsmkms.cli.api.build import option_name
from hsmkms.cli.api.table import COMMANDS
from hsmkms.cli.commands import MODULES
from hsmkms.cli.help_layout import join_lines
from hsmkms.cli.main import application, keep_brackets
from hsmkms.model.constraints import required_members
from hsmkms.model.operations import OPERATIONS

PANELS = (
    "Installation",
    "Keys",
    "Rotation",
    "Imported key material",
    "Deletion",
    "Aliases",
    "Tags",
    "Permissions",
    "Cryptography",
    "Key pairs and HMAC keys",
    "Upkeep",
    "Audit log",
    "Endpoint",
    "Users",
    "Token",
    "Backup",
    "Repair",
    "Guide",
)
OPERATOR_COMMANDS = {
    "init",
    "join",
    "list-nodes",
    "drain-node",
    "remove-node",
    "migrate",
    "migrate-store",
    "token-info",
    "token-check",
    "attest",
    "change-pin",
    "rotate-installation-keys",
    "renew-installation-keys",
    "list-tokens",
    "migrate-token",
    "accept-clone",
    "forget-token",
    "list-older-material",
    "reconcile",
    "renew-log",
    "doctor",
    "guide",
    "backup",
    "restore",
    "re-encrypt-files",
    "maintain",
    "import-key",
    "rotate",
    "rotation-report",
    "report",
    "verify-report",
    "report-public-key",
    "unused-keys",
    "usage",
    "serve",
    "create-user",
    "list-users",
    "delete-user",
    "create-access-key",
    "list-access-keys",
    "update-access-key",
    "delete-access-key",
    "wrap-key-material",
    "audit",
    "verify-store",
    "accept-store",
    "put-user-policy",
    "get-user-policy",
    "list-user-policies",
    "delete-user-policy",
    "tag-user",
    "untag-user",
    "list-user-tags",
    "create-group",
    "list-groups",
    "delete-group",
    "add-user-to-group",
    "remove-user-from-group",
    "put-group-policy",
    "get-group-policy",
    "list-group-policies",
    "delete-group-policy",
    "reset-key-policy",
    "simulate-policy",
}
MANY = 150


@cache
def all_commands() -> dict[str, TyperCommand]:
    """Every command by its name."""
    group = typer.main.get_command(application())
    return dict(group.commands)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def crowded(shared: Site) -> Site:
    """An installation with MANY aliases."""
    shared.program("make_aliases", MANY)
    return shared


def test_help_is_grouped(bare: Site) -> None:
    """--help lists every command in a panel of its subject, with an example; -h, and nothing at all, are the same."""
    shown = bare.run("--help")
    assert (shown.status, shown.stderr) == (0, "")
    places = [shown.stdout.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places)
    assert all(f"│ {name} " in shown.stdout for name in all_commands())
    assert "Example: hsmkms init" in shown.stdout
    assert bare.run("-h").stdout == shown.stdout
    assert "Usage: hsmkms" in bare.run().stdout + bare.run().stderr


def test_command_help_as_printed(bare: Site) -> None:
    """A command's help shows its summary, an example, its own options and the common ones, in panels."""
    shown = bare.run("create-alias", "--help").stdout
    assert "Create an alias of a key." in shown
    assert "Example: hsmkms create-alias --alias-name alias/photos --target-key-id KEY_ID" in shown
    assert "--target-key-id" in shown
    assert "─ Common options ─" in shown


@pytest.mark.parametrize("name", sorted(all_commands()))
def test_help_of_each_command(name: str) -> None:
    """Each command has an example of itself, and a help text for each of its options."""
    command = all_commands()[name]
    assert f"Example: hsmkms {name}" in (command.help or "")
    assert command.rich_help_panel in PANELS
    for option in command.params:
        assert getattr(option, "help", None), f"{name} {option.opts}"


def test_every_operation_has_a_command() -> None:
    """The commands are those of the operations and the operator's own, and no other."""
    operations = {option_name(each) for each in OPERATIONS}
    assert {each.operation for each in COMMANDS} == set(OPERATIONS)
    assert set(all_commands()) == operations | OPERATOR_COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: option_name(command.operation))
def test_examples_are_complete(command: object) -> None:
    """Each example of an operation names every option that the operation requires, and only options that exist."""
    required = {f"--{option_name(name)}" for name in required_members(OPERATIONS[command.operation].request)}  # type: ignore[attr-defined]
    words = [word for word in command.example.split() if word.startswith("--")]  # type: ignore[attr-defined]
    known = {word for option in all_commands()[option_name(command.operation)].params for word in option.opts}  # type: ignore[attr-defined]
    assert required <= set(words) <= known


def test_version(bare: Site) -> None:
    """--version needs no installation."""
    shown = bare.run("--version")
    assert (shown.status, shown.stdout.split()[0]) == (0, "hsmkms")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(bare: Site, shell: str) -> None:
    """The shell's completion script can be shown."""
    shown = bare.run(
        "--show-completion", shell, SHELL=f"/bin/{shell}", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert (shown.status, shown.stderr) == (0, "")
    assert "_HSMKMS_COMPLETE=complete_" in shown.stdout


def test_completion_works(bare: Site) -> None:
    """Completion offers the commands, and the options of a command, that begin with what was typed."""

    def offered(line: str) -> set[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        return set(bare.run(_HSMKMS_COMPLETE="complete_bash", **words).stdout.split())

    assert offered("hsmkms list-k") == {"list-keys", "list-key-policies", "list-key-rotations"}
    assert "--target-key-id" in offered("hsmkms create-alias --tar")


def test_help_does_not_need_the_token(bare: Site) -> None:
    """Help imports neither the database's library nor the token's, nor anything of alembic."""
    code = "import sys\nfrom hsmkms.cli.main import application\n"
    code += "print([each for each in ('sqlalchemy', 'pkcs11', 'alembic', 'rich.table') if each in sys.modules])"
    done = subprocess.run(
        [BIN / "python", "-c", code],
        capture_output=True,
        check=True,
        timeout=SECONDS,
        cwd=bare.folder,
        env=bare.environment(),
        text=True,
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("module", MODULES)
def test_commands_of_modules(module: str) -> None:
    """A module has exactly the commands for which the command line imports it."""
    app = typer.Typer()
    import_module(f"hsmkms.cli.commands.{module}").register(app)
    groups = [each.typer_instance.info.name for each in app.registered_groups if each.typer_instance is not None]
    assert (*groups, *(each.name for each in app.registered_commands)) == MODULES[module]


def test_short_command_imports_little(shared: Site) -> None:
    """A command of the API imports no other command, nothing of the operator's acts or token-check, and no pydantic."""
    code = (
        "import atexit, sys\n"
        "from hsmkms.cli.main import main\n"
        "needless = ('hsmkms.cli.commands.', 'hsmkms.service.operator', 'hsmkms.service.backup', 'hsmkms.hsm.checks')\n"
        "atexit.register(lambda: print([each for each in sys.modules if each.startswith((*needless, 'pydantic'))]))\n"
        "main()\n"
    )
    words = ["create-key", "--description", "a", "--output", "text", "--query", "KeyMetadata.Description"]
    done = subprocess.run(
        [BIN / "python", "-c", code, *words, "--config", shared.config, "--tags", "TagKey=a,TagValue=b"],
        capture_output=True,
        check=True,
        timeout=SECONDS,
        cwd=shared.folder,
        env=shared.environment(),
        text=True,
    )
    assert done.stdout == "a\n[]\n"


def test_all_pages(crowded: Site) -> None:
    """A list longer than a page of the API is shown whole, each entry once, unless one page was asked for."""
    answer = crowded.run("list-aliases").json
    assert list(answer) == ["Aliases"]
    names = [each["AliasName"] for each in answer["Aliases"]]
    assert len(set(names)) == len(names) >= MANY
    page = crowded.run("list-aliases", "--limit", "70").json
    assert ([each["AliasName"] for each in page["Aliases"]], page["Truncated"]) == (names[:70], True)


def bracketed(command: TyperCommand | TyperGroup) -> set[str]:
    """The words with a bracket in the help texts of a command."""
    texts = [getattr(each, "help", None) or "" for each in (command, *command.params)]
    return {word for text in texts for word in text.split() if "[" in word}


def test_no_bracket_is_lost(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in brackets in a help text of any command is shown, and not taken for markup."""
    monkeypatch.setenv("COLUMNS", "200")
    root = get_command(application())
    assert isinstance(root, TyperGroup)
    audit = root.commands["audit"]
    assert isinstance(audit, TyperGroup)
    commands = {(name,): each for name, each in root.commands.items()}
    commands |= {("audit", name): each for name, each in audit.commands.items()}
    words = {names: bracketed(each) for names, each in commands.items()}
    keep_brackets(root)
    assert any("[serve]" in each for each in words.values())
    for names in [names for names, each in words.items() if each]:
        root.main(args=[*names, "--help"], prog_name="hsmkms", standalone_mode=False)
        shown = capsys.readouterr().out
        assert [word for word in words[names] if word not in shown] == [], names


def test_paragraphs_are_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A paragraph of a help text is broken where the terminal ends, and not where its source is."""
    monkeypatch.setenv("COLUMNS", "80")
    root = get_command(application("rotate"))
    join_lines(root)
    root.main(args=["rotate", "--help"], prog_name="hsmkms", standalone_mode=False)
    shown = [line.strip() for line in capsys.readouterr().out.split("Example:")[0].splitlines()]
    begin, end = (next(n for n, line in enumerate(shown) if each in line) for each in ("At the end", "Status 1"))
    assert end > begin
    assert min(map(len, shown[begin:end])) > 60


def leaves(command: TyperCommand, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    """A command, or all commands of a group, with the words that name them."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
    else:
        for name, each in below.items():
            yield from leaves(each, (*path, name))


LEAVES = dict(each for name, command in sorted(all_commands().items()) for each in leaves(command, (name,)))


@pytest.mark.parametrize("path", sorted(LEAVES), ids=" ".join)
def test_nothing_is_cut_or_eaten(shared: Site, path: tuple[str, ...]) -> None:
    """In 80 columns the help of each command has every option in full, and every bracket of its texts."""
    shown = shared.run(*path, "--help", COLUMNS="80").stdout
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", shown).split())
    for option in LEAVES[path].params:
        for form in (*option.opts, *option.secondary_opts):
            assert not form.startswith("--") or re.search(rf"{form}(?![\w-])", shown), form
    assert not re.search(r"(?<!age1)(?<!ssh-ed25519 )(?<!ssh-rsa )…", words)
    for word in (LEAVES[path].help or "").replace("\\[", "[").split():
        assert "[" not in word or word in words


@pytest.mark.parametrize("path", sorted(LEAVES), ids=" ".join)
def test_examples_have_options_that_exist(path: tuple[str, ...]) -> None:
    """The example of each command is one of that command, and every option in it is one of its options."""
    example = re.search(r"Example: hsmkms (.+)", re.sub(r"\s*\n(?!\n)\s*", " ", LEAVES[path].help or ""))
    assert example is not None
    words = shlex.split(example[1])
    assert tuple(words[: len(path)]) == path
    known = {form for option in LEAVES[path].params for form in (*option.opts, *option.secondary_opts)}
    options = {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)}
    assert options <= known
