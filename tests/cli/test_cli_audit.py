"""The audit log at the command line: what each command prints, and how a forged log is reported."""

import json
import sqlite3
from contextlib import closing

from cli_site import Site, at_terminal
from swapping import TokenFolder

from hsmkms.config import settings as config


def test_tail_show_and_export(site: Site) -> None:
    """The newest records, a record by its id, and all of them as JSON lines that have one name or one key."""
    key = site.new_key()
    site.run("describe-key", "--key-id", "alias/nobody")
    names = site.run("audit", "tail", "-n", "2", "--query", "Records[].[eventName, errorCode]").json
    assert names == [["CreateKey", None], ["DescribeKey", "NotFoundException"]]
    (newest,) = site.run("audit", "tail", "-n", "1").json["Records"]
    assert site.run("audit", "show", newest["requestID"]).json["Records"] == [newest]
    assert "has no record with the id nonsense" in site.run("audit", "show", "nonsense").error
    exported = site.run("audit", "export", "--key-id", key, "--event-name", "CreateKey")
    assert [json.loads(line)["eventName"] for line in exported.stdout.splitlines()] == ["CreateKey"]
    assert newest["userAgent"].startswith("hsmkms (uid ")


def test_reading_needs_no_pin(site: Site) -> None:
    """An auditor reads the log without PIN and token."""
    site.new_key()
    (site.data / "pin").unlink()
    assert site.run("audit", "tail", "--query", "Records[].eventName").json == ["CreateKey"]
    too_many = site.run("audit", "tail", "-n", 10**20)
    assert (too_many.status, too_many.stdout) == (2, "")
    assert "Invalid value for '--lines' / '-n'" in too_many.stderr


def test_verify_and_accept(site: Site) -> None:
    """A complete log is summarised in numbers; a forged one by its first fault with status 1, also by doctor."""
    site.new_key()
    site.new_key()
    assert site.run("audit", "archive", "--to", "archive").json == {"Moved": []}
    assert site.run("audit", "verify").json == {
        "Records": 2,
        "Lanes": 1,
        "Seals": 2,
        "Unsealed": 0,
        "Archived": 0,
        "Faults": [],
        "Unproven": [],
        "Accepted": [],
    }
    (lane,) = (site.data / "audit").glob("lane-0001.*.jsonl")
    lane.write_bytes(lane.read_bytes().splitlines(keepends=True)[0])
    bent = site.run("audit", "verify", "--query", "Faults[].[Lane, Sequence, Kind]", "--output", "text")
    assert (bent.status, bent.stdout) == (1, "0001\t2\tmissing\n")
    doctor = site.run("doctor", "--query", "Checks[?Check=='audit log'].Detail | [0]")
    assert doctor.status == 1
    assert "ends at record 1, but 2 were sealed: run `hsmkms audit verify`" in doctor.stdout
    shown, status = at_terminal(site, "accept-store", answer="n")
    assert status == 1
    assert "missing: records 2 to 2 were sealed, and are not there any more" in shown
    assert [fault["Kind"] for fault in site.run("accept-store", "--yes").json["Accepted"]] == ["missing"]
    assert site.run("doctor").json["Checks"][-1]["Outcome"] == "ok"


def test_verify_without_the_token(site: Site) -> None:
    """Without the PIN or the token nothing is called verified, nor with a key that is not there: the status is 3."""
    site.new_key()
    (site.data / "pin").rename(site.data / "kept")
    without = site.run("audit", "verify")
    assert (without.status, without.stdout) == (3, "")
    assert without.stderr.startswith("hsmkms: PinError: ")
    (site.data / "kept").rename(site.data / "pin")
    folder = TokenFolder.of(config.load(site.config).token)
    folder.vanish()
    away = site.run("audit", "verify")
    assert (away.status, away.stdout) == (3, "")
    assert away.stderr.startswith("hsmkms: TokenNotFoundError: ")
    folder.put_back()
    seals = site.data / "audit" / "seals.jsonl"
    genuine = seals.read_bytes()
    seals.write_bytes(genuine.replace(b'"key_version":1', b'"key_version":7'))
    other = site.run("audit", "verify", "--query", "Unproven[].[Lane, Sequence, Kind]", "--output", "text")
    assert (other.status, other.stdout) == (1, "seals\t1\tnot proven\n")  # 1: the token remembers another seal
    with closing(sqlite3.connect(site.data / "meta.db")) as connection, connection:
        for name in ("hsmkms_seals", "hsmkms_seal_sets"):
            connection.create_function(name, 0, lambda: None)
        connection.execute("DELETE FROM installation_key WHERE purpose = 'audit-seal'")
    for text in (genuine, b""):
        seals.write_bytes(text)
        unproven = site.run("audit", "verify", "--query", "[Faults, Unproven[0].Kind]")
        assert (unproven.status, json.loads(unproven.stdout)) == (3, [[], "not proven"])


