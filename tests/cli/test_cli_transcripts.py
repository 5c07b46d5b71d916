"""Transcripts: each command, and everything that it prints.

A transcript is a file of lines ``$ COMMAND``, each followed by what the command prints on both streams and, unless it
is 0, ``[status N]``. ``#`` starts a comment. Commands run in a folder of their own, in a shell if they need one.
``<UUID>`` and the other names of PATTERNS stand for what differs from run to run; ``<NAME:UUID>`` remembers it, and
``<NAME>`` in a later line, or in a command, is what was remembered.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import warm
from cli_site import HERE, SECONDS, Site
from msgspec import Struct

TRANSCRIPTS = sorted((HERE / "transcripts").glob("*.txt"))
PATTERNS = {
    "UUID": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "HEX8": r"[0-9a-f]{8}",
    "HEX32": r"[0-9a-f]{32}",
    "HEX64": r"[0-9a-f]{64}",
    "HEX": r"(?:[0-9a-f]{2})+",
    "TIME": r"\d{10}(?:\.\d{1,3})?",
    "PATH": r"/[^ \"]*?",
    "ISO": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z",
    "DATE": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
    "NUMBER": r"\d+",
    "LOWER": r"[0-9a-z]+",
    "URLSAFE": r"[A-Za-z0-9_-]+={0,2}",
    "BASE64": r"[A-Za-z0-9+/]+={0,2}",
}
PLACEHOLDER = re.compile(r"<([A-Z0-9_]+)(?::([A-Z0-9]+))?>")
FOR_A_SHELL = frozenset("|&;<>()$`*?[~#\\\n")
"""What a shell would read in a command, outside quotes."""
LETTER = "Dear Ada,\n\nthe engine\x00 is yours. \N{SNOWMAN}\n".encode()


class Step(Struct, frozen=True, kw_only=True):
    """One command of a transcript, and its expected output."""

    line: int
    command: str
    output: list[str]
    status: int


def parse(text: str) -> list[Step]:
    """The steps of a transcript."""
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("$ "):
            steps.append(Step(line=number, command=line.removeprefix("$ "), output=[], status=0))
        elif line.startswith("#") or (not line and not steps):
            continue
        else:
            steps[-1].output.append(line)
    return [_finished(step) for step in steps]


def _finished(step: Step) -> Step:
    output = list(step.output)
    while output and not output[-1]:
        output.pop()
    match = re.fullmatch(r"\[status (\d+)\]", output[-1]) if output else None
    return Step(
        line=step.line,
        command=step.command,
        output=output[:-1] if match else output,
        status=int(match.group(1)) if match else 0,
    )


class Memory:
    """What the placeholders of one transcript stand for."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def filled(self, text: str) -> str:
        """Fill in the remembered values of a command; an unknown name is an error of the transcript."""
        return PLACEHOLDER.sub(lambda match: self._known[match.group(1)], text)

    def read(self, expected: str, printed: str) -> str:
        """The printed line if it is as expected, with its values remembered; else the expected line."""
        groups: dict[str, str] = {}
        pattern = "".join(
            re.escape(part) if index % 3 == 0 else self._pattern(part, kind, groups)
            for index, part, kind in _parts(expected)
        )
        match = re.fullmatch(pattern, printed)
        if match is None:
            return expected
        self._known |= {name: match.group(group) for group, name in groups.items()}
        return printed

    def _pattern(self, name: str, kind: str | None, groups: dict[str, str]) -> str:
        if kind is not None:
            groups[f"g{len(groups)}"] = name
            return f"(?P<g{len(groups) - 1}>{PATTERNS[kind]})"
        return re.escape(self._known[name]) if name in self._known else PATTERNS[name]


def _parts(expected: str) -> list[tuple[int, str, str | None]]:
    """The texts (index 0) and placeholders (index 1, with their kind) of a line."""
    pieces = PLACEHOLDER.split(expected)
    return [
        (index % 3, piece, pieces[index + 1] if index % 3 == 1 else None)
        for index, piece in enumerate(pieces)
        if index % 3 != 2
    ]


def run(site: Site, command: str) -> tuple[list[str], int]:
    """Run one command in the work folder, by a shell if it needs one; all its lines, and its status."""
    unquoted = re.sub("'[^']*'", "", command)
    if command.startswith("hsmkms ") and FOR_A_SHELL.isdisjoint(unquoted):
        words = shlex.split(command)[1:]
        done = warm.run(words, site.folder, site.environment(), b"", SECONDS, one_output=True)
        return done.stdout.decode().splitlines(), done.returncode
    done = subprocess.run(
        ["sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=SECONDS,
        cwd=site.folder,
        env=site.environment(),
    )
    return done.stdout.decode().splitlines(), done.returncode


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(site: Site, transcript: Path) -> None:
    """Every command of the transcript prints what is written below it, and nothing else."""
    steps = parse(transcript.read_text())
    if any("faketime" in step.command for step in steps):
        warm.prepare_faketime()
    (site.folder / "letter.txt").write_bytes(LETTER)
    (site.folder / "long.bin").write_bytes(bytes(4097))
    memory = Memory()
    for step in steps:
        printed, status = run(site, memory.filled(step.command))
        lines = zip(step.output, printed, strict=False)
        read = [memory.read(expected, given) for expected, given in lines] + step.output[len(printed) :]
        assert (printed, status) == (read, step.status), f"{transcript.name}, line {step.line}: {step.command}"


def test_runner_notices() -> None:
    """The runner distinguishes a wrong line, a wrong remembered value and a missing line from right ones."""
    memory = Memory()
    assert memory.read("id <A:HEX8>.", "id 0123abcd.") == "id 0123abcd."
    assert memory.read("<A> and <HEX8>", "0123abcd and ffffffff") == "0123abcd and ffffffff"
    assert memory.read("<A>", "ffffffff") == "<A>"
    assert memory.read("id.", "idx") == "id."
    assert memory.filled("$ use <A>") == "$ use 0123abcd"
    (step,) = parse("# said before\n$ false\nno\n[status 1]\n\n")
    assert (step.command, step.output, step.status) == ("false", ["no"], 1)


def test_transcripts_are_there() -> None:
    """The folder of transcripts has been found."""
    assert len(TRANSCRIPTS) >= 8
