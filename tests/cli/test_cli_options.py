"""Options: where they may stand, where the configuration comes from, and how lists, maps and files are written."""

import base64
import json
import re

import pytest
from cli_site import ACCOUNT, OTHER_REGION, Site

STATEMENT = {"Sid": "ü", "Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "kms:*", "Resource": "*"}
POLICY = {"Version": "2012-10-17", "Statement": [STATEMENT]}
BLOB = "aGVsbG8="


@pytest.fixture(scope="module")
def key(shared: Site) -> str:
    """A key of the shared installation."""
    return shared.new_key()


def test_common_options_on_both_sides(shared: Site, key: str) -> None:
    """Common options may stand before or after the command's name; the nearer one wins."""
    arn = f"arn:aws:kms:eu-central-1:111122223333:key/{key}"
    after = shared.run("describe-key", "--key-id", key, "--output", "text", "--query", "KeyMetadata.Arn")
    before = shared.run("--output", "text", "--query", "KeyMetadata.Arn", "describe-key", "--key-id", key)
    both = shared.run(
        "--output", "table", "--query", "KeyMetadata.Arn", "describe-key", "--key-id", key, "--output", "json"
    )
    assert (before.stdout, after.stdout, both.json) == (f"{arn}\n", f"{arn}\n", arn)


def test_region(site: Site) -> None:
    """A key belongs to the region that --region names, before or after the command's name."""
    made = site.run("--region", OTHER_REGION, "create-key").json["KeyMetadata"]
    assert made["Arn"].startswith(f"arn:aws:kms:{OTHER_REGION}:")
    assert len(site.run("list-keys", "--region", OTHER_REGION).json["Keys"]) == 1
    assert site.run("list-keys").json["Keys"] == []
    assert len(site.run("attest", "--key-id", made["KeyId"], "--region", OTHER_REGION).json["BackingKeys"]) == 1


def test_order_of_configurations(site: Site) -> None:
    """The configuration is that of --config, else of $HSMKMS_CONFIG, else ./hsmkms.toml, else the user's own."""
    work, home = site.folder / "work", site.folder / "home"
    files = {"option": site.folder / "o.toml", "variable": site.folder / "v.toml", "folder": work / "hsmkms.toml"}
    files["user"] = home / ".config" / "hsmkms" / "hsmkms.toml"
    accounts = dict(zip(files, ("111111111111", "222222222222", "333333333333", "444444444444"), strict=True))
    for name, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            site.config.read_text()
            .replace("111122223333", accounts[name])
            .replace('# data_dir = "."', f'data_dir = "{site.data}"')
            .replace('file = "pin"', f'file = "{site.data}/pin"')
        )

    def read_by(*arguments: object, variable: str) -> str:
        # The account is a wrong one, so each file gives itself away.
        message = site.run("list-keys", *arguments, cwd=work, HSMKMS_CONFIG=variable, HOME=str(home)).error
        return next(name for name, account in accounts.items() if f"account_id is {account}" in message)

    assert read_by("--config", files["option"], variable=str(files["variable"])) == "option"
    assert read_by(variable=str(files["variable"])) == "variable"
    assert read_by(variable="") == "folder"
    files["folder"].unlink()
    assert read_by(variable="") == "user"


def test_no_configuration(bare: Site) -> None:
    """Without a configuration the error says where it was looked for, and how to make one."""
    message = bare.run("list-keys", HSMKMS_CONFIG="").error
    assert message.startswith("ConfigurationError: there is no configuration")
    assert "hsmkms init --data-dir DIR" in message


def test_missing_configuration(bare: Site) -> None:
    """A configuration that was named and is not there is not replaced by another."""
    (bare.folder / "hsmkms.toml").write_text("nonsense")
    message = bare.run("--config", "other.toml", "list-keys").error
    assert message == (
        "ConfigurationError: there is no configuration other.toml: correct --config or $HSMKMS_CONFIG, or run "
        "`hsmkms init --data-dir DIR`; one that is lost comes back by `hsmkms restore FILE --data-dir DIR`"
    )


def test_unknown_setting(site: Site) -> None:
    """A misspelt setting is refused by its name."""
    site.config.write_text("acount_id = '1'\n" + site.config.read_text())
    message = site.run("list-keys").error
    assert message.startswith("ConfigurationError")
    assert "acount_id" in message


@pytest.mark.parametrize(
    "context",
    ['{"to": "Ada, Countess", "a=b": ""}', "file://context.json"],
)
def test_maps(shared: Site, key: str, context: str) -> None:
    """A map may be JSON, or a file with JSON, with values that shorthand could not write."""
    (shared.folder / "context.json").write_text('{"to": "Ada, Countess", "a=b": ""}')
    sealed = shared.run("encrypt", "--key-id", key, "--plaintext", BLOB, "--encryption-context", context).json
    opened = shared.run(
        "decrypt",
        *("--ciphertext-blob", sealed["CiphertextBlob"]),
        *("--encryption-context", '{"a=b": "", "to": "Ada, Countess"}'),
    )
    assert opened.json["Plaintext"] == BLOB


def test_lists(site: Site) -> None:
    """A list is written as several words, with the option repeated, mixed, or as JSON."""
    tags = [f"TagKey={name},TagValue={name}{name}" for name in "abcdefgh"]
    key = site.new_key("--tags", *tags)
    site.run("untag-resource", "--tag-keys", "a", "b", "--key-id", key)
    site.run("untag-resource", "--key-id", key, "--tag-keys", "c", "--tag-keys", "d")
    site.run("untag-resource", "--key-id", key, "--tag-keys=e", "--tag-keys", "f")
    site.run("untag-resource", "--key-id", key, "--tag-keys", '["g"]')
    assert site.run("list-resource-tags", "--key-id", key).json == {"Tags": [{"TagKey": "h", "TagValue": "hh"}]}


