"""The report as one HTML file: without scripts and anything from elsewhere, to be read on a screen and on paper."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from datetime import datetime
from html.parser import HTMLParser
from typing import Any, Final

from hsmkms.cli.reports import charts
from hsmkms.cli.reports.document import USES, Document
from hsmkms.cli.reports.elements import Content, Element, element, pairs, table, text_of

_META: Final = "hsmkms-report"
_STYLE: Final = """
body { font: 14px/1.45 sans-serif; color: #111111; margin: 2em auto; max-width: 62em; padding: 0 1em; }
h1, h2, h3 { line-height: 1.2; }
h3, td, th, pre { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: 0.5em 0 1.5em; }
th, td { border: 1px solid #999999; padding: 0.25em 0.5em; text-align: left; vertical-align: top; }
thead th { background: #eeeeee; overflow-wrap: normal; }
.materials, .rights { table-layout: fixed; }
.materials th:nth-child(1) { width: 4%; }
.materials th:nth-child(2) { width: 25%; }
.materials th:nth-child(3) { width: 16%; }
.materials th:nth-child(4) { width: 14%; }
.rights th:nth-child(1), .rights th:nth-child(3) { width: 22%; }
.overview td { overflow-wrap: normal; }
.overview td:first-child { overflow-wrap: anywhere; }
.pairs th { width: 14em; font-weight: normal; background: #eeeeee; }
pre { white-space: pre-wrap; margin: 0; font-size: 12px; }
figure { margin: 1em 0; break-inside: avoid; }
figcaption { font-weight: bold; }
svg { max-width: 100%; height: auto; }
@page { size: A4; margin: 16mm; @bottom-right { content: counter(page) " / " counter(pages); } }
@media print {
  body { font-size: 10px; margin: 0; max-width: none; }
  thead { display: table-header-group; }
  tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .key { break-before: auto; }
}
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
_IN_SUMMARY: Final = (
    "Arn",
    "Description",
    "KeyState",
    "KeySpec",
    "KeyUsage",
    "Origin",
    "KeyManager",
    "MultiRegion",
    "CreationDate",
    "DeletionDate",
    "ExpiresAt",
    "RotationPeriodDays",
    "LastRotation",
    "NextRotation",
    "LastUsed",
    "LastOperation",
    USES,
    "Encryptions",
    "BudgetPercent",
    "Posture",
    "Reason",
    "Fault",
)


def render(content: Document) -> bytes:
    """Return the file."""
    statement = content["Report"]
    title = f"Keys of the installation {statement['Installation']}, {statement['MadeAt'][:10]}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name=_META, content=json.dumps(statement)),
        element("meta", name="viewport", content="width=device-width"),
        element("title", title),
        element("style", _STYLE),
    )
    body = element("body", element("h1", title), *_sections(content))
    return text_of(element("html", head, body, lang="en"))


def statement(data: bytes) -> dict[str, Any]:
    """Return the members of the statement in a file."""
    reader = _StatementReader()
    reader.feed(data.decode())
    found: dict[str, Any] = json.loads(reader.found or "")
    return found


class _StatementReader(HTMLParser):
    """Finds the first statement of a file."""

    found: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at an element."""
        given = dict(attrs)
        if self.found is None and tag == "meta" and given.get("name") == _META:
            self.found = given.get("content")


# -- sections -------------------------------------------------------------------------------------------------------


def _sections(content: Document) -> Iterator[Element]:
    statement, keys = content["Report"], content["Keys"]
    yield pairs((_words(name), _shown(value)) for name, value in statement.items())
    yield element("p", _about_signature(statement))
    yield element("h2", "Findings")
    yield _rows(content["Findings"], "Nothing calls for action.")
    yield element("h2", "Pictures")
    yield charts.ages(keys)
    yield charts.uses(content["UsesByDay"], content["UsesKnownSince"])
    yield charts.rotations(keys, datetime.fromisoformat(statement["MadeAt"]))
    yield element("h2", "Audit log and database")
    yield from _audit(content["Audit"])
    yield element("h2", "Tokens")
    yield _rows(content["Tokens"], "There is none.")
    yield element("h2", f"Keys ({len(keys)})")
    yield table(
        ("Key", "State", "Spec", "Origin", "Age in days", "Last rotation", "Next rotation"),
        (_overview(key) for key in keys),
        class_="overview",
    )
    yield element("h2", "Users and groups")
    yield from _people(content)
    for key in keys:
        yield _key(key)


def _about_signature(statement: Document) -> str:
    if not statement["SignedBy"]:
        return "This report is not signed. The installation's audit log has recorded its SHA-256."
    return (
        "The signature is in a file beside this one, whose name ends in .sig. It proves every byte of this file: "
        "`hsmkms verify-report FILE`, or with the public key alone `openssl dgst -sha256 -verify report-key.pem "
        "-signature FILE.sig FILE`. Compare the fingerprint of the public key with one that you have by another way."
    )


def _overview(key: Document) -> list[Content]:
    name = element("span", key["KeyId"], *(element("div", each) for each in key["Aliases"]))
    dates = (_shown(key[each])[:10] for each in ("LastRotation", "NextRotation"))
    return [name, key["KeyState"], key["KeySpec"], key["Origin"], _shown(key["AgeDays"]), *dates]


def _audit(audit: Document) -> Iterator[Element]:
    lists = ("Faults", "Unproven", "Accepted", "RowFaults")
    yield pairs((_words(name), _shown(value)) for name, value in audit.items() if name not in lists)
    for name in lists:
        if audit[name]:
            yield element("h3", _words(name))
            yield _rows(audit[name], "")


def _people(content: Document) -> Iterator[Element]:
    for kind, name in (("Users", "UserName"), ("Groups", "GroupName")):
        for each in content[kind]:
            yield element("h3", f"{kind.removesuffix('s')} {each[name]}")
            yield pairs((_words(member), _value(value)) for member, value in each.items())
    if content["RootAccessKeys"]:
        yield element("h3", "Access keys of the account's root")
        yield _rows(content["RootAccessKeys"], "")


def _key(key: Document) -> Element:
    parts: list[Element] = [
        element("h2", f"Key {key['KeyId']}"),
        pairs((_words(name), _shown(key[name])) for name in _IN_SUMMARY),
        pairs((("Aliases", _shown(key["Aliases"])), ("Tags", _value(key["Tags"])))),
        element("h3", "Key material"),
        table(
            ("No.", "Id, token", "State, made", "On the token", "Attributes as the token reports them"),
            (_material(each) for each in key["Materials"]),
            class_="materials",
        ),
        element("h3", "Who may do what"),
        table(
            ("Principal", "Allowed, by which policy or grant", "Also depends on conditions"),
            map(_rights, key["Rights"]),
            class_="rights",
        ),
        element("h3", "Grants"),
        _rows(key["Grants"], "There is none."),
        element("h3", "Key policy"),
        element("pre", key["Policy"]),
    ]
    return element("section", *parts, class_="key")


def _material(material: Document) -> list[Content]:
    state = material["Attestation"]
    if state is None:
        standing, attributes = f"not read: {material['Fault']}", ""
    else:
        standing = "as it was made" if state["AsMade"] else f"NOT as it was made: {'; '.join(state['Deviations'])}"
        standing += ", imported" if state["Imported"] else ""
        standing += ", was in the clear in a process at its import" if state["HostUnwrapped"] else ""
        attributes = ", ".join(f"{name} {_shown(value)}" for name, value in state["Attributes"].items())
    made = f"{material['State']}, {material['CreatedAt']}"
    if material["ValidTo"] is not None:
        made += f", expires {material['ValidTo']}"
    return [
        str(material["Sequence"]),
        f"{material['KeyMaterialId']} on {material['Token']}",
        made,
        standing,
        attributes,
    ]


def _rights(rights: Document) -> list[Content]:
    allowed: list[Content] = [
        element("div", element("b", f"{by}: "), _shown(actions)) for by, actions in rights["Allowed"].items()
    ] or ["nothing"]
    return [rights["Principal"], element("div", *allowed), _shown(rights["Conditional"])]


# -- values ---------------------------------------------------------------------------------------------------------


def _rows(rows: list[Document], nothing: str) -> Element:
    """Return a table with a column for each member of the rows."""
    if not rows:
        return element("p", nothing)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return table([_words(name) for name in names], ([_value(row.get(name)) for name in names] for row in rows))


def _value(value: Any) -> Content:  # noqa: ANN401 - JSON
    """Return a value for a cell: what is nested on lines of its own."""
    if isinstance(value, dict) and value:
        return element("div", *(element("div", f"{name}: {_shown(each)}") for name, each in value.items()))
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return element("div", *(element("div", _value(each)) for each in value))
    return _shown(value)


def _shown(value: Any) -> str:  # noqa: ANN401 - JSON
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items()) or "-"
    return "-" if value in (None, "") else str(value)


def _words(name: str) -> str:
    """Return a member's name as words: KeyState is Key state, UsesInLast90Days is Uses in last 90 days."""
    words = re.sub(r"(?<=[a-z])[0-9]|[A-Z]", lambda first: f" {first[0].lower()}", name).strip()
    return words[:1].upper() + words[1:]
