"""Command lines as the aws CLI takes them: bytes, structures, pages, JSON input, samples, and options of its own."""

import base64
import json

import pytest
from cli_site import OTHER_REGION, Site

HELLO = base64.b64encode(b"hello").decode()


@pytest.fixture(scope="module")
def key(shared: Site) -> str:
    """A key of the shared installation, with an alias."""
    key = shared.new_key()
    shared.run("create-alias", "--alias-name", "photos", "--target-key-id", key)
    return key


def opened(site: Site, *encrypted_by: object, stdin: bytes = b"") -> bytes:
    """Encrypt with a command line; what decrypting gives."""
    blob = site.run("encrypt", *encrypted_by, stdin=stdin).json["CiphertextBlob"]
    return base64.b64decode(site.run("decrypt", "--ciphertext-blob", blob).json["Plaintext"])


# -- bytes ------------------------------------------------------------------------------------------------------


def test_base64_with_line_breaks(shared: Site, key: str) -> None:
    """Base64 may be broken into lines, in the option and in a file, as the program base64 writes it."""
    plaintext = bytes(range(200))
    lines = base64.encodebytes(plaintext).decode()
    assert lines.count("\n") > 2
    (shared.folder / "lines.b64").write_text(lines)
    assert opened(shared, "--key-id", key, "--plaintext", lines) == plaintext
    assert opened(shared, "--key-id", key, "--plaintext", "file://lines.b64") == plaintext


def test_bytes_from_standard_input(shared: Site, key: str) -> None:
    """fileb:///dev/stdin reads standard input, as - does."""
    for source in ("fileb:///dev/stdin", "fileb:///dev/fd/0", "-"):
        assert opened(shared, "--key-id", key, "--plaintext", source, stdin=b"\x00piped") == b"\x00piped"


