"""rotation-report: its table, its json, and its status."""

import json
import subprocess

import pytest
from cli_site import BIN, Site, at_terminal


def test_json(site: Site) -> None:
    """Every key is there with all that is known of its rotation; the status is 0 unless it is asked to check."""
    on, off, empty = site.new_key(), site.new_key(), site.new_key("--origin", "EXTERNAL")
    site.run("enable-key-rotation", "--key-id", on)
    site.run("create-alias", "--alias-name", "photos", "--target-key-id", on)
    report = site.run("rotation-report").json
    rows = {key["KeyId"]: key for key in report["Keys"]}
    assert {key_id: rows[key_id]["Posture"] for key_id in (on, off, empty)} == {on: "ok", off: "off", empty: "waiting"}
    assert (rows[on]["Aliases"], rows[on]["RotationPeriodDays"], rows[on]["BackingKeys"]) == (["alias/photos"], 365, 1)
    assert rows[off]["Reason"] == "automatic rotation is off: enable-key-rotation switches it on"
    assert report["Problems"] == 1
    assert site.run("rotation-report", "--check").status == 1
    assert {key["KeyId"] for key in site.run("rotation-report", "--only-problems").json["Keys"]} == {empty}


def test_key_without_rotation(site: Site) -> None:
    """A key of more than a year without rotation is a problem, to --only-problems and to --check."""
    key, pair = site.new_key(), site.new_key("--key-spec", "ECC_NIST_P256", "--key-usage", "SIGN_VERIFY")
    assert site.run("rotation-report", "--check", "--only-problems").json == {"Keys": [], "Problems": 0}
    environment = site.environment()
    later = ("faketime", "-f", "+400d", BIN / "hsmkms", "rotation-report", "--check", "--only-problems")
    done = subprocess.run(later, env=environment, capture_output=True, text=True, check=False)
    (row,) = json.loads(done.stdout)["Keys"]
    assert (done.returncode, row["KeyId"], row["Posture"]) == (1, key, "aged")
    assert row["Reason"].startswith("its key material is 400 days old, more than 365, and does not rotate by itself: ")
    assert pair != key


@pytest.mark.parametrize("columns", ["60", "80", "100", "120"])
def test_narrow_table(site: Site, columns: str) -> None:
    """The id of the key and the name of the command that helps are in one piece, however narrow the terminal."""
    key = site.new_key()
    shown, _ = at_terminal(site, "rotation-report", columns=columns)
    assert f" {key} " in shown
    assert " enable-key-rotation " in shown
    assert max(map(len, shown.splitlines())) <= int(columns)


def test_table(site: Site) -> None:
    """At a terminal of 100 columns each key has one readable row."""
    site.run("create-alias", "--alias-name", "photos", "--target-key-id", site.new_key())
    shown, status = at_terminal(site, "rotation-report", columns="100")
    assert status == 0
    assert "│ alias/photos " in shown
    assert "Posture" in shown
    assert "1 backing key, " in shown
