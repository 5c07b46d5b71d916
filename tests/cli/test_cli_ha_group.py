"""What commands show of an HA group."""

import json

from cli_site import Site
from groups import SECOND_SERIAL, Group, Modules

from hsmkms.config import settings as config


def test_doctor(site: Site, group_modules: Modules) -> None:
    """Doctor names the member that lacks a key, or one that is not present, and what was made without it.

    token-info shows the one in use.
    """
    token = config.load(site.config).token
    group = Group.of(token, site.folder / "ha", group_modules, behind=True, replication_seconds=0.2)
    key_id = site.new_key()
    group.write(site.config)
    members = site.run("token-info").json["Members"]
    assert [(member["Serial"], member["Present"], member["InUse"]) for member in members] == [
        (group.first.serial, True, True),
        (SECOND_SERIAL, True, False),
    ]
    assert site.run("list-tokens").json["Tokens"][0]["MemberInUse"] == group.first.serial
    outcome, detail = members_check(site)
    assert outcome == "warning"
    assert f"the member {SECOND_SERIAL} lacks {key_id}" in detail
    group.second.fail()
    outcome, detail = members_check(site)
    assert outcome == "warning"
    assert f"the member {SECOND_SERIAL} is not present" in detail
    assert "made without it" not in detail
    made = site.run("create-key")
    assert f"made without the HA member with serial {SECOND_SERIAL}" in made.stderr
    key_id = json.loads(made.stdout)["KeyMetadata"]["KeyId"]
    assert f"made without it, so synchronise it before it is used: {key_id}" in members_check(site)[1]
    assert site.run("change-pin", "--generate").error.startswith("ConfigurationError: each member of the HA group")


def members_check(site: Site) -> tuple[str, str]:
    """Outcome and detail of doctor's check of the members."""
    checks = json.loads(site.run("doctor", "--output", "json").stdout)["Checks"]
    (check,) = [(each["Outcome"], each["Detail"]) for each in checks if each["Check"] == "HA members"]
    return check
