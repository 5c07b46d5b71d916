"""The results of scripts/token-matrix, and the page of the guide that is made from them."""

import json
import re
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from token_table import MODULES

ROOT: Final = Path(__file__).parent.parent
RESULTS: Final = ROOT / "scripts" / "token_results.json"
GUIDE: Final = ROOT / "hsmkms" / "guide" / "tokens.md"
BEGIN: Final = "<!-- tokens: written by scripts/token-matrix -->"
END: Final = "<!-- end of tokens -->"
WORKS: Final = "works"
REFUSED: Final = "refused"
FAILS: Final = "fails"
_ALTERNATIVES: Final = re.compile(r": it (?:has keys of|makes|can do) [A-Z0-9_, ]+\.")
"""The end of a refusal: what the token can do is in the table."""

_WORDS: Final = {WORKS: "yes", REFUSED: "no", FAILS: "fails"}


class Tried(Struct, frozen=True):
    """What came of a capability, and the sentence where it is refused or fails."""

    outcome: str
    sentence: str = ""


class DeviceTests(Struct, frozen=True, kw_only=True):
    """What came of the device tests. ``skipped``: how many for each reason. ``failed``: their names.

    ``partial``: the tests of some files alone.
    """

    passed: int
    skipped: dict[str, int]
    failed: list[str]
    partial: bool = False


class Result(Struct, frozen=True, kw_only=True):
    """What came of a module, by the capabilities' names in their order."""

    version: str
    date: str
    capabilities: dict[str, Tried]
    tests: DeviceTests

    @property
    def fails(self) -> bool:
        """True if something neither works nor is refused for a named reason."""
        return bool(self.tests.failed) or any(each.outcome == FAILS for each in self.capabilities.values())


Results = dict[str, Result]


def load() -> Results:
    """Read the results of all runs so far."""
    return msgspec.json.decode(RESULTS.read_bytes(), type=Results) if RESULTS.exists() else {}


def save(results: Results) -> None:
    """Write the results and the page."""
    ordered = {row.name: results[row.name] for row in MODULES if row.name in results}
    RESULTS.write_text(json.dumps(msgspec.to_builtins(ordered), indent=1) + "\n")
    GUIDE.write_text(rewritten(GUIDE.read_text(), ordered))


def rewritten(text: str, results: Results) -> str:
    """Return the page with its generated part made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{body(results)}\n{END}{after}"


def body(results: Results) -> str:
    """Return the tables and the list of refusals."""
    parts = [modules_table(results), capabilities_table(results), "### What is refused, and why", *refusals(results)]
    return "\n\n".join(part for part in parts if part)


def modules_table(results: Results) -> str:
    """One row for each module: its version, and what came of it."""
    lines = ["| Module | Version | Capabilities | Device tests | Date |", "|---|---|---|---|---|"]
    for row in MODULES:
        if row.name not in results:
            why = row.absent or ("not run: Debian has no package of it" if row.built else "not run")
            lines.append(f"| {row.title} | {row.built} | {why} | | |")
            continue
        result = results[row.name]
        worked = sum(each.outcome == WORKS for each in result.capabilities.values())
        tests = f"{result.tests.passed} passed, {sum(result.tests.skipped.values())} skipped"
        if result.tests.partial:
            tests += " (some files)"
        if result.capabilities["init"].outcome != WORKS:
            tests = "not run: there is no installation on it"
        if result.tests.failed:
            tests += f", {len(result.tests.failed)} failed"
        shown = f"{worked} of {len(result.capabilities)}"
        lines.append(f"| {row.title} | {result.version} | {shown} | {tests} | {result.date} |")
    return "\n".join(lines)


def capabilities_table(results: Results) -> str:
    """One row for each capability, one column for each module."""
    shown = [row for row in MODULES if row.name in results]
    names = list(dict.fromkeys(name for row in shown for name in results[row.name].capabilities))
    if not names:
        return ""
    lines = [f"| Capability | {' | '.join(row.title for row in shown)} |", f"|---|{'---|' * len(shown)}"]
    for name in names:
        tried = (results[row.name].capabilities.get(name) for row in shown)
        lines.append(f"| {name} | {' | '.join(_WORDS[each.outcome] if each else '' for each in tried)} |")
    return "\n".join(lines)


def refusals(results: Results) -> list[str]:
    """One list for each module: its refusals by sentence, then why tests were skipped."""
    lists = []
    for row in MODULES:
        if row.name not in results:
            continue
        result = results[row.name]
        by_sentence: dict[str, list[str]] = {}
        for name, each in result.capabilities.items():
            if each.outcome != WORKS:
                by_sentence.setdefault(_ALTERNATIVES.sub(".", each.sentence), []).append(name)
        lines = [f"- {', '.join(names)}: {sentence}" for sentence, names in by_sentence.items()]
        lines += [f"- {count} test{'s' * (count > 1)}: {reason}" for reason, count in result.tests.skipped.items()]
        lines += [f"- failed: `{name}`" for name in result.tests.failed]
        if lines:
            lists.append("\n".join([f"**{row.title}**", "", *lines]))
    return lists
