"""report, verify-report, report-public-key: what is written, that nothing in it runs, that changes are noticed."""

import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli_site import OTHER_REGION, REGION, Site
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from hsmkms.cli.reports import csv_form
from hsmkms.cli.reports.document import USES
from hsmkms.cli.reports.elements import element, text_of
from hsmkms.cli.reports.forms import read_statement
from hsmkms.cli.tables import printable
from hsmkms.errors import StoreError
from hsmkms.service.keys.report_keys import read_public_key, verifies
from hsmkms.service.operator.report_facts import USE_DAYS

FORMS = ("html", "csv", "json")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></table></style><style>*{display:none}</style>",
    "<!-- --><meta name=hsmkms-report content='{}'>",
    '=HYPERLINK("http://x","y")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1+1",
    "\r\n=1+1",
    "a\nReport,,,Installation,forged",
    '"\r\n"Report","","","SignedBy","forged"',
    "\uff1d1+1",
    "right\u202eto left\u2066\u200b",
    "\x1b[31mred\x07",
    "]]>&amp;&lt;${7*7}{{7*7}}",
    "line\u2028separator",
)
"""Descriptions that would do something, if a form let them."""
RUNS = ("script", "iframe", "object", "embed", "link", "base", "img", "form", "a", "image", "use", "foreignobject")


class Made(Struct, frozen=True):
    """An installation with hostile texts everywhere, and its reports."""

    site: Site
    folder: Path
    descriptions: dict[str, str]

    def file(self, form: str) -> Path:
        """The report in a form."""
        return self.folder / f"report.{form}"


@pytest.fixture(scope="module")
def made(shared: Site) -> Made:
    """Make it all, once."""
    folder = shared.folder / "reports"
    folder.mkdir()
    descriptions = json.loads(shared.program("hostile_texts", json.dumps(HOSTILE)))
    for form in FORMS:
        answer = shared.run("report", "--format", form, "--output", folder / f"report.{form}").json["Report"]
        assert answer["Keys"] == len(HOSTILE)
    key = shared.run("report-public-key")
    (folder / "key.pem").write_text(key.stdout)
    return Made(shared, folder, descriptions)


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.metas: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "meta":
            self.metas.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(made: Made) -> Page:
    """The HTML form."""
    return Page(made.file("html").read_text())


# -- what is written --------------------------------------------------------------------------------------------------


def test_files(made: Made) -> None:
    """Report and signature are the owner's alone, and never replace a file."""
    for form in FORMS:
        file = made.file(form)
        assert {each.stat().st_mode & 0o777 for each in (file, file.with_name(f"{file.name}.sig"))} == {0o600}
    before = made.file("json").read_bytes()
    refused = made.site.run("report", "--format", "json", "--output", made.file("json"))
    assert "is there already: name another file for --output" in refused.error
    assert made.file("json").read_bytes() == before


def test_both_files_or_none(made: Made, tmp_path: Path) -> None:
    """Where one of the two cannot be written, neither is there, under its name or a temporary one."""
    longest = tmp_path / ("r" * 254)
    assert "File name too long" in made.site.run("report", "--output", longest).error
    assert not any(tmp_path.iterdir())


def test_html_has_nothing_that_runs(made: Made, page: Page) -> None:
    """No script, no handler, no reference: neither ours nor one from a description; the policy forbids the rest."""
    assert not set(page.tags) & set(RUNS)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("href", "src", "style")]
    (policy,) = (each["content"] for each in page.metas if each.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "http" not in made.file("html").read_text().replace("http://x", "").replace("http-equiv", "")


def test_html_shows_every_description(made: Made, page: Page) -> None:
    """Every text is there as text; what cannot be seen is escaped."""
    shown = "\n".join(page.texts)
    for text in made.descriptions.values():
        seen = "".join(
            each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
        )
        assert seen in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\u200b\u2028]", made.file("html").read_text())


def test_days_of_uses(made: Made, page: Page) -> None:
    """Each form says of how many days it counts uses."""
    assert f"UsesInLast{USE_DAYS}Days" == USES
    assert {USES} <= {name for each in json.loads(made.file("json").read_text())["Keys"] for name in each}
    assert f',"{USES}",' in made.file("csv").read_text()
    texts = page.texts
    assert f"Uses in last {USE_DAYS} days" in texts
    assert any(each.startswith(f"Successful cryptographic operations by day, in the last {USE_DAYS}") for each in texts)


def test_pictures(page: Page) -> None:
    """Three pictures, each with title and description; colours are greys."""
    assert page.tags.count("svg") == page.tags.count("desc") == 3
    given = dict(page.attributes)
    assert given["role"] == "img"
    named = [value for name, value in page.attributes if name == "aria-labelledby"]
    ids = {value for name, value in page.attributes if name == "id"}
    assert {part for value in named if value for part in value.split()} <= ids
    colours = {value for name, value in page.attributes if name in ("fill", "stroke") and value}
    assert all(len({each[1:3], each[3:5], each[5:7]}) == 1 for each in colours)


