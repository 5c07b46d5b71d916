"""What answers look like: json, text and table, parts of them, and which of them is the default."""

import json
import re
import subprocess

import pytest
from cli_site import SECONDS, Site, at_terminal

from hsmkms.cli import tables


@pytest.fixture(scope="module")
def key(shared: Site) -> str:
    """A key of the shared installation with an alias, tags and a description that is no markup."""
    made = shared.new_key("--description", "[bold]x[/bold] ü", "--tags", "TagKey=a,TagValue=1", "TagKey=b,TagValue=2")
    assert shared.run("create-alias", "--alias-name", "photos", "--target-key-id", made).status == 0
    return made


def test_json_is_the_wire_form(shared: Site, key: str) -> None:
    """Json shows exactly the members that the API would answer with, in its order, with timestamps as numbers."""
    shown = shared.run("describe-key", "--key-id", key, "--output", "json")
    wire = json.loads(shared.program("wire_key", key))
    assert shown.stdout == json.dumps(wire, indent=4, ensure_ascii=False) + "\n"
    assert isinstance(shown.json["KeyMetadata"]["CreationDate"], int | float)
    assert shown.json["KeyMetadata"]["Description"] == "[bold]x[/bold] ü"


def test_default_is_json_for_programs(shared: Site, key: str) -> None:
    """Without a terminal the answer is json."""
    assert shared.run("describe-key", "--key-id", key).json["KeyMetadata"]["KeyId"] == key