def test_verify_store(site: Site) -> None:
    """Edited rows are named by verify-store and doctor, with status 1, until the operator accepts them."""
    key = site.new_key()
    assert site.run("verify-store").json == {"Faults": []}
    with closing(sqlite3.connect(site.data / "meta.db")) as connection, connection:
        connection.execute("UPDATE regional_key SET description = 'edited'")
    result = site.run("verify-store", "--query", "Faults[].Subject", "--output", "text")
    assert (result.status, result.stdout, result.stderr.count("\n")) == (1, f"key/{key}\n", 1)
    refused = site.run("describe-key", "--key-id", key)
    assert (refused.status, refused.stdout) == (1, "")
    alarm, sentence = refused.stderr.splitlines()
    assert f"log: the control-plane database was changed by something other than hsmkms: key/{key}: " in alarm
    assert sentence.startswith("hsmkms: KMSInternalException: A record that this request needs is not as hsmkms wrote")
    doctor = site.run("doctor", "--query", "Checks[?Check=='rows'].Detail | [0]")
    assert (doctor.status, f"key/{key}: its rows are not those that were sealed" in doctor.stdout) == (1, True)
    asked = site.run("accept-store")
    assert (asked.status, "accept-store asks at a terminal" in asked.stderr) == (1, True)
    accepted = site.run("accept-store", "--yes", "--query", "AcceptedRows[].Subject", "--output", "text")
    assert (accepted.status, accepted.stdout) == (0, f"key/{key}\n")
    assert site.run("describe-key", "--key-id", key, "--query", "KeyMetadata.Description").json == "edited"
    assert site.run("verify-store").json == {"Faults": []}


def test_seal_file_that_cannot_be_used(site: Site) -> None:
    """A command whose seal fails gives its answer and says so; what needs the seals ends in one line, doctor too."""
    site.new_key()
    seals = site.folder / "seals"
    seals.mkdir()
    site.config.write_text(site.config.read_text().replace("# seal_file = ", f'seal_file = "{seals}"\n# '))
    message = f"audit.seal_file {seals} cannot be read (Is a directory): let it name a file"
    made = site.run("create-key", "--query", "KeyMetadata.KeyState", "--output", "text")
    assert (made.status, made.stdout) == (0, "Enabled\n")
    assert message in made.stderr
    assert site.run("audit", "verify").error.startswith(f"StoreError: {message}")
    backup = site.run("backup", site.folder / "backup")
    assert backup.status == 1
    assert f"StoreError: {message}" in backup.stderr
    assert not (site.folder / "backup").exists()
    doctor = site.run("doctor", "--query", "Checks[?contains(Detail, 'StoreError')].[Outcome, Detail][]")
    assert doctor.status == 1
    outcome, detail = json.loads(doctor.stdout)
    assert outcome == "wrong"
    assert detail.startswith(f"StoreError: {message}")


def test_seals_that_cannot_be_read(site: Site) -> None:
    """The same where the seals are no file."""
    site.new_key()
    seals = site.data / "audit" / "seals.jsonl"
    seals.unlink()
    seals.mkdir(mode=0o700)
    made = site.run("create-key", "--query", "KeyMetadata.KeyState", "--output", "text")
    assert (made.status, made.stdout) == (0, "Enabled\n")
    assert f"{seals} cannot be read (Is a directory)" in made.stderr
    assert f"StoreError: the audit log {seals} cannot be read" in site.run("audit", "verify").error


def test_progress_of_verify_ends_at_the_total(site: Site) -> None:
    """At a terminal a bar on standard error shows how much of a log of several MiB is verified, up to all of it."""
    site.new_key()
    (lane,) = (site.data / "audit").glob("lane-0001.*.jsonl")
    with lane.open("ab") as file:  # lines that are no records count as well
        file.writelines(b"x" * 700_000 + b"\n" for _ in range(5))
    total = f"{lane.stat().st_size / 1e6:.1f}"
    shown, status = at_terminal(site, "audit", "verify", TERM="xterm")
    assert "verifying" in shown
    assert f"{total}/{total} MB" in shown
    assert status == 1