def test_words_after_a_list(shared: Site, key: str) -> None:
    """Words after the list's own ones are no members of it: a stray word is wrong usage."""
    assert shared.run("untag-resource", "--tag-keys", "a", "--key-id", key, "stray").status == 2


def test_policy_from_a_file(shared: Site) -> None:
    """A policy may be read from a file; a malformed one is refused with AWS's error code."""
    (shared.folder / "policy.json").write_text(json.dumps(POLICY, ensure_ascii=False))
    assert shared.new_key("--policy", "file://policy.json")
    (shared.folder / "broken.json").write_text('{"Version": ')
    message = shared.run("create-key", "--policy", "file://broken.json").error
    assert message.startswith("MalformedPolicyDocumentException")
    message = shared.run("create-key", "--policy", "file://nowhere.json").error
    assert message.startswith("ValidationException: --policy: nowhere.json cannot be read")


@pytest.mark.parametrize(
    ("encoding", "mark", "named"),
    [
        ("utf-8", b"", None),
        ("utf-8", b"\xef\xbb\xbf", None),
        ("utf-16", b"", "UTF-16 text"),
        ("utf-16-be", b"\xfe\xff", "UTF-16 text"),
        ("utf-16-le", b"", "UTF-16 text without a byte order mark"),
        ("utf-32", b"", "UTF-32 text"),
        ("latin-1", b"", "Windows-1252 or ISO 8859-1"),
    ],
)
def test_encodings_of_files(shared: Site, encoding: str, mark: bytes, named: str | None) -> None:
    """A document may begin with the byte order mark of UTF-8; another encoding is named, with what to do."""
    text = json.dumps(POLICY | {"Id": "caf\u00e9"}, ensure_ascii=False)
    (shared.folder / "encoded.json").write_bytes(mark + text.encode(encoding))
    command = ("create-key", "--policy", "file://encoded.json")
    if named is not None:
        error = shared.run(*command).error
        assert error.startswith("ValidationException: --policy: file://encoded.json is ")
        assert named in error
        assert error.endswith("save it as UTF-8.")
        return
    key = shared.new_key(*command[1:])
    assert json.loads(shared.run("get-key-policy", "--key-id", key).json["Policy"])["Id"] == "caf\u00e9"


def test_standard_input(shared: Site, key: str) -> None:
    """A blob of - is the bytes of standard input, whatever they are."""
    plaintext = bytes(range(256)) + b"\r\n\n"
    sealed = shared.run("encrypt", "--key-id", key, "--plaintext", "-", stdin=plaintext).json["CiphertextBlob"]
    opened = shared.run("decrypt", "--ciphertext-blob", sealed).json["Plaintext"]
    assert base64.b64decode(opened) == plaintext


def test_structures(shared: Site) -> None:
    """A structure may be shorthand or JSON; what it does not have is refused by name."""
    for written in ("KeyEncryptionAlgorithm=RSAES_OAEP_SHA_256", '{"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}'):
        message = shared.run("generate-random", "--number-of-bytes", "8", "--recipient", written).error
        assert message.startswith("UnsupportedOperationException")
    message = shared.run("generate-random", "--number-of-bytes", "8", "--recipient", "nonsense").error
    assert message == "ValidationException: --recipient: 'nonsense' is not key=value (or pass a JSON object)."


def test_four_forms_of_a_key(shared: Site, key: str) -> None:
    """A key is accepted by its id, its ARN, an alias with and without the prefix, and the alias's ARN."""
    shared.run("create-alias", "--alias-name", "forms", "--target-key-id", key)
    prefix = "arn:aws:kms:eu-central-1:111122223333"
    for form in (f"{prefix}:key/{key}", "alias/forms", "forms", f"{prefix}:alias/forms"):
        assert shared.run("describe-key", "--key-id", form).json["KeyMetadata"]["KeyId"] == key


@pytest.mark.parametrize(
    "arguments",
    [
        ("describe-key",),
        ("describe-key", "--key-id"),
        ("describe-key", "--key-id", "x", "--nonsense"),
        ("list-keys", "--limit", "many"),
        ("nonsense",),
        ("--nonsense",),
        ("create-alias", "--alias-name", "x"),
    ],
)
def test_wrong_usage(shared: Site, arguments: tuple[str, ...]) -> None:
    """Wrong usage is status 2, with a word about what was wrong and nothing on standard output."""
    refused = shared.run(*arguments)
    assert (refused.status, refused.stdout) == (2, "")
    assert "Error" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *(("list-keys", "--output", "xml"), ("--output", "xml", "list-keys"), ("usage", "--by", "xml")),
        *(("audit", "export", "--format", "xml"), ("report", "--format", "xml")),
    ],
)
def test_wrong_choice(shared: Site, arguments: tuple[str, ...]) -> None:
    """A word that is none of an option's values is refused with these, and no word of a library."""
    refused = shared.run(*arguments)
    assert refused.status == 2
    assert re.search(r"Invalid value for '--(output|by|format)': 'xml' is not one of '", refused.stderr)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--output", "json", "usage"), "usage does not take --output"),
        (("--as", "alice", "--region", OTHER_REGION, "report"), "report does not take --as"),
        (("--region", OTHER_REGION, "audit", "verify"), "verify does not take --region"),
    ],
)
def test_options_that_would_change_nothing(shared: Site, arguments: tuple[str, ...], named: str) -> None:
    """An option before the name of a command that does not take it is refused, and not ignored."""
    refused = shared.run(*arguments)
    assert refused.status == 2
    assert f"Invalid value: {named}" in refused.stderr