def test_print(made: Made) -> None:
    """On paper there are pages with numbers, and heads of tables on each."""
    text = made.file("html").read_text()
    assert "@page { size: A4" in text
    assert "counter(page)" in text
    assert "thead { display: table-header-group; }" in text


def test_csv_has_no_formulas(made: Made) -> None:
    """No cell begins as a formula does, every row has five cells, and every description is there."""
    data = made.file("csv").read_bytes().decode()
    rows = list(csv.reader(io.StringIO(data, newline="")))
    assert rows[0] == ["Section", "Region", "Item", "Name", "Value"]
    assert {len(row) for row in rows} == {5}
    assert [
        cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))
    ] == []
    descriptions = {row[2]: row[4] for row in rows if row[0] == "Keys" and row[3] == "Description"}
    assert descriptions.keys() == made.descriptions.keys()
    assert sum(row[0] == "Report" and row[3] == "Installation" for row in rows) == 1
    assert ["Users", "", "'=alice@here", "UserName", "'=alice@here"] in rows


def test_json_is_exact(made: Made) -> None:
    """The JSON form has the very texts, in ASCII, and what the others show."""
    data = made.file("json").read_bytes()
    assert data.isascii()
    content = json.loads(data)
    assert {each["KeyId"]: each["Description"] for each in content["Keys"]} == made.descriptions
    (key,) = (each for each in content["Keys"] if each["Aliases"])
    assert (key["Tags"], key["Aliases"]) == ({"+a=b": "=@x"}, ["alias/-1/2"])
    (material,) = key["Materials"]
    assert material["Attestation"]["Attributes"]["CKA_EXTRACTABLE"] is False
    assert key["Rights"][0]["Principal"].endswith(":root")
    assert content["Audit"]["Faults"] == []
    assert content["Findings"] == []
    assert content["Users"][0]["Tags"] == {"=team": "@SUM(1)"}
    assert "onerror" in content["Groups"][0]["Policies"]["@p"]
    assert [each["UserName"] for each in content["Users"]] == ["=alice@here"]


def test_no_secret(made: Made) -> None:
    """No form has the PIN."""
    pin = (made.site.data / "pin").read_bytes().strip()
    assert pin
    assert not any(pin in made.file(form).read_bytes() for form in FORMS)


@given(st.text(), st.text(min_size=1))
def test_any_text(text: str, other: str) -> None:
    """Whatever a text is: HTML shows it as text, within one element; a cell is one cell, and no formula."""
    page = Page(text_of(element("p", text, element("b", other, title=text), other)).decode())
    assert page.tags == ["p", "b"]
    assert page.attributes == [("title", printable(text))]
    shown = "".join(page.texts).replace("\n", "")
    assert shown == f"{printable(text)}{printable(other) * 2}".replace("\n", "")
    data = csv_form.render({"Report": {"Installation": "ours"}, "Keys": [{"KeyId": other, "Description": text}]})
    rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
    assert [row[0] for row in rows] == ["Section", "Report", "Keys", "Keys"]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for row in rows for cell in row)
    assert rows[-1][4].removeprefix("'") == printable(text).removeprefix("'")


@given(
    st.one_of(st.binary(), st.sampled_from(["<", "{", "Section,"]).flatmap(lambda head: st.text().map(head.__add__)))
)
def test_no_report(data: bytes | str) -> None:
    """A file that somebody else has signed is parsed without a surprise: it is no report."""
    with pytest.raises(StoreError, match="is no report of hsmkms"):
        read_statement(data if isinstance(data, bytes) else data.encode())


# -- verification -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_verified(made: Made, form: str) -> None:
    """A report is proven by the key on the token: by which installation, and when."""
    answer = made.site.run("verify-report", made.file(form)).json["Report"]
    statement = json.loads(made.file("json").read_text())["Report"]
    assert (answer["ProvenBy"], answer["Installation"]) == ("a key on the token", statement["Installation"])
    assert answer["SignedBy"] == statement["SignedBy"]
    assert answer["MadeAt"].endswith("+00:00")


def test_elsewhere(made: Made, new_folder: Callable[[], Path]) -> None:
    """With the public key alone hsmkms and OpenSSL verify it, where there is no installation."""
    folder = new_folder()
    shutil.copytree(made.folder, folder)
    elsewhere = Site(folder=folder)
    fingerprint = json.loads(made.file("json").read_text())["Report"]["SignedBy"]
    for form in FORMS:
        answer = elsewhere.run("verify-report", f"report.{form}", "--public-key", "key.pem").json["Report"]
        assert (answer["ProvenBy"], answer["SignedBy"]) == ("the given public key", fingerprint)
        file = folder / f"report.{form}"
        command = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", f"{file}.sig", file]
        assert subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout == b"Verified OK\n"
    with (folder / "report.html").open("ab") as file:
        file.write(b" ")
    error = elsewhere.run("verify-report", "report.html", "--public-key", "key.pem").error
    assert error.startswith(f"KMSInvalidSignatureException: The report is not signed by the key {fingerprint}")