@pytest.mark.parametrize("before", [True, False])
def test_raw_bytes(shared: Site, key: str, before: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """With --cli-binary-format raw-in-base64-out a plaintext is written as it is, and answers are base64 still."""
    form = ("--cli-binary-format", "raw-in-base64-out")
    command = ("encrypt", "--key-id", key, "--plaintext", "hé llo")
    blob = shared.run(*(form + command if before else command + form)).json["CiphertextBlob"]
    answer = shared.run("decrypt", "--ciphertext-blob", blob).json
    assert base64.b64decode(answer["Plaintext"]).decode() == "hé llo"


# -- structures -------------------------------------------------------------------------------------------------


def test_nested_shorthand(shared: Site, key: str) -> None:
    """A structure within a structure, and lists of structures with quoted commas, are written as for the aws CLI."""
    grant = shared.run(
        *("create-grant", "--key-id", key, "--grantee-principal", "arn:aws:iam::111122223333:root"),
        *("--operations", "Encrypt", "--constraints", "EncryptionContextSubset={Department=IT,Name='a,b'}"),
    ).json["GrantId"]
    grants = shared.run("list-grants", "--key-id", key).json["Grants"]
    (constraints,) = [each["Constraints"] for each in grants if each["GrantId"] == grant]
    assert constraints == {"EncryptionContextSubset": {"Department": "IT", "Name": "a,b"}}
    tagged = shared.new_key("--tags", 'TagKey=team,TagValue="red, green"', "TagKey=b,TagValue=")
    assert shared.run("list-resource-tags", "--key-id", tagged).json["Tags"] == [
        {"TagKey": "b", "TagValue": ""},
        {"TagKey": "team", "TagValue": "red, green"},
    ]


@pytest.mark.parametrize("written", ["Key=a,Value=b", '[{"Key": "a", "Value": "b"}]', '{"Key": "a"}'])
def test_members_that_there_are_not(shared: Site, written: str) -> None:
    """A member that a structure does not have is refused by its name, with the names that there are."""
    error = shared.run("create-key", "--tags", written).error
    assert error == "ValidationException: --tags: there is no member 'Key'; there is: TagKey, TagValue."


def test_lists_in_maps(shared: Site, key: str) -> None:
    """A value with a comma in a map of texts is refused with the quotes that it needs."""
    error = shared.run(
        "encrypt", "--key-id", key, "--plaintext", HELLO, "--encryption-context", "to=Ada,Countess"
    ).error
    assert "put quotes around a value that has commas" in error


# -- pages ------------------------------------------------------------------------------------------------------


def test_pages(site: Site) -> None:
    """--max-items limits a list, and its NextToken continues where it ended, whatever the size of pages."""
    made = {site.new_key() for _ in range(5)}
    seen: list[str] = []
    cut: tuple[object, ...] = ()
    for count in (2, 2, 1):
        answer = site.run("list-keys", "--max-items", 2, "--page-size", 3, *cut).json
        ids = [key["KeyId"] for key in answer["Keys"]]
        assert len(ids) == count
        assert ("NextToken" in answer) == (len(seen) + count < len(made))
        assert not {"Truncated", "NextMarker"} & answer.keys()
        cut = ("--starting-token", answer.get("NextToken"))
        seen += ids
    assert (len(seen), set(seen)) == (5, made)
    assert len(site.run("list-keys", "--page-size", 1).json["Keys"]) == 5
    first = site.run("list-keys", "--no-paginate", "--page-size", 2).json
    assert (len(first["Keys"]), first["Truncated"]) == (2, True)
    rest = site.run("list-keys", "--marker", first["NextMarker"]).json
    assert len(rest["Keys"]) == 3


@pytest.mark.parametrize("token", ["nonsense", HELLO, base64.b64encode(b'{"Marker": 5}').decode(), "W10="])
def test_starting_token_that_is_none(shared: Site, token: str) -> None:
    """A starting token that no answer had is refused."""
    error = shared.run("list-keys", "--starting-token", token).error
    assert error.startswith("ValidationException: --starting-token takes the NextToken")


# -- JSON instead of options ------------------------------------------------------------------------------------


def test_input_as_json(shared: Site, key: str) -> None:
    """--cli-input-json gives members, in the API's names; options win; bytes follow --cli-binary-format."""
    given = {"KeyId": key, "Plaintext": HELLO, "EncryptionContext": {"a": "b"}}
    (shared.folder / "input.json").write_text(json.dumps(given))
    blob = shared.run("encrypt", "--cli-input-json", "file://input.json", "--encryption-context", "c=d").json
    answer = shared.run("decrypt", "--ciphertext-blob", blob["CiphertextBlob"], "--encryption-context", "c=d").json
    assert answer["Plaintext"] == HELLO
    raw = json.dumps({"KeyId": key, "Plaintext": "raw text"})
    assert opened(shared, "--cli-binary-format", "raw-in-base64-out", "--cli-input-json", raw) == b"raw text"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ('{"KeyId": "x"}', "this operation needs Plaintext"),
        ('{"Key": "x"}', "there is no member 'Key'; there is: KeyId, Plaintext"),
        ('{"KeyId": 5, "Plaintext": "eA=="}', "--cli-input-json: KeyId: Expected"),
        ("[]", "--cli-input-json: Expected `object`"),
        ("{", "--cli-input-json is not JSON"),
    ],
)
def test_wrong_input(shared: Site, given: str, named: str) -> None:
    """JSON that is no request is refused with the member's name."""
    error = shared.run("encrypt", "--cli-input-json", given).error
    assert error.startswith("ValidationException: ")
    assert named in error


def test_samples(bare: Site) -> None:
    """--generate-cli-skeleton prints what --cli-input-json takes, or what is answered, and needs no installation."""
    asked = bare.run("tag-resource", "--generate-cli-skeleton").json
    assert asked == {"KeyId": "", "Tags": [{"TagKey": "", "TagValue": ""}]}
    assert bare.run("tag-resource", "--generate-cli-skeleton", "input").json == asked
    answered = bare.run("create-alias", "--generate-cli-skeleton", "output").json
    assert answered == {}
    metadata = bare.run("create-key", "--generate-cli-skeleton", "output").json["KeyMetadata"]
    assert (metadata["KeyId"], metadata["Enabled"], metadata["KeyState"]) == ("", True, "Creating")


