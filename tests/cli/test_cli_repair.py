"""reconcile and doctor after a kill -9: what was left is shown, adopted on demand, and never removed by the way."""

import json

import pytest
from cli_site import REGION, Site, at_terminal


@pytest.fixture
def interrupted(site: Site) -> Site:
    """An installation with one key, and an object of a creation that was killed before its response."""
    site.new_key()
    site.program("interrupt_creation", "create-key 2", status=-9)
    return site


def set_grace(site: Site, hours: float) -> None:
    """Set the grace period."""
    text = site.config.read_text()
    assert "# grace_hours = 24.0" in text
    site.config.write_text(text.replace("# grace_hours = 24.0", f"grace_hours = {hours}"))


def findings(site: Site, *options: str, status: int = 1) -> list[dict[str, object]]:
    """What reconcile finds, and how many of it are left."""
    shown = site.run("reconcile", *options)
    assert (shown.status, shown.stderr) == (status, ""), shown
    parsed = json.loads(shown.stdout)
    assert parsed["Left"] == (len(parsed["Findings"]) if status else 0)
    return list(parsed["Findings"])


def objects(site: Site) -> int:
    """How many objects are on the token."""
    return len(list((site.data / "softhsm" / "tokens").glob("*/*-*.object")))


def test_unfinished(site: Site) -> None:
    """A creation without an object is shown with status 1, and forgotten with --mend."""
    site.program("interrupt_creation", "create-key 1", status=-9)
    (finding,) = findings(site)
    assert (finding["Kind"], finding["Region"], finding["Sequence"]) == ("unfinished", REGION, 1)
    (mended,) = findings(site, "--mend", status=0)
    assert mended["Outcome"] == "intent forgotten"
    assert findings(site, status=0) == []
    assert site.run("list-keys").json == {"Keys": []}


def test_shown(interrupted: Site) -> None:
    """An unacknowledged object is listed each time, also by doctor, and nothing is done about it."""
    before = objects(interrupted)
    first, second = findings(interrupted), findings(interrupted)
    assert first == second
    (finding,) = first
    assert finding["Kind"] == "unacknowledged"
    assert finding["Remedy"] == "adopt it (as a Disabled key, if its key is new), or remove it"
    assert "Outcome" not in finding
    doctor = interrupted.run("doctor", "--query", "Checks[?Outcome=='wrong'].Detail", "--output", "text")
    assert (doctor.status, doctor.stdout) == (
        1,
        "StoreError: 1 differences between database and token: run `hsmkms reconcile`\n",
    )
    assert objects(interrupted) == before
    assert len(interrupted.run("list-keys").json["Keys"]) == 1


def test_mend_adopts(interrupted: Site) -> None:
    """--mend makes it a Disabled key that works once it is enabled."""
    (mended,) = findings(interrupted, "--mend", status=0)
    assert mended["Outcome"] == "adopted as a Disabled key"
    key = mended["KeyId"]
    metadata = interrupted.run("describe-key", "--key-id", key).json["KeyMetadata"]
    assert (metadata["KeyState"], metadata["Description"]) == ("Disabled", "interrupted")
    assert interrupted.run("enable-key", "--key-id", key).status == 0
    assert interrupted.run("encrypt", "--key-id", key, "--plaintext", "aGVsbG8=").status == 0
    assert findings(interrupted, status=0) == []
    assert interrupted.run("doctor").status == 0


def test_removal_waits(interrupted: Site) -> None:
    """Within the grace period nothing is removed, and the reason and the time are said."""
    before = objects(interrupted)
    (left,) = findings(interrupted, "--remove", "--yes")
    assert str(left["Outcome"]).startswith(f"left as it is: the object {left['CkaId']} was first seen at ")
    assert "reconcile.grace_hours" in str(left["Outcome"])
    assert objects(interrupted) == before


def test_removal(interrupted: Site) -> None:
    """After the grace period it is removed from the token, and the other key is still there."""
    set_grace(interrupted, 0)
    before = objects(interrupted)
    (removed,) = findings(interrupted, "--remove", "--yes", status=0)
    assert removed["Outcome"] == "removed from the token"
    assert objects(interrupted) == before - 1
    assert findings(interrupted, status=0) == []
    (key,) = interrupted.run("list-keys").json["Keys"]
    assert interrupted.run("encrypt", "--key-id", key["KeyId"], "--plaintext", "aGVsbG8=").status == 0


def test_removal_without_a_word(interrupted: Site) -> None:
    """Without a terminal nothing is removed unless --yes is given; --yes alone does nothing."""
    set_grace(interrupted, 0)
    before = objects(interrupted)
    assert [finding["Outcome"] for finding in findings(interrupted, "--remove")] == ["left as it is"]
    assert ["Outcome" in finding for finding in findings(interrupted, "--yes")] == [False]
    assert interrupted.run("reconcile", "--remove", stdin=b"y\n").status == 1
    assert objects(interrupted) == before


@pytest.mark.parametrize(("answer", "status", "gone"), [("n", 1, 0), ("y", 0, 1)])
def test_removal_at_a_terminal(interrupted: Site, answer: str, status: int, gone: int) -> None:
    """At a terminal each removal is a question that says what is lost, and the answer counts."""
    set_grace(interrupted, 0)
    before = objects(interrupted)
    shown, ended = at_terminal(interrupted, "reconcile", "--remove", answer=answer)
    assert "What it encrypted is lost for ever [y/N]: " in shown
    assert (ended, objects(interrupted)) == (status, before - gone)