def regions(data: bytes) -> Iterator[bytes]:
    """The data with one byte changed, in each of twenty regions, cut at the end, and longer."""
    step = max(len(data) // 20, 1)
    for at in range(0, len(data), step):
        yield data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    yield data[:-1]
    yield data + b"\n"
    yield b""


@pytest.mark.parametrize("form", FORMS)
def test_every_change_is_noticed(made: Made, form: str) -> None:
    """A changed byte anywhere in report or signature, and the signature of another report, are refused."""
    key = read_public_key((made.folder / "key.pem").read_bytes())
    data = made.file(form).read_bytes()
    signatures = {each: made.folder.joinpath(f"report.{each}.sig").read_bytes() for each in FORMS}
    assert verifies(key, data, signatures[form])
    assert not any(verifies(key, changed, signatures[form]) for changed in regions(data))
    assert not any(verifies(key, data, changed) for changed in regions(signatures[form]))
    assert not any(verifies(key, data, signatures[each]) for each in FORMS if each != form)


def test_refusals(made: Made, tmp_path: Path) -> None:
    """Changed, unsigned and swapped reports are refused with what to do; so are files that are none."""
    changed = tmp_path / "report.csv"
    changed.write_bytes(made.file("csv").read_bytes().replace(b"SYMMETRIC_DEFAULT", b"SYMMETRIC_DEFAULt"))
    assert "the audit log has no report with this content" in made.site.run("verify-report", changed).error
    swapped = made.site.run("verify-report", made.file("csv"), "--signature", made.folder / "report.html.sig").json
    assert swapped["Report"]["ProvenBy"] == "the audit log"
    assert "no key for reports" in swapped["Report"]["Note"]
    assert "cannot be read" in made.site.run("verify-report", tmp_path / "none").error
    public = made.site.run("verify-report", changed, "--public-key", made.folder / "key.pem").error
    assert "report.csv.sig cannot be read" in public
    large = tmp_path / "large"
    large.write_bytes(bytes(5000))
    assert "too large" in made.site.run("verify-report", changed, "--signature", large).error
    assert (
        "is no public key that signs reports"
        in made.site.run("verify-report", made.file("csv"), "--public-key", made.file("csv")).error
    )


def test_signed_file_that_is_no_report(made: Made, tmp_path: Path) -> None:
    """What the key has signed, but is no report, is refused without a traceback."""
    texts = ("<html></html>", '{"Report": 1}', "Section,a", "[" * 2000)
    made.site.program("sign_texts", tmp_path, *texts)
    for text in texts:
        error = made.site.run("verify-report", tmp_path / str(len(text))).error
        assert error == "StoreError: the file is proven to be unchanged, but it is no report of hsmkms"


def test_regions_that_are_left_out(made: Made, tmp_path: Path) -> None:
    """A report of one region says which it leaves out, in each form, and so does its verification."""
    assert made.site.run("verify-report", made.file("html")).json["Report"]["LeftOut"] == ""
    for form in FORMS:
        file = tmp_path / f"part.{form}"
        made.site.run("report", "--region", OTHER_REGION, "--format", form, "--output", file)
        proof = made.site.run("verify-report", file).json["Report"]
        assert (proof["Regions"], proof["LeftOut"]) == (OTHER_REGION, REGION)
    assert f"Left out</th><td>{REGION}</td>" in (tmp_path / "part.html").read_text()


def test_unsigned(made: Made, tmp_path: Path) -> None:
    """It takes an option; the report says so, and the audit log proves it."""
    file = tmp_path / "unsigned.html"
    answer = made.site.run("report", "--unsigned", "--output", file).json["Report"]
    assert "SignedBy" not in answer
    assert "This report is not signed." in file.read_text()
    proof = made.site.run("verify-report", file).json["Report"]
    assert (proof["ProvenBy"], proof["SignedBy"]) == ("the audit log", "")
    parameters = "Records[?eventName=='CreateReport'] | [-1].requestParameters"
    assert made.site.run("audit", "tail", "--query", parameters).json == {"sha256": answer["Sha256"]}


def test_name_of_the_file(made: Made) -> None:
    """Without --output the file is in this folder; a format, a missing folder are refused before any work."""
    answer = made.site.run("report", "--format", "csv").json["Report"]
    assert re.fullmatch(r"hsmkms-report-\d{8}T\d{6}Z\.csv", answer["File"])
    assert made.site.folder.joinpath(answer["Signature"]).exists()
    assert "use --format json" in made.site.run("report", "--output", "json").error
    assert "there is no folder" in made.site.run("report", "--output", "none/report.html").error


def test_public_key(made: Made) -> None:
    """The newest key is printed, or one by its fingerprint, which OpenSSL computes as well."""
    printed = made.site.run("report-public-key")
    fingerprint = printed.stderr.split()[-1]
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"],
        input=printed.stdout.encode(),
        capture_output=True,
        check=True,
    ).stdout
    assert hashlib.sha256(der).hexdigest() == fingerprint
    assert made.site.run("report-public-key", "--fingerprint", fingerprint.upper()).stdout == printed.stdout
    assert (
        "No key for reports on the tokens has the fingerprint"
        in made.site.run("report-public-key", "--fingerprint", "00").error
    )
