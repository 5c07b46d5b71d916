"""What answers look like: json, text and table, parts of them, and which of them is the default."""

import json
import re
import subprocess

import pytest
from cli_site import SECONDS, Site, at_terminal


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


@pytest.mark.parametrize("columns", ["60", "80"])
def test_narrow_tables_keep_ids(shared: Site, key: str, columns: str) -> None:
    """In a narrow terminal a long id is folded and not cut: put together again it is whole."""
    shown, _ = at_terminal(shared, "list-keys", columns=columns)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    together = " ".join("".join(cells) for cells in zip(*rows, strict=True)) if rows else shown
    assert f"key/{key}" in together
    assert key in together.replace(f"key/{key}", "")


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
