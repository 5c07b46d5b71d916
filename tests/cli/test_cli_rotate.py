"""rotate: what a dry run shows, what evidence there is, and what it refuses."""

import json
from datetime import UTC, datetime
from typing import Any

from cli_site import OTHER_REGION, Site, at_terminal

from hsmkms.cli.commands.rotate import CANNOT_ROTATE_STATUS


def answer(site: Site, *arguments: str) -> Any:  # noqa: ANN401 - JSON
    """What rotate answers where nothing fails and a key cannot rotate, which its status says."""
    done = site.run(*arguments)
    assert (done.status, done.stderr) == (CANNOT_ROTATE_STATUS, "")
    return json.loads(done.stdout)


def test_rotate(site: Site) -> None:
    """A dry run changes nothing; a run gives evidence of each key and why others do not rotate; again, none is left."""
    old, pair = site.new_key(), site.new_key("--key-spec", "ECC_NIST_P256", "--key-usage", "SIGN_VERIFY")
    site.run("create-alias", "--alias-name", "photos", "--target-key-id", old)
    other = site.new_key("--region", OTHER_REGION)
    instant = f"{datetime.now(UTC):%FT%T.%fZ}"
    asked = ("rotate", "--older-than", instant)
    planned = answer(site, *asked, "--dry-run")
    assert {each["KeyId"] for each in planned["ToRotate"]} == {old, other}
    (cannot,) = planned["CannotRotate"]
    assert (cannot["KeyId"], cannot["Obstacle"].startswith("UnsupportedOperationException: ")) == (pair, True)
    before = site.run("describe-key", "--key-id", old).json["KeyMetadata"]["CurrentKeyMaterialId"]
    assert [each["Current"]["KeyMaterialId"] for each in planned["ToRotate"] if each["KeyId"] == old] == [before]
    done = answer(site, *asked)
    assert ({each["KeyId"] for each in done["Rotated"]}, done["Failed"], done["NotDone"]) == ({old, other}, [], 0)
    (evidence,) = [each for each in done["Rotated"] if each["KeyId"] == old]
    after = site.run("describe-key", "--key-id", old).json["KeyMetadata"]["CurrentKeyMaterialId"]
    assert (evidence["Before"]["KeyMaterialId"], evidence["After"]["KeyMaterialId"]) == (before, after)
    assert evidence["Before"]["CreatedAt"] < instant < evidence["After"]["RotationDate"]
    assert before != after
    shown = site.run("audit", "show", evidence["RequestId"], "--query", "Records[0].eventName").json
    assert shown == "RotateKeyOnDemand"
    again = answer(site, *asked)
    assert (again["Rotated"], [each["KeyId"] for each in again["CannotRotate"]]) == ([], [pair])


def test_at_a_terminal(site: Site) -> None:
    """The table has whole ids, and key material with its date before and after."""
    key = site.new_key()
    before = site.run("describe-key", "--key-id", key).json["KeyMetadata"]["CurrentKeyMaterialId"]
    shown, status = at_terminal(site, "rotate", "--older-than", "now", columns="80")
    after = site.run("describe-key", "--key-id", key).json["KeyMetadata"]["CurrentKeyMaterialId"]
    assert status == 0
    assert all(f" {each} " in shown for each in (key, before[:32], after[:32]))
    assert "CannotRotate │ -" in shown


def test_refused(site: Site) -> None:
    """An age that cannot be parsed, and one in the future; without old keys a note says so."""
    assert "'365 days' is no date or time" in site.run("rotate", "--older-than", "365 days").error
    assert "is in the future" in site.run("rotate", "--older-than", "2999-01-01").error
    nothing = site.run("rotate", "--older-than", "365d")
    assert (nothing.status, nothing.stderr) == (0, "hsmkms: note: no key has key material that is older than 365d\n")
