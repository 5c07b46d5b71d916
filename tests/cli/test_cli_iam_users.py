"""Users and access keys at the command line."""

import json

from cli_site import ACCOUNT, REGION, Site

POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*"}]}'


def test_life_of_a_user(site: Site) -> None:
    """A user has up to two access keys, each shown once, switched off and deleted, before he can go."""
    made = site.run("create-user", "--user-name", "alice").json["User"]
    assert made["Arn"].endswith(":user/alice")
    assert site.run("list-users", "--query", "Users[0].UserId").json == made["UserId"]
    assert "already exists" in site.run("create-user", "--user-name", "alice").error
    first, second = (site.run("create-access-key", "--user-name", "alice").json["AccessKey"] for _ in range(2))
    assert len(first["SecretAccessKey"]) == 40
    assert "LimitExceededException" in site.run("create-access-key", "--user-name", "alice").error
    site.run("update-access-key", "--access-key-id", first["AccessKeyId"], "--status", "Inactive")
    listed = site.run("list-access-keys", "--user-name", "alice")
    assert [each["Status"] for each in listed.json["AccessKeyMetadata"]] == ["Inactive", "Active"]
    assert second["SecretAccessKey"] not in listed.stdout
    assert "delete them first" in site.run("delete-user", "--user-name", "alice").error
    for each in (first, second):
        assert site.run("delete-access-key", "--access-key-id", each["AccessKeyId"]).status == 0
    assert site.run("delete-user", "--user-name", "alice").status == 0
    assert site.run("list-users").json == {"Users": []}


def test_secrets_are_in_no_database(site: Site) -> None:
    """What signs requests is in the databases only as the token has encrypted it."""
    secret = site.run("create-access-key", "--root").json["AccessKey"]["SecretAccessKey"]
    for file in site.data.glob("*.db*"):
        assert secret.encode() not in file.read_bytes()


def test_wrong_words(site: Site) -> None:
    """Neither user nor root, both, a wrong status and an unknown key are errors that say what is right."""
    assert site.run("create-access-key").status == 2
    assert site.run("create-access-key", "--root", "--user-name", "alice").status == 2
    assert "Active or Inactive" in site.run("update-access-key", "--access-key-id", "A", "--status", "Off").error
    assert "cannot be found" in site.run("delete-access-key", "--access-key-id", "A").error


def test_policy_without_file(site: Site) -> None:
    """The name of a file in place of a policy is refused with what to write; other texts are judged as policies."""
    site.run("create-user", "--user-name", "alice")
    key = site.new_key()
    (site.folder / "use.json").write_text(POLICY)
    put = ("put-user-policy", "--user-name", "alice", "--policy-name", "use", "--policy-document")
    named = "use.json is no document, but a file: write file://use.json."
    assert site.run(*put, "use.json").error == f"ValidationException: --policy-document: {named}"
    put_key = ("put-key-policy", "--key-id", key, "--policy")
    assert site.run(*put_key, "use.json").error == f"ValidationException: --policy: {named}"
    for text in ("none.json", "x" * 5000):
        assert site.run(*put, text).error.startswith("MalformedPolicyDocumentException: ")
    assert site.run(*put, "file://use.json").status == 0


def test_policy_with_resources_that_match_nothing(site: Site) -> None:
    """A policy that names a key which is not there, or an alias, is put with a note; one of a key without."""
    site.run("create-user", "--user-name", "alice")
    put = ("put-user-policy", "--user-name", "alice", "--policy-name", "use", "--policy-document")
    key = site.run("create-key", "--query", "KeyMetadata.Arn").json
    others = [key.replace(key[-12:], "0" * 12), key.replace(REGION, "eu-north-1"), key.replace(ACCOUNT, "1" * 12)]
    alias = f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/photos"
    quiet = [key, f"{key[:-12]}*", "*", "arn:aws:kms:*:*:key/${aws:PrincipalTag/key}"]
    document = json.loads(POLICY)
    document["Statement"][0]["Resource"] = [*others, *quiet, alias]
    notes = site.run(*put, json.dumps(document)).stderr.splitlines()
    assert notes[:3] == [
        f"hsmkms: note: There is no key with the ARN of the Resource {each}: no request matches it." for each in others
    ]
    assert notes[3].startswith(f"hsmkms: note: The Resource {alias} is an alias: only operations on aliases match it.")
    assert len(notes) == len(others) + 1
