"""rotate-installation-keys: new versions of the installation's own keys, and the end of older ones."""

from cli_site import Site

VERSIONS = "InstallationKeys[].[Purpose, Version, Outcome]"


def test_rotation(site: Site) -> None:
    """Rotation adds a version to each installation key, all keys work on, and the record names the caller."""
    secret = site.run("create-access-key", "--root").json["AccessKey"]["AccessKeyId"]
    assert site.run("rotate-installation-keys", "--query", VERSIONS).json == [
        ["mac", 2, "rotated"],
        ["audit-seal", 2, "rotated"],
        ["secrets", 2, "rotated"],
        ["backup", 0, "not created yet, since nothing has needed it"],
        ["report", 0, "not created yet, since nothing has needed it"],
    ]
    assert site.run("rotate-installation-keys", "--purpose", "secrets", "--query", VERSIONS).json == [
        ["secrets", 3, "rotated"]
    ]
    assert secret in site.run("list-access-keys", "--root").stdout
    assert site.run("doctor").status == 0
    assert site.run("audit", "verify").status == 0
    output = site.run("audit", "tail", "--query", "Records[?eventName=='RotateInstallationKey'].requestParameters").json
    assert [each["purpose"] for each in output] == ["mac", "audit-seal", "secrets", "backup", "report", "secrets"]


def test_end_of_older_versions(site: Site) -> None:
    """It is asked for; what something still needs is kept, and the answer says for what."""
    site.run("create-access-key", "--root")
    site.run("rotate-installation-keys")
    asked = site.run("rotate-installation-keys", "--destroy-older")
    assert (asked.status, "--destroy-older asks at a terminal" in asked.stderr) == (1, True)
    query = "InstallationKeys[].[Purpose, Older[0].Version, Older[0].Kept]"
    mac, seal, secrets, backup, report = site.run(
        "rotate-installation-keys", "--destroy-older", "--yes", "--query", query
    ).json
    assert mac[2].startswith("import tokens and grant tokens from before the rotation are good until ")
    assert seal == ["audit-seal", 1, "seals of the audit log were made with it"]
    assert secrets == ["secrets", 1, None]
    assert backup == ["backup", None, None]
    assert report == ["report", None, None]
    assert site.run("list-access-keys", "--root").status == 0
