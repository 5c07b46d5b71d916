"""The pages that people read (README and guide), and a terminal in which their commands run as they are printed.

A block of ``console`` has commands behind ``$ ``, continued after a backslash, each followed by what it prints. All
commands of a page run in one shell, as a reader types them: standard output is a terminal 80 columns wide. What a page
prints below a command is compared with what comes, but for what differs from run to run: ids, dates, numbers, paths and
the like. A line ``...`` stands for any lines. A command fails if and only if the page says so: by an error message of
hsmkms below it, or by ``# status N`` behind it. Blocks of ``python`` run between the commands;
tests/server/test_server_clients.py runs programs in other languages.
"""

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import warm
from cli_site import SECONDS, Site
from msgspec import Struct

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
GUIDE: Final = ROOT / "hsmkms" / "guide"
PAGES: Final = (README, *sorted(GUIDE.glob("*.md")))
COLUMNS: Final = 80
PAGE_SECONDS: Final = 2 * SECONDS
"""After which a page is given up."""

SHOWN_ONLY: Final = {
    "import-from-hsm": "its vendors' tools need their HSMs; the page says that they were not tried",
    "clients": "its variables are an example; scripts/clients and the suite's clients set their own",
    "install": "they install for root: scripts/install-check runs all of them on bare machines",
    "README": "its two commands install packages, and run on a bare Debian in continuous integration",
    "numbers": "benchmarks take minutes, on a machine that does nothing else",
}
"""Pages with blocks of ``sh``, whose commands no test runs, and why."""

FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND: Final = re.compile(r"\$ ((?:.*\\\n)*.*)")
STATUS: Final = re.compile(r"# status (\d+)$")
BEGIN: Final = "\x1e"
END: Final = "\x1d"
"""What stands around the output of a command, before its status."""

VARYING: Final = {
    "<id>": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,}|\bA[A-Z]{3}[A-Z0-9]{12,}\b",
    "<date>": r"\d{4}-\d\d-\d\d[T ]?\d\d:\d\d:\d\d(?:\.\d+)?(?:Z| ?UTC)?",
    "<base64>": r"[A-Za-z0-9+/]{40,}={0,2}",
    "<path>": r"(?<![\w:])/[\w./-]+",
    "<number>": r"\d[\d,.]*",
}
"""What differs from run to run, in the order in which it is looked for."""


class Step(Struct, frozen=True, kw_only=True):
    """One command of a page, the lines that are printed below it, and the status it must end with (None: not 0)."""

    command: str
    output: list[str]
    status: int | None


def blocks(text: str, kind: str) -> list[str]:
    """The contents of all fenced blocks of a kind."""
    return [body for name, body in FENCE.findall(text) if name == kind]


def steps(text: str) -> list[Step]:
    """The steps of a text in their order: those of its console blocks, and each block of Python."""
    page_steps: list[Step] = []
    for kind, body in FENCE.findall(text):
        if kind == "console":
            page_steps += _steps(body)
        elif kind == "python":
            page_steps.append(Step(command=f"python - <<'PYTHON'\n{body}PYTHON", output=[], status=0))
    return page_steps


def commands(text: str) -> list[str]:
    """The commands of all console blocks of a text."""
    return [step.command for block in blocks(text, "console") for step in _steps(block)]


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level, until the next."""
    return re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]


def _steps(block: str) -> Iterator[Step]:
    ends = [match.start() for match in re.finditer(r"^\$ ", block, re.MULTILINE)]
    for start, end in zip(ends, [*ends[1:], len(block)], strict=True):
        match = COMMAND.match(block[start:end])
        assert match is not None
        output = block[start + match.end() : end].strip("\n").splitlines()
        expected = STATUS.search(match[1])
        fails = any(re.match(r"hsmkms: \w+(Exception|Error): ", line) for line in output)
        yield Step(command=match[1], output=output, status=int(expected[1]) if expected else None if fails else 0)


# -- running ----------------------------------------------------------------------------------------------------------


class Printed(Struct, frozen=True, kw_only=True):
    """What a command printed, and its status."""

    lines: list[str]
    status: int


def run(site: Site, page: list[Step], places: Mapping[str, str], environment: Mapping[str, str]) -> list[Printed]:
    """Run steps in the folder of a site. ``places``: a path or a port of the page, and what takes its place here.

    Ends early if the shell ends; whatever the page leaves running is killed.
    """
    if any("faketime" in step.command for step in page):
        warm.prepare_faketime()
    script = "\n".join(f"printf '{BEGIN}'\n{placed(step.command, places)}\nprintf '{END}%s\\n' $?" for step in page)
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (50, COLUMNS))
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-o", "pipefail", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        cwd=site.folder,
        env=site.environment(COLUMNS=str(COLUMNS), TERM="dumb", **environment),
        start_new_session=True,
    )
    os.close(terminal)
    try:
        text = _read_until_end(controller, shell)
    finally:
        os.close(controller)
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    outputs = re.findall(f"{BEGIN}(.*?){END}([0-9]+)", text, re.DOTALL)
    return [Printed(lines=output.strip("\n").splitlines(), status=int(status)) for output, status in outputs]


def placed(text: str, places: Mapping[str, str]) -> str:
    """A text of a page with the test's own places in it."""
    for name, place in places.items():
        text = text.replace(name, place)
    return text


def _read_until_end(terminal: int, shell: "subprocess.Popen[bytes]") -> str:
    """What is printed until the shell ends: what it leaves running in the background is not waited for."""
    text = b""
    deadline = time.monotonic() + PAGE_SECONDS
    with suppress(OSError):  # Linux's error when all other ends are closed
        while True:
            ended = shell.poll() is not None
            ready, _, _ = select.select([terminal], [], [], 0 if ended else 0.1)
            if ready:
                text += os.read(terminal, 65536)
            elif ended:
                break
            assert time.monotonic() < deadline, text[-2000:]
    return text.decode().replace("\r\n", "\n")


# -- comparing --------------------------------------------------------------------------------------------------------


def constant(lines: list[str]) -> list[str]:
    """Lines without what differs from run to run, and tables without their frames and folds."""
    constants: list[str] = []
    for line in lines:
        cells = [cell.replace(" ", "") for cell in line.strip("│┃").split("│")]
        if line.startswith("│") and not cells[0] and constants:
            constants[-1] = "│".join(a + b for a, b in zip(constants[-1].split("│"), cells, strict=True))
        elif line.startswith("│"):
            constants.append("│".join(cells))
        elif line.strip() and line[0] not in "┌├└┏┡┃":
            constants.append(line.strip())
    for name, pattern in VARYING.items():
        constants = [re.sub(pattern, name, line) for line in constants]
    return constants


def fits(shown: list[str], printed: list[str]) -> bool:
    """Return whether a page's output fits what was printed; no output fits anything, ``...`` stands for any lines."""
    pattern = "".join("(?:.*\n)*?" if line == "..." else f"{re.escape(line)}\n" for line in constant(shown))
    return not shown or re.fullmatch(pattern, "".join(f"{line}\n" for line in constant(printed))) is not None
