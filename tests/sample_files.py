"""Read the samples in conf/: units of systemd, and commands of hsmkms, which are compared with the program's own."""

from functools import cache
from pathlib import Path
from typing import Any

import typer

from hsmkms.cli.main import application

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"


def settings(unit: Path) -> dict[str, list[str]]:
    """The settings of a unit by name."""
    settings_by_section: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings_by_section.setdefault(name, []).append(value)
    return settings_by_section


@cache
def command_line() -> Any:  # noqa: ANN401 - of the click that typer contains
    """The command line with all its commands."""
    return typer.main.get_group(application())


def check_command(words: list[str]) -> None:
    """The words after ``hsmkms`` name a command, and options that it or hsmkms itself has."""
    group = command_line()
    (name,) = [word for word in words if word in group.commands]
    known = {option for each in (*group.params, *group.commands[name].params) for option in each.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known