def test_default_is_a_table_at_a_terminal(shared: Site, key: str) -> None:
    """At a terminal the answer is a table, with whole ids and dates, and text that looks like markup as it is."""
    shown, status = at_terminal(shared, "describe-key", "--key-id", key)
    assert status == 0
    assert re.search(rf"KeyId +│ {key} +│", shown)
    assert re.search(r"CreationDate +│ \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown)
    assert "[bold]x[/bold] ü" in shown
    assert "…" not in shown


def test_json_at_a_terminal(shared: Site, key: str) -> None:
    """What was asked for is shown at a terminal too."""
    shown, status = at_terminal(shared, "describe-key", "--key-id", key, "--output", "json")
    assert (status, json.loads(shown)["KeyMetadata"]["KeyId"]) == (0, key)


def test_keys_at_a_terminal(site: Site) -> None:
    """Each key is one row: its whole id, alias, state, origin, spec, age, and the next date with its kind."""
    rotating, empty, leaving = site.new_key(), site.new_key("--origin", "EXTERNAL"), site.new_key("--multi-region")
    site.run("create-alias", "--alias-name", "photos", "--target-key-id", rotating)
    site.run("enable-key-rotation", "--key-id", rotating)
    site.run("schedule-key-deletion", "--key-id", leaving)
    for columns in ("80", "140"):
        shown, status = at_terminal(site, "list-keys", columns=columns)
        rows = {row[0]: " ".join(" ".join(row[1:]).split()) for row in table_rows(shown, stacked=columns == "80")}
        assert (status, set(rows)) == (0, {rotating, empty, leaving})
        date, kind = r"\d{4}-\d\d-\d\d", "AWS_KMS SYMMETRIC_DEFAULT 0 days"
        assert re.fullmatch(f"alias/photos Enabled {kind} rotation {date}", rows[rotating])
        assert rows[empty] == "- PendingImport EXTERNAL SYMMETRIC_DEFAULT 0 days -"
        assert re.fullmatch(f"- PendingDeletion {kind} deletion {date}", rows[leaving])
    site.run("update-key-description", "--key-id", empty, "--description", "red\x1b[31m")
    assert r"red\x1b[31m" in at_terminal(site, "describe-key", "--key-id", empty)[0]  # no terminal obeys it


def table_rows(shown: str, *, stacked: bool) -> list[list[str]]:
    """The rows of a table without its head; lines of a row are joined, and the first column's first line is its own."""
    rows: list[list[str]] = [[]]
    for line in shown.splitlines():
        if line.startswith("├"):
            rows.append([])
        elif line.startswith("│"):
            rows[-1] += [cell.strip() for cell in line.strip("│").split("│")]
            rows += [] if stacked else [[]]
    if stacked:
        parts = [[row[start::3] for start in range(3)] for row in rows if row]
        return [[column[0][0], *column[0][1:], *column[1], *column[2]] for column in parts]
    return [row for row in rows if row]


def test_many_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """Of more rows than boxes can be drawn for in time, each is one plain line, aligned and whole."""
    rows = [{"KeyId": f"{number:036}", "Alias": "a" * (number % 9)} for number in range(tables.MOST_BOXED + 1)]
    tables.print_table({"Keys": tables.WideRows(rows, [["KeyId", "Alias"]])})
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["KeyId", "Alias"]
    assert lines == [f"{row['KeyId']}  {row['Alias']}".rstrip() for row in rows]


def test_keys_of_a_user_at_a_terminal(shared: Site, key: str) -> None:
    """A user's list has the members of the API alone; so has a page, and what is piped."""
    shared.run("create-user", "--user-name", "lister")
    policy = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"}}'
    shared.run("put-user-policy", "--user-name", "lister", "--policy-name", "list", "--policy-document", policy)
    shown, status = at_terminal(shared, "--as", "lister", "list-keys")
    assert (status, "KeyArn" in shown, "Alias" in shown, key in shown) == (0, True, False, True)
    shown, _ = at_terminal(shared, "list-keys", "--max-items", "1")
    assert "alias/photos" in shown


@pytest.mark.parametrize("columns", ["80", "100", "200"])
def test_tables_keep_ids(shared: Site, key: str, columns: str) -> None:
    """Whatever the width, an id is in one piece, also that of an ARN; only the id of key material is halved."""
    shown, _ = at_terminal(shared, "describe-key", "--key-id", key, columns=columns)
    cells = [line.split("│")[2].strip() for line in shown.splitlines() if line.startswith("│")]
    assert key in cells
    arn = f"arn:aws:kms:eu-central-1:111122223333:key/{key}"
    assert arn in cells or cells[cells.index(arn.removesuffix(key)) + 1] == key
    material = shared.run("describe-key", "--key-id", key).json["KeyMetadata"]["CurrentKeyMaterialId"]
    assert material in cells or cells[cells.index(material[:32]) + 1] == material[32:]
    shown, _ = at_terminal(shared, "list-keys", "--query", "Keys[].{Arn: KeyArn, Id: KeyId}", columns=columns)
    assert f"│ {key} " in shown


def test_dates_under_a_query(shared: Site, key: str) -> None:
    """At a terminal a queried date is a date, and still a number to the query; for programs it is a number."""
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    asked = ("describe-key", "--key-id", key, "--query")
    for query in ("KeyMetadata.CreationDate", "[KeyMetadata][?CreationDate > `1`].CreationDate | [0]"):
        assert re.fullmatch(date, at_terminal(shared, *asked, query)[0].strip())
    for query in ("max([KeyMetadata.CreationDate, `1`])", "sort_by([KeyMetadata], &CreationDate)[0].[CreationDate]"):
        assert re.fullmatch(date, at_terminal(shared, *asked, query)[0].strip())
    assert re.search(rf"When │ {date}", at_terminal(shared, *asked, "{When: KeyMetadata.CreationDate}")[0])
    assert isinstance(shared.run(*asked, "KeyMetadata.CreationDate").json, int | float)
    shown, _ = at_terminal(shared, *asked, "KeyMetadata.CreationDate", "--output", "json")
    assert isinstance(json.loads(shown), int | float)
    shown, _ = at_terminal(shared, "audit", "tail", "--query", "Records[-1].eventTime")
    assert re.fullmatch(date, shown.strip())


def test_text_as_the_aws_cli(shared: Site, key: str) -> None:
    """Text is tabs between scalars in the order of their names, structures by name in capitals."""
    arn = f"arn:aws:kms:eu-central-1:111122223333:key/{key}"
    assert shared.run("list-keys", "--output", "text").stdout == f"KEYS\t{arn}\t{key}\n"
    tags = shared.run("list-resource-tags", "--key-id", key, "--output", "text")
    assert tags.stdout == "TAGS\ta\t1\nTAGS\tb\t2\n"
    query = "KeyMetadata.[Enabled, Description, XksKeyConfiguration]"
    picked = shared.run("describe-key", "--key-id", key, "--output", "text", "--query", query)
    assert picked.stdout == "True\t[bold]x[/bold] ü\tNone\n"


def test_query_picks(shared: Site, key: str) -> None:
    """A query picks a part of an answer, in every form of output."""
    ask = ("describe-key", "--key-id", key, "--query", "KeyMetadata.{Id: KeyId, Ways: EncryptionAlgorithms}")
    assert shared.run(*ask).json == {"Id": key, "Ways": ["SYMMETRIC_DEFAULT"]}
    assert shared.run(*ask, "--output", "text").stdout == f"{key}\nWAYS\tSYMMETRIC_DEFAULT\n"
    assert re.search(rf"Id +│ {key} ", shared.run(*ask, "--output", "table").stdout)


def test_wrong_query_is_told_before_anything_is_done(site: Site) -> None:
    """A query that cannot be read is wrong usage, and no key is made."""
    refused = site.run("create-key", "--query", "KeyMetadata[")
    assert refused.status == 2
    assert "--query is not JMESPath" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert site.run("list-keys").json == {"Keys": []}


@pytest.mark.parametrize("output", ["json", "text", "table"])
def test_nothing_is_printed_without_an_answer(shared: Site, key: str, output: str) -> None:
    """An operation that answers nothing prints nothing."""
    done = shared.run(
        "update-key-description", "--key-id", key, "--description", "[bold]x[/bold] ü", "--output", output
    )
    assert (done.status, done.stdout, done.stderr) == (0, "", "")


def test_unknown_output_is_wrong_usage(shared: Site) -> None:
    """A form of output that does not exist is refused with status 2."""
    refused = shared.run("list-keys", "--output", "xml")
    assert (refused.status, refused.stdout) == (2, "")
    assert "xml" in refused.stderr


def test_closed_pipe(shared: Site) -> None:
    """A reader that has gone away ends the command without a complaint."""
    assert piped(shared, "hsmkms list-keys | true") == ""


def test_full_disk_of_the_answer(shared: Site) -> None:
    """An answer that cannot be written is said in one line, with status 1."""
    printed = piped(shared, "hsmkms list-keys > /dev/full; echo $? >&2")
    assert printed == "hsmkms: the answer cannot be written: No space left on device\n1\n"


def piped(site: Site, line: str) -> str:
    """What a line of the shell complains about."""
    done = subprocess.run(
        ["sh", "-c", line],
        capture_output=True,
        check=False,
        timeout=SECONDS,
        cwd=site.folder,
        env=site.environment(),
        text=True,
    )
    return done.stderr


def test_query_that_selects_nothing(shared: Site, key: str) -> None:
    """At a terminal a query that selects nothing says so, and what was meant; for programs it is null, or None."""
    asked = ("describe-key", "--key-id", key, "--query")
    shown, status = at_terminal(shared, *asked, "KeyId")
    assert status == 0
    assert "note: --query 'KeyId' selects nothing in this answer: did you mean 'KeyMetadata.KeyId'?" in shown
    shown, _ = at_terminal(shared, *asked, "Nonsense")
    assert "selects nothing in this answer, whose members are KeyMetadata" in shown
    shown, _ = at_terminal(shared, "list-keys", "--query", "KeyArn")
    assert "did you mean 'Keys[].KeyArn'?" in shown
    shown, _ = at_terminal(shared, *asked, "KeyMetadata.KeyId")
    assert "note" not in shown
    silent = shared.run(*asked, "KeyId", "--output", "text")
    assert (silent.stdout, silent.stderr) == ("None\n", "")


def test_table_of_one_structure_has_its_name(shared: Site, key: str) -> None:
    """The table of an answer that is one structure has the name with which a query begins."""
    shown, _ = at_terminal(shared, "describe-key", "--key-id", key)
    assert shown.lstrip().startswith("KeyMetadata")
