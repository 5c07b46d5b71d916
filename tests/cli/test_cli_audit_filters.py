"""Filters of `audit export`, `tail` and `show`: a filter that matches nothing is refused or explained."""

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from cli_site import REGION, Site, at_terminal

from hsmkms.cli.moments import expiry, moment
from hsmkms.errors import ValidationException

NOW = datetime(2026, 11, 30, 13, 30, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def key(shared: Site) -> str:
    """A key with an alias that a user and root have used, once in vain; its id."""
    key = shared.new_key()
    shared.run("create-alias", "--alias-name", "photos", "--target-key-id", key)
    shared.run("encrypt", "--key-id", "photos", "--plaintext", "aGFsbG8=")
    shared.run("create-user", "--user-name", "alice")
    shared.run("--as", "alice", "encrypt", "--key-id", key, "--plaintext", "aGFsbG8=")
    shared.new_key()
    return key


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("2026-01", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
        ("2026-01-02T03:04:05+02:00", datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("today", datetime(2026, 11, 30, tzinfo=UTC)),
        ("yesterday", datetime(2026, 11, 29, tzinfo=UTC)),
        ("now", NOW),
        ("7d", NOW - timedelta(days=7)),
        ("2w ago", NOW - timedelta(days=14)),
        ("12h", NOW - timedelta(hours=12)),
        ("30m", NOW - timedelta(minutes=30)),
        ("1y", NOW - timedelta(days=365)),
    ],
)
def test_moments(text: str, instant: datetime) -> None:
    """Dates, times and how long ago; a time without a zone is in UTC."""
    assert moment("--start-time", text, NOW) == instant


@pytest.mark.parametrize(
    "text", ["last week", "2026-13-01", "2026-13", "0000", "7", "7 y", "7 from now", "", "999999w", "2026-02-30", "d7"]
)
def test_no_moments(text: str) -> None:
    """Anything else is refused with the forms that are taken."""
    with pytest.raises(ValidationException) as caught:
        moment("--start-time", text, NOW)
    assert str(caught.value).startswith(f"--start-time: {text!r} is no date or time: write 2026-01-02, ")


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("20d", NOW + timedelta(days=20)),
        ("1y from now", NOW + timedelta(days=365)),
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
        ("1800000000", datetime(2027, 1, 15, 8, tzinfo=UTC)),
    ],
)
def test_expiries(text: str, instant: datetime) -> None:
    """How long from now, and dates and times in UTC, name the end of something."""
    assert expiry("--valid-to", text, NOW) == instant


@pytest.mark.parametrize("text", ["soon", "", "20d ago", "999999y", "2027-13-01"])
def test_no_expiries(text: str) -> None:
    """Anything else is refused with the forms that are taken."""
    with pytest.raises(ValidationException, match=f"^--valid-to: '{text}' is no date or time: write 2027-01-31, "):
        expiry("--valid-to", text, NOW)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--start-time", "last week"), "ValidationException: --start-time: 'last week' is no date or time"),
        (("--end-time", "2026-13-01"), "ValidationException: --end-time: '2026-13-01' is no date or time"),
        (("--start-time", "1d", "--end-time", "2d"), "is not before --end-time"),
        (("--start-time", "2999-01-01"), "is in the future"),
        (
            ("--event-name", "encrypt"),
            "'encrypt' is no operation of the API, and no event in this log. Did",
        ),
        (("--outcome", "AccessDenied"), "Did you mean AccessDeniedException?"),
        (("--outcome", "bad"), "'bad' is no outcome: write success, error, or an error code."),
        (
            ("--key-id", "1234"),
            "NotFoundException: Alias arn:aws:kms:eu-central-1:111122223333:alias/1234 is not",
        ),
        (("--key-id", "arn:aws:kms"), "InvalidArnException: "),
    ],
)
def test_filters_that_cannot_match(shared: Site, key: str, options: tuple[str, ...], words: str) -> None:
    """A filter that nothing can match is refused with what would be right, and nothing is printed."""
    del key
    assert words in shared.run("audit", "export", *options).error
    assert words in shared.run("audit", "tail", *options).error
    assert words in shared.run("audit", "show", "some-id", *options).error


def names(site: Site, *options: str) -> list[str]:
    """The names of the exported events."""
    done = site.run("audit", "export", *options)
    assert done.status == 0
    return [json.loads(line)["eventName"] for line in done.stdout.splitlines()]


def test_filters(shared: Site, key: str) -> None:
    """Records by key in each form of its name, by principal, outcome and time."""
    arn = f"arn:aws:kms:{REGION}:111122223333:key/{key}"
    about_key = ["CreateKey", "CreateAlias", "Encrypt", "Encrypt"]
    assert names(shared, "--key-id", key) == names(shared, "--key-id", arn) == about_key
    for alias in ("photos", "alias/photos", f"arn:aws:kms:{REGION}:111122223333:alias/photos"):
        done = shared.run("audit", "export", "--key-id", alias, "--query", "eventName")
        assert [json.loads(line) for line in done.stdout.splitlines()] == about_key
        assert done.stderr == (
            f"hsmkms: note: alias/photos is the key {key} now: these are the records about that key\n"
        )
    user = "arn:aws:iam::111122223333:user/alice"
    assert names(shared, "--principal", "alice") == names(shared, "--principal", user) == ["Encrypt"]
    assert names(shared, "--outcome", "error") == names(shared, "--outcome", "AccessDeniedException") == ["Encrypt"]
    assert "Encrypt" in names(shared, "--outcome", "success", "--start-time", "1d", "--key-id", key)


