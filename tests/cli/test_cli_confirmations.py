"""What a person at a terminal is shown and asked before a key is scheduled for deletion."""

import json

from cli_site import OTHER_REGION, Site, at_terminal


def state_of(site: Site, key_id: str) -> str:
    """The key's state."""
    return site.run("describe-key", "--key-id", key_id, "--query", "KeyMetadata.KeyState", "--output", "text").stdout


def test_shown_and_asked(site: Site) -> None:
    """Last use and aliases are shown, and without a yes nothing is changed."""
    key_id = site.new_key("--description", "holiday photos")
    site.run("create-alias", "--alias-name", "photos", "--target-key-id", key_id)
    site.run("encrypt", "--key-id", key_id, "--plaintext", "c2VjcmV0")
    shown, status = at_terminal(site, "schedule-key-deletion", "--key-id", key_id, answer="n")
    assert status == 1
    assert "Description: holiday photos" in shown
    assert "Last use:    Encrypt at 20" in shown
    assert "Aliases:     alias/photos" in shown
    assert "in 30 days?" in shown
    assert state_of(site, key_id) == "Enabled\n"


def test_yes(site: Site) -> None:
    """With a yes, typed or as an option, the waiting period begins."""
    typed, told = site.new_key(), site.new_key()
    shown, status = at_terminal(
        site, "schedule-key-deletion", "--key-id", typed, "--pending-window-in-days", "7", answer="y"
    )
    assert status == 0
    assert "Last use:    never used" in shown
    assert "in 7 days?" in shown
    shown, status = at_terminal(site, "schedule-key-deletion", "--key-id", told, "--yes")
    assert (status, "Last use" in shown) == (0, False)
    assert [state_of(site, each) for each in (typed, told)] == ["PendingDeletion\n"] * 2


def test_primary_key_with_replicas(site: Site) -> None:
    """A primary key says that it waits for its replicas, and where these are."""
    key_id = site.new_key("--multi-region")
    site.run("replicate-key", "--key-id", key_id, "--replica-region", OTHER_REGION)
    shown, status = at_terminal(site, "schedule-key-deletion", "--key-id", key_id, answer="y")
    assert status == 0
    assert f"30 days after its last replica ({OTHER_REGION}) is gone?" in " ".join(shown.split())
    assert state_of(site, key_id) == "PendingReplicaDeletion\n"


def test_public_key(site: Site) -> None:
    """Of an asymmetric key it says that the uses of its public key are not recorded."""
    key_id = site.new_key("--key-spec", "ECC_NIST_P256", "--key-usage", "SIGN_VERIFY")
    shown, _ = at_terminal(site, "schedule-key-deletion", "--key-id", key_id, answer="n")
    assert "with it elsewhere is recorded nowhere" in shown
    shown, _ = at_terminal(site, "schedule-key-deletion", "--key-id", site.new_key(), answer="n")
    assert "elsewhere" not in shown


def test_replica_of_another_region(site: Site) -> None:
    """The last use is that of the key in the region of the command, not of the key with the same id in another."""
    key_id = site.new_key("--multi-region")
    site.run("replicate-key", "--key-id", key_id, "--replica-region", OTHER_REGION)
    site.run("encrypt", "--key-id", key_id, "--plaintext", "c2VjcmV0")
    shown, _ = at_terminal(site, "schedule-key-deletion", "--region", OTHER_REGION, "--key-id", key_id, answer="n")
    assert f"{OTHER_REGION}:" in shown
    assert "Last use:    never used" in shown
    ids = site.run("unused-keys", "--since", "now", "--ids", "--region", OTHER_REGION)
    (arn,) = ids.stdout.split()
    assert (arn.split(":")[3], arn.endswith(key_id)) == (OTHER_REGION, True)
    refused = site.run("schedule-key-deletion", "--key-id", arn)
    assert (refused.status, state_of(site, key_id)) == (1, "Enabled\n")
    site.run("schedule-key-deletion", "--region", OTHER_REGION, "--key-id", arn)
    assert state_of(site, key_id) == "Enabled\n"


def test_programs_are_not_asked(site: Site) -> None:
    """Without a terminal no confirmation is asked for, as with the aws CLI."""
    key_id = site.new_key()
    answer = site.run("schedule-key-deletion", "--key-id", key_id)
    assert (answer.status, answer.stderr) == (0, "")
    assert answer.json["KeyState"] == "PendingDeletion"


def test_cancelled(site: Site) -> None:
    """After a cancelled deletion a note says that the key cannot be used yet; the answer is the API's."""
    key_id = site.new_key()
    site.run("schedule-key-deletion", "--key-id", key_id)
    answer = site.run("cancel-key-deletion", "--key-id", key_id)
    assert answer.stderr == "hsmkms: note: the key is not deleted, and cannot be used before `hsmkms enable-key`\n"
    assert json.loads(answer.stdout).keys() == {"KeyId"}
    assert state_of(site, key_id) == "Disabled\n"