def test_name_of_the_option_as_a_value(bare: Site) -> None:
    """A command that has no --cli-input-json keeps what it requires, whatever stands where a value is expected."""
    for option in ("--cli-input-json", "--generate-cli-skeleton"):
        refused = bare.run("restore", "--data-dir", option)
        assert (refused.status, refused.stdout) == (2, "")
        assert "Missing argument 'FILE'" in refused.stderr


# -- options of the aws CLI -------------------------------------------------------------------------------------


def test_options_without_effect(shared: Site, key: str) -> None:
    """Options that ask for what hsmkms does anyway are taken, before and after the command's name."""
    before = shared.run("--no-cli-pager", "describe-key", "--key-id", key)
    after = shared.run("describe-key", "--key-id", key, "--no-cli-pager", "--no-cli-auto-prompt")
    assert before.json == after.json


@pytest.mark.parametrize("option", ["--profile", "--endpoint-url", "--no-verify-ssl"])
def test_options_that_mean_nothing(shared: Site, option: str) -> None:
    """Options that mean nothing here are refused by name, with what to do instead."""
    assert shared.run("list-keys", option, "x").error.startswith(f"ValidationException: {option}: ")
    assert shared.run("list-keys", f"{option}=x").error.startswith(f"ValidationException: {option}: ")


def test_operations_that_will_never_be(bare: Site) -> None:
    """Operations on custom key stores are refused by name and code."""
    for name in ("create", "delete", "connect", "disconnect", "update"):
        error = bare.run(f"{name}-custom-key-store", "--custom-key-store-id", "x").error
        assert error.startswith(f"UnsupportedOperationException: hsmkms does not have {name}-custom-key-store")


@pytest.mark.parametrize("words", [("help", "create-key"), ("create-key", "help"), ("create-key", "--help")])
def test_help_as_a_word(bare: Site, words: tuple[str, ...]) -> None:
    """The word help shows what --help shows."""
    shown = bare.run(*words)
    assert (shown.status, "hsmkms create-key [OPTIONS]" in shown.stdout) == (0, True)
    assert "COMMAND [ARGS]" in bare.run("help").stdout


def test_yaml(shared: Site, key: str) -> None:
    """--output yaml has the members of json."""
    shown = shared.run("describe-key", "--key-id", key, "--output", "yaml", "--query", "KeyMetadata.[KeyId, Enabled]")
    assert shown.stdout == f"- {key}\n- true\n"


def test_completion_of_values(site: Site) -> None:
    """The shell completes words of the API, aliases of the region and users."""
    site.run("create-alias", "--alias-name", "photos", "--target-key-id", site.new_key())
    there = ("--region", OTHER_REGION)
    site.run("create-alias", "--alias-name", "plans", "--target-key-id", site.new_key(*there), *there)
    site.run("create-user", "--user-name", "alice")

    def offered(line: str) -> set[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - (not line.endswith(" ")))}
        return set(site.run(_HSMKMS_COMPLETE="complete_bash", **words).stdout.split())

    assert offered("hsmkms create-key --key-spec RSA") == {"RSA_2048", "RSA_3072", "RSA_4096"}
    assert offered("hsmkms create-grant --operations GenerateM") == {"GenerateMac"}
    assert offered("hsmkms encrypt --key-id p") == {"photos"}
    assert offered("hsmkms encrypt --key-id ") == {"alias/photos"}
    assert offered(f"hsmkms --region {OTHER_REGION} encrypt --key-id alias/p") == {"alias/plans"}
    assert offered("hsmkms list-keys --as a") == {"alice"}
    assert offered("hsmkms --config nowhere.toml encrypt --key-id p") == set()