def test_empty_answers(shared: Site, key: str) -> None:
    """An answer without records has status 0, and standard error says how many records were looked at."""
    del key
    everything = len(names(shared))
    for options in (("--end-time", "2020-01-01"), ("--event-name", "Sign"), ("--outcome", "DisabledException")):
        done = shared.run("audit", "export", *options)
        assert (done.status, done.stdout) == (0, "")
        note = f"hsmkms: note: none of the {everything} records of the audit log matches\n"
        assert done.stderr == note
        tail, show = shared.run("audit", "tail", *options), shared.run("audit", "show", "some-id", *options)
        assert (tail.status, json.loads(tail.stdout), tail.stderr) == (0, {"Records": []}, note)
        assert (show.status, json.loads(show.stdout), show.stderr) == (0, {"Records": []}, note)
    unknown = shared.run("audit", "show", "some-id").error
    assert unknown == (
        f"NotFoundException: The audit log has no record with the id some-id ({everything} records were looked at)."
    )
    assert " matches (their principals: alice, root)\n" in shared.run("audit", "export", "--principal", "bob").stderr


def test_filters_of_tail_and_show(shared: Site, key: str) -> None:
    """The newest records that match, and those of a request that match."""
    asked = ("--query", "Records[].[eventName, errorCode]")
    newest = shared.run("audit", "tail", "-n", "1", "--key-id", key, *asked).json
    assert newest == [["Encrypt", "AccessDeniedException"]]
    newest = shared.run("audit", "tail", "-n", "2", "--key-id", key, "--principal", "root", *asked).json
    assert newest == [["CreateAlias", None], ["Encrypt", None]]
    (record,) = shared.run("audit", "tail", "--outcome", "error").json["Records"]
    shown = ("audit", "show", record["requestID"])
    assert shared.run(*shown, "--principal", "alice", "--start-time", "1d").json == {"Records": [record]}
    assert shared.run(*shown, "--event-name", "Encrypt", "--key-id", key).json == {"Records": [record]}


def test_tail_at_a_terminal(shared: Site, key: str) -> None:
    """At a terminal a record is one line, which is never broken: time, operation, user, outcome and keys."""
    shown, status = at_terminal(shared, "audit", "tail", "--event-name", "Encrypt", columns="40")
    head, *lines = shown.splitlines()
    assert (status, head.split()) == (0, ["Time", "Operation", "User", "Outcome", "Keys"])
    assert [line.split()[3:] for line in lines] == [
        ["Encrypt", "root", "ok", key],
        ["Encrypt", "alice", "AccessDeniedException", key],
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC  ", line) for line in lines)
    whole, _ = at_terminal(shared, "audit", "tail", "-n", "1", "--output", "json")
    assert json.loads(whole)["Records"][0]["eventVersion"]


def test_empty_log(site: Site) -> None:
    """A log without records says so, also to `audit tail`."""
    assert site.run("audit", "tail").stderr == "hsmkms: note: the audit log has no records\n"
    assert site.run("audit", "export").stderr == "hsmkms: note: none of the 0 records of the audit log matches\n"


def test_summary_and_csv(shared: Site, key: str) -> None:
    """Counts by key, principal and operation; CSV has one line of names, and no text that a spreadsheet would run."""
    done = shared.run("audit", "export", "--key-id", key, "--summary", "principal", "--query", "[Principal, Records]")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [["root", 3], ["alice", 1]]
    counts = shared.run("audit", "export", "--summary", "operation", "--format", "csv").stdout
    rows = {each["Operation"]: each for each in csv.DictReader(io.StringIO(counts))}
    assert (rows["Encrypt"]["Records"], rows["Encrypt"]["Errors"]) == ("2", "1")
    by_key = shared.run("audit", "export", "--summary", "key", "--query", "Key").stdout.split()
    assert f'"arn:aws:kms:{REGION}:111122223333:key/{key}"' in by_key
    records = shared.run("audit", "export", "--outcome", "error", "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(records))
    assert (row["eventName"], row["principal"], row["errorCode"]) == ("Encrypt", "alice", "AccessDeniedException")
    shared.run("create-key", "--description", "=1+1")
    asked = ("--query", "requestParameters.description", "--format", "csv")
    assert "'=1+1\n" in shared.run("audit", "export", "--event-name", "CreateKey", *asked).stdout
    shown, status = at_terminal(shared, "audit", "export", "--summary", "operation", columns="80")
    assert status == 0
    assert "Operation" in shown
    assert "Encrypt" in shown
