"""How the results of token-check are shown, and the file of them that people send."""

import json
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hsmkms.cli.options import named
from hsmkms.errors import StoreError

if TYPE_CHECKING:
    from hsmkms.model.token_check import Check, CheckReport

_PACKAGES: Final = ("python-pkcs11", "cryptography")
"""Packages whose versions matter to what a module does, and to what is verified in process."""


def shown_checks(report: "CheckReport", *, for_people: bool) -> dict[str, Any]:
    """Return the checks as an answer; for people with one column for what they mean and what to do."""
    return {"Result": report.result, "Checks": [_row(each) if for_people else named(each) for each in report]}


def _row(check: "Check") -> dict[str, str]:
    code = f" ({check.ckr})" if check.ckr and check.ckr not in check.detail else ""
    meaning = f"Concerns {check.affects}. To do: {check.advice}." if check.affects else ""
    return {
        "Check": check.name,
        "Outcome": check.outcome.value,
        "Detail": check.detail + code,
        "Meaning": meaning,
    }


def report_text(report: "CheckReport") -> str:
    """Return the report as JSON: programs, module, token, mechanisms and checks; nothing of the PIN or its place."""
    answer = {
        "Report": "hsmkms token-check",
        "Time": datetime.now(UTC).isoformat(timespec="seconds"),
        "Hsmkms": metadata.version("hsmkms"),
        "Python": platform.python_version(),
        "Packages": {each: metadata.version(each) for each in _PACKAGES},
        "System": platform.platform(),
        "Result": report.result,
        **_renamed(report.facts),
        "Checks": [named(each) for each in report],
    }
    return json.dumps(answer, indent=4, ensure_ascii=False) + "\n"


def _renamed(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return facts with the names of their members in the API's style, as those of the checks are."""
    if isinstance(value, dict):
        return {_camel_case(name): _renamed(member) for name, member in value.items()}
    return [_renamed(each) for each in value] if isinstance(value, list) else value


def _camel_case(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def check_new_file(file: Path) -> None:
    """Raise StoreError, before any work is done, if a new file cannot be written there."""
    if file.exists():
        raise StoreError(f"{file} is there already: name another file for --report")
    if not file.absolute().parent.is_dir():
        raise StoreError(f"{file} cannot be written: there is no folder {file.absolute().parent}")
