"""rotation-report: its table, its json, and its status."""

from cli_site import Site, at_terminal


def test_json(site: Site) -> None:
    """Every key is there with all that is known of its rotation; the status is 0 unless it is asked to check."""
    on, off, empty = site.new_key(), site.new_key(), site.new_key("--origin", "EXTERNAL")
    site.run("enable-key-rotation", "--key-id", on)
    site.run("create-alias", "--alias-name", "photos", "--target-key-id", on)
    report = site.run("rotation-report").json
    rows = {each["KeyId"]: each for each in report["Keys"]}
    assert {key_id: rows[key_id]["Posture"] for key_id in (on, off, empty)} == {on: "ok", off: "off", empty: "waiting"}
    assert (rows[on]["Aliases"], rows[on]["RotationPeriodDays"], rows[on]["BackingKeys"]) == (["alias/photos"], 365, 1)
    assert rows[off]["Reason"] == "automatic rotation is off: enable-key-rotation switches it on"
    assert report["Problems"] == 1
    assert site.run("rotation-report", "--check").status == 1
    assert {each["KeyId"] for each in site.run("rotation-report", "--only-problems").json["Keys"]} == {off, empty}


def test_table(site: Site) -> None:
    """At a terminal of 100 columns each key has one readable row."""
    site.run("create-alias", "--alias-name", "photos", "--target-key-id", site.new_key())
    shown, status = at_terminal(site, "rotation-report", columns="100")
    assert status == 0
    assert "│ alias/photos " in shown
    assert "Posture" in shown
