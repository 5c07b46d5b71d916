"""Values of options: converted without pydantic, and exactly as typer converts them with it."""

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer import core
from typer.main import get_command

from hsmkms.cli import coercion
from hsmkms.cli.coercion import PREFIX_OF_PYDANTIC, Coercion
from hsmkms.cli.output import OutputFormat

GIVEN: dict[str, Any] = {}


def options(
    *,
    text: str | None = None,
    number: int = 443,
    limited: Annotated[int, typer.Option(min=1, max=9)] = 5,
    file: Path | None = None,
    folder: Annotated[Path | None, typer.Option(file_okay=False)] = None,
    format: OutputFormat | None = None,  # noqa: A002 - the name of an option
    each: list[str] | None = None,
    flag: bool | None = None,
) -> None:
    """Take options of every kind that commands have."""
    GIVEN.clear()
    GIVEN.update(
        text=text, number=number, limited=limited, file=file, folder=folder, format=format, each=each, flag=flag
    )


def outcome(words: list[str], build: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, str]]:  # noqa: ANN401 - typer's
    """What is wrong with the words, or the values that the command is given, with their types."""
    monkeypatch.setattr(core, "build_runtime_param", build)
    app = typer.Typer()
    app.command()(options)
    try:
        get_command(app)(args=words, standalone_mode=False)
    except Exception as exc:  # noqa: BLE001 - of the click that typer contains
        return f"{type(exc).__name__}: {exc}", {}
    return "", {name: f"{type(value).__name__} {value!r}" for name, value in GIVEN.items()}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--text", "a"],
        ["--text", ""],
        ["--number", "8443"],
        ["--number", "007"],
        ["--number", "-3"],
        ["--number", "1.5"],
        ["--number", "1_000"],
        ["--number", "x"],
        ["--number", "9" * 5000],
        ["--number", "\N{ARABIC-INDIC DIGIT THREE}"],
        ["--limited", "3"],
        ["--limited", "0"],
        ["--file", __file__],
        ["--file", "missing"],
        ["--file", "/"],
        ["--folder", "/"],
        ["--folder", __file__],
        ["--format", "json"],
        ["--format", "JSON"],
        ["--format", "xml"],
        ["--each", "a"],
        ["--each", "a", "--each", "b"],
        ["--flag"],
        ["--no-flag"],
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_as_typer_does(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A value becomes what typer makes of it, and one that typer refuses is refused in its words, not pydantic's."""
    refusal, given = outcome(words, coercion._typers_own, monkeypatch)
    assert outcome(words, Coercion, monkeypatch) == (refusal.replace(PREFIX_OF_PYDANTIC, ""), given)


@pytest.mark.parametrize("words", [["--text", "a\udcff"], ["--each", "a", "--each", "\udcff=b"]])
def test_what_is_not_utf_8(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A value in another encoding is refused by name: typer takes it, and neither database nor audit log can."""
    refusal, _ = outcome(words, Coercion, monkeypatch)
    assert refusal.startswith(f"BadParameter: {words[-1]!r} is not text in UTF-8")


@pytest.mark.parametrize("value", ["\u00fc\u2028\U0010ffff", "file://\udcff", "fileb://a\udcff"])
def test_names_of_files_in_any_encoding(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other text is taken, and so is a file whose name is not in UTF-8."""
    refusal, given = outcome(["--text", value], Coercion, monkeypatch)
    assert (refusal, given["text"]) == ("", f"str {value!r}")
