"""usage and unused-keys: a picture at a terminal, CSV and JSON, and ids for schedule-key-deletion."""

import csv
import io
import re
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pages
import pytest
import warm
from cli_site import Site, at_terminal

from hsmkms.cli.commands import usage_picture
from hsmkms.cli.tables import console
from hsmkms.service.audit.uses import Count

PLAINTEXT = ("--plaintext", "aGFsbG8=")


@pytest.fixture(scope="module")
def key(shared: Site) -> str:
    """A key with an alias that root has used twice, and alice once in vain; its id."""
    key = shared.new_key("--description", "holiday photos")
    shared.run("create-alias", "--alias-name", "photos", "--target-key-id", key)
    shared.run("create-user", "--user-name", "alice")
    for user in ((), (), ("--as", "alice")):
        shared.run(*user, "encrypt", "--key-id", key, *PLAINTEXT)
    return key


def test_picture(shared: Site, key: str) -> None:
    """A bar for today, a chart for each user, the days before the log, and the counters."""
    shown, status = at_terminal(shared, "usage", "--key-id", key, "--by", "principal", "--days", "3", columns="100")
    assert status == 0
    assert "2 days      before the audit log begins" in shown
    assert re.search(r"\d{4}-\d\d-\d\d +█{40} +3 +1 failed\n", shown)
    assert re.search(r"root +··█ +2\n", shown)
    assert re.search(r"alice +··█ +1\n", shown)
    assert "Counters: at most 2 encryptions so far; last use Encrypt at 20" in shown
    by_key, _ = at_terminal(shared, "usage", "--by", "key", "--days", "1", columns="100")
    assert re.search(r"alias/photos +█ +3\n", by_key)


def test_months() -> None:
    """Up to 92 days have a bar each; more have a bar for each month, with the sum of its days."""
    days = [f"{datetime(2026, 1, 30, tzinfo=UTC) + timedelta(days=number):%F}" for number in range(93)]
    counts = {"2026-01-31": Count(2, 1), "2026-02-01": Count(3), "2026-02-28": Count(4, 2), "2026-05-02": Count(1)}

    def drawn(days: list[str]) -> list[list[str]]:
        screen = console()
        with screen.capture() as captured:
            screen.print(usage_picture._bars(counts, days, lambda _: True))
        return [line.split() for line in captured.get().splitlines()]

    assert [[line[0], *line[2:]] for line in drawn(days)] == [
        ["2026-01", "2", "1", "failed"],
        ["2026-02", "7", "2", "failed"],
        ["2026-03"],
        ["2026-04"],
        ["2026-05", "1"],
    ]
    by_day = drawn(days[:92])
    assert (len(by_day), by_day[1][0], by_day[1][2:]) == (92, "2026-01-31", ["2", "1", "failed"])


def test_json_and_csv(shared: Site, key: str) -> None:
    """The same figures for programs; CSV has a line for each day that the log has, or for each day and subject."""
    answer = shared.run("usage", "--key-id", "photos", "--by", "operation", "--days", "2", "--query", "@")
    assert answer.stderr.startswith("hsmkms: note: alias/photos is the key ")
    answer = shared.run("usage", "--key-id", key, "--by", "operation", "--days", "2").json
    figures = {"Requests": 3, "Errors": 1}
    assert [day["InLog"] for day in answer["Days"]] == [False, True]
    assert answer["Days"][1] == {"Date": f"{datetime.now(UTC):%F}", "InLog": True} | figures
    (subject,) = answer["Subjects"]
    assert {name: subject[name] for name in ("Operation", *figures)} == {"Operation": "Encrypt"} | figures
    assert (answer["Counters"]["Encryptions"], answer["Counters"]["LastOperation"]) == (2, "Encrypt")
    days = shared.run("usage", "--days", "5", "--format", "csv").stdout.splitlines()
    assert [row.split(",")[1:] for row in days] == [["Requests", "Errors"], ["3", "1"]]
    users = shared.run("usage", "--by", "principal", "--format", "csv").stdout
    rows = {row["Principal"]: (row["Requests"], row["Errors"]) for row in csv.DictReader(io.StringIO(users))}
    assert rows == {"root": ("2", "0"), "alice": ("1", "1")}


def test_keys_without_a_use(shared: Site, key: str) -> None:
    """A key without a use gives zeros and a note, an unknown one is an error; neither needs the PIN."""
    unused = shared.new_key()
    pin = shared.data / "pin"
    pin.rename(shared.data / "kept")
    done = shared.run("usage", "--key-id", unused, "--days", "1", "--query", "Days[].Requests", "--format", "json")
    assert (done.status, done.stdout) == (0, "[\n    0\n]\n")
    assert re.fullmatch(
        r"hsmkms: note: none of the \d+ records of the audit log is a use since [0-9-]{10}\n", done.stderr
    )
    other = shared.run("usage", "--key-id", key.replace(key[:8], "00000000"))
    assert other.error.startswith("NotFoundException: There is no key 00000000-")
    (shared.data / "kept").rename(pin)


def test_unused_keys(site: Site) -> None:
    """Unused keys with description and last use; their ids go to schedule-key-deletion, which shows the last use."""
    used, never = site.new_key("--description", "used"), site.new_key("--description", "never")
    site.run("encrypt", "--key-id", used, *PLAINTEXT)
    answer = site.run("unused-keys", "--since", "90d", "--query", "[Unused, Unknown]")
    assert (answer.stdout.split(), answer.status) == (["[", "[],", "[]", "]"], 0)
    assert "note: none of the 2 keys that could be deleted is known to be unused since 90d" in answer.stderr
    assert "is in the future" in site.run("unused-keys", "--since", "2999-01-01").error
    assert "is no date or time" in site.run("unused-keys", "--since", "long ago").error
    asked = ("unused-keys", "--since", "90d")
    later = ("faketime", "-f", "+100d", "hsmkms", *asked)
    warm.prepare_faketime()
    done = subprocess.run(
        [*later, "--query", "Unused[].[Description, Use]", "--output", "text"],
        env=site.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    known = dict(line.split("\t") for line in done.stdout.splitlines())
    assert (known["never"], known["used"].startswith("Encrypt at 20")) == ("never used", True)
    ids = subprocess.run([*later, "--ids"], env=site.environment(), capture_output=True, text=True, check=True).stdout
    assert set(ids.split()) == {used, never}
    assert re.search(r"note: no key at all was used since 90d: .* Is the clock of this machine right\?", done.stderr)
    # Without the audit log, and with records in log.db that begin 50 days later, it is not known.
    site.config.write_text(site.config.read_text().replace("# durability = ", 'durability = "off" #'))
    begin = datetime.now(UTC) + timedelta(days=50)
    with closing(sqlite3.connect(site.data / "log.db")) as connection, connection:
        connection.execute("UPDATE use_tracking SET since = ?", (int(begin.timestamp() * 1_000_000),))
        connection.execute("DELETE FROM last_use")
    unknown = subprocess.run([*later, "--ids"], env=site.environment(), capture_output=True, text=True, check=True)
    assert unknown.stdout == ""
    assert "2 more without a recorded use are left out: what is recorded of their use begins at 20" in unknown.stderr


def test_deletion_shows_the_last_use(site: Site) -> None:
    """As the last step of a pipe nobody is asked, but at a terminal the last use is shown."""
    key = site.new_key("--description", "old photos")
    line = "hsmkms unused-keys --since now --ids | xargs -r -n1 hsmkms schedule-key-deletion --key-id"
    (done,) = pages.run(site, [pages.Step(command=line, output=[], status=0)], {}, {})
    assert done.status == 0
    assert done.lines[1:3] == ["Description: old photos", "Last use:    never used"]
    assert site.run("describe-key", "--key-id", key).json["KeyMetadata"]["KeyState"] == "PendingDeletion"
