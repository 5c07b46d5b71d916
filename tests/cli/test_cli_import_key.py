"""import-key and wrap-key-material: one step on the token's machine, wrapping on another one, and every refusal."""

import base64
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from cli_site import BIN, OTHER_REGION, SECONDS, Result, Site
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmkms.cli.commands import import_key
from hsmkms.cli.files import material_files
from hsmkms.errors import UnsupportedOperationException, ValidationException
from hsmkms.model.enums import KeySpec

ON_DEVICE = ["RSAES_OAEP_SHA_1", "RSA_AES_KEY_WRAP_SHA_1"]
ON_HOST = ["RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_256"]
SOON = "2099-01-31T12:00:00Z"
SOON_SECONDS = 4073544000
PLAIN = NoEncryption()
QUICK = ("--wrapping-key-spec", "RSA_2048")


@pytest.fixture
def material(site: Site) -> Path:
    """A file with new key material."""
    return private(site.folder / "material.bin", os.urandom(32))


def private(file: Path, data: bytes) -> Path:
    """A file for its owner alone."""
    file.touch(0o600)
    file.write_bytes(data)
    return file


def new_empty_key(site: Site, *arguments: str) -> str:
    """Create a key without material; its id."""
    return site.new_key("--origin", "EXTERNAL", *arguments)


def metadata(site: Site, key: str) -> dict[str, Any]:
    """The key's metadata as DescribeKey returns it."""
    metadata: dict[str, Any] = site.run("describe-key", "--key-id", key).json["KeyMetadata"]
    return metadata


def objects(site: Site) -> int:
    """How many objects are on the token; one is the note of the newest seal, which each command replaces."""
    return len(list(site.data.glob("softhsm/tokens/*/*.object")))


def wrapping_keys(site: Site) -> int:
    """The wrapping keys that the database knows of."""
    with closing(sqlite3.connect(site.data / "meta.db")) as db:
        return int(db.execute("SELECT count(*) FROM wrapping_key").fetchone()[0])


def refused(result: Result, material: Path) -> str:
    """The error of a command that failed, with nothing of the material in it."""
    data = material.read_bytes()
    for shown in (data.hex(), base64.b64encode(data).decode(), repr(data)[2:-1]):
        assert shown not in result.stdout + result.stderr
    return result.error


# -- import-key -----------------------------------------------------------------------------------------------------


def test_one_step(site: Site, material: Path) -> None:
    """An empty key gets its material by the strongest algorithm of the token, and works; no wrapping key is left."""
    key = new_empty_key(site)
    before = objects(site)
    output = site.run("import-key", material, "--key-id", key, "--no-expiry", "--description", "from the safe").json
    assert list(output) == ["KeyId", "KeyMaterialId", "WrappingAlgorithm"]
    seen = metadata(site, key)
    assert (output["KeyId"], output["KeyMaterialId"]) == (seen["Arn"], seen["CurrentKeyMaterialId"])
    assert output["WrappingAlgorithm"] == "RSAES_OAEP_SHA_1"
    assert (seen["KeyState"], seen["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    assert (objects(site) - before, wrapping_keys(site)) == (1, 0)
    sealed = site.run("encrypt", "--key-id", key, "--plaintext", "aGVsbG8=").json["CiphertextBlob"]
    assert site.run("decrypt", "--ciphertext-blob", sealed).json["Plaintext"] == "aGVsbG8="
    rotations = site.run("list-key-rotations", "--key-id", key, "--include-key-material", "ALL_KEY_MATERIAL").json
    assert [rotation["KeyMaterialDescription"] for rotation in rotations["Rotations"]] == ["from the safe"]
    assert site.run("reconcile").json == {"Findings": [], "Left": 0}


def test_key_on_the_token_is_as_it_must_be(site: Site, material: Path) -> None:
    """What came in by one step was unwrapped on the token: attest finds it as made, and never through the host."""
    key = new_empty_key(site)
    site.run("import-key", material, "--key-id", key, "--no-expiry", *QUICK)
    (result,) = site.run("attest", "--key-id", key).json["BackingKeys"]
    assert (result["Present"], result["AsMade"], result["Imported"], result["HostUnwrapped"]) == (
        True,
        True,
        True,
        False,
    )


@pytest.mark.parametrize(("algorithm", "spec"), list(zip(ON_DEVICE, ["RSA_3072", "RSA_2048"], strict=True)))
def test_choices(site: Site, material: Path, algorithm: str, spec: str) -> None:
    """Algorithm and size of the wrapping key can be chosen; the same bytes are the same material by each way."""
    key = new_empty_key(site)
    first = site.run("import-key", material, "--key-id", key, "--no-expiry", *QUICK).json["KeyMaterialId"]
    chosen = ("--wrapping-algorithm", algorithm, "--wrapping-key-spec", spec, "--valid-to", SOON)
    output = site.run("import-key", material, "--key-id", key, *chosen).json
    assert (output["KeyMaterialId"], output["WrappingAlgorithm"], output["ValidTo"]) == (first, algorithm, SOON_SECONDS)
    assert metadata(site, key)["ValidTo"] == SOON_SECONDS


def test_default_wrapping_key(site: Site, material: Path) -> None:
    """Unless another size is named, the wrapping key has 4096 bits."""
    shown = site.run("import-key", "--help").stdout
    assert "[default: RSA_4096]" in shown
    key = new_empty_key(site)
    result = site.run("import-key", material, "--key-id", key, "--no-expiry", "--wrapping-key-spec", "RSA_1024")
    assert "RSA_4096" in refused(result, material)


@pytest.mark.parametrize("name", ["photos", "alias/photos", "arn:aws:kms:eu-central-1:111122223333:alias/photos"])
def test_names_of_keys(site: Site, material: Path, name: str) -> None:
    """An alias is resolved for people, though ImportKeyMaterial takes none."""
    key = new_empty_key(site)
    site.run("create-alias", "--alias-name", "photos", "--target-key-id", key)
    output = site.run("import-key", material, "--key-id", name, "--no-expiry", *QUICK).json
    assert output["KeyId"] == metadata(site, key)["Arn"]


def test_other_region(site: Site, material: Path) -> None:
    """--region is that of the key."""
    key = new_empty_key(site, "--region", OTHER_REGION)
    output = site.run("import-key", material, "--key-id", key, "--no-expiry", "--region", OTHER_REGION, *QUICK).json
    assert output["KeyId"].startswith(f"arn:aws:kms:{OTHER_REGION}:")
    assert wrapping_keys(site) == 0


def test_standard_input(site: Site) -> None:
    """FILE may be standard input, from a file or a pipe, and fileb:// may stand before a name."""
    key, data = new_empty_key(site), os.urandom(32)
    names = {
        site.run("import-key", "-", "--key-id", key, "--no-expiry", *QUICK, stdin=data).json["KeyMaterialId"],
        site.run(
            "import-key", f"fileb://{private(site.folder / 'm', data)}", "--key-id", key, "--no-expiry", *QUICK
        ).json["KeyMaterialId"],
    }
    assert len(names) == 1
    message = site.run("import-key", "-", "--key-id", key, "--no-expiry", stdin=data[:31]).error
    assert message == "ValidationException: standard input has 31 bytes, but the key takes exactly 32."


def test_host_unwrap_is_not_the_default(site: Site, material: Path) -> None:
    """Where host_unwrap is on, an algorithm is used that needs none of it, unless another one is named."""
    text = site.config.read_text()
    assert "# host_unwrap = false" in text
    site.config.write_text(text.replace("# host_unwrap = false", "host_unwrap = true"))
    key = new_empty_key(site)
    output = site.run("import-key", material, "--key-id", key, "--no-expiry", *QUICK).json
    assert output["WrappingAlgorithm"] == "RSAES_OAEP_SHA_1"
    (attested,) = site.run("attest", "--key-id", key).json["BackingKeys"]
    assert attested["HostUnwrapped"] is False
    for algorithm in ON_HOST:
        named = ("--wrapping-algorithm", algorithm, *QUICK)
        again = site.run("import-key", material, "--key-id", key, "--no-expiry", *named).json
        assert again["KeyMaterialId"] == output["KeyMaterialId"]


@pytest.mark.parametrize("options", [(), ("--no-expiry", "--valid-to", SOON)])
def test_expiry_must_be_said(site: Site, material: Path, options: tuple[str, ...]) -> None:
    """import-key requires exactly one of an expiry date and --no-expiry."""
    result = site.run("import-key", material, "--key-id", "photos", *options)
    assert (result.status, result.stdout) == (2, "")
    assert "say either --valid-to WHEN" in result.stderr
    assert "or --no-expiry" in " ".join(result.stderr.split())


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "the past": (("--valid-to", "2020-01-31"), "ValidationException: The validTo date 2020-01-31 00:00:00 UTC must"),
    "no instant": (
        ("--valid-to", "soon"),
        "ValidationException: --valid-to: 'soon' is no date or time: write 2027-01-31, ",
    ),
    "not this token": (
        ("--no-expiry", "--wrapping-algorithm", "RSAES_OAEP_SHA_256"),
        "UnsupportedOperationException: This token cannot unwrap RSAES_OAEP_SHA_256 itself: it supports RSAES_OAEP_",
    ),
    "not safe": (
        ("--no-expiry", "--wrapping-algorithm", "RSAES_PKCS1_V1_5"),
        "UnsupportedOperationException: RSAES_PKCS1_V1_5 is not safe",
    ),
    "no algorithm": (("--no-expiry", "--wrapping-algorithm", "ROT13"), "ValidationException: 1 validation error"),
    "no type": (("--no-expiry", "--import-type", "ANY"), "ValidationException: 1 validation error"),
    "no description": (("--no-expiry", "--description", "<>"), "ValidationException: 1 validation error"),
    "not imported yet": (
        ("--no-expiry", "--import-type", "EXISTING_KEY_MATERIAL"),
        "IncorrectKeyMaterialException: No key material was ever imported",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_failure_leaves_nothing(site: Site, material: Path, why: str) -> None:
    """After a refusal at any step no object and no wrapping key is left, and the key is still PendingImport."""
    options, sentence = REFUSED[why]
    key = new_empty_key(site)
    before = objects(site)
    message = refused(site.run("import-key", material, "--key-id", key, *QUICK, *options), material)
    assert message.startswith(sentence)
    assert (objects(site), wrapping_keys(site)) == (before, 0)
    assert metadata(site, key)["KeyState"] == "PendingImport"


def test_other_material(site: Site, material: Path) -> None:
    """Other bytes than those that the key had are refused each time, and the key works on."""
    key = new_empty_key(site)
    site.run("import-key", material, "--key-id", key, "--no-expiry", *QUICK)
    before, other = objects(site), private(site.folder / "other.bin", os.urandom(32))
    for _ in range(5):  # one more than there may be wrapping keys
        message = refused(site.run("import-key", other, "--key-id", key, "--no-expiry", *QUICK), other)
        assert message.startswith("IncorrectKeyMaterialException: The key material is not the one that was imported")
    assert (objects(site), wrapping_keys(site)) == (before, 0)
    assert metadata(site, key)["KeyState"] == "Enabled"


def test_other_origin(site: Site, material: Path) -> None:
    """A key whose material the token generated accepts no import; this is reported before a wrong length."""
    key = site.new_key()
    material.write_bytes(b"short")
    before = site.checksum()
    message = refused(site.run("import-key", material, "--key-id", key, "--no-expiry"), material)
    assert message.startswith("UnsupportedOperationException: arn:aws:kms:eu-central-1:111122223333:key/")
    assert "has the origin AWS_KMS" in message
    assert "hsmkms create-key --origin EXTERNAL" in message
    assert site.checksum() == before


def test_pending_deletion(site: Site, material: Path) -> None:
    """A key that is to be deleted takes no material."""
    key = new_empty_key(site)
    site.run("schedule-key-deletion", "--key-id", key)
    message = refused(site.run("import-key", material, "--key-id", key, "--no-expiry"), material)
    assert message.startswith("KMSInvalidStateException: ")
    assert wrapping_keys(site) == 0


def test_unknown_key(site: Site, material: Path) -> None:
    """An unknown key is reported as every other command reports it."""
    message = refused(site.run("import-key", material, "--key-id", "nobody", "--no-expiry"), material)
    assert message.startswith("NotFoundException: ")


# -- what a file may be ---------------------------------------------------------------------------------------------

KEY = bytes(range(1, 33))
LENGTHS: dict[str, tuple[bytes, str]] = {
    "hex": (KEY.hex().encode(), "has 64 bytes, but the key takes exactly 32. It is hexadecimal text, and key material"),
    "hex, line end": (KEY.hex().encode() + b"\n", "has 65 bytes, but the key takes exactly 32. It is hexadecimal text"),
    "hex, capitals": (KEY.hex().upper().encode(), "`xxd -r -p "),
    "base64": (
        base64.b64encode(KEY),
        "has 44 bytes, but the key takes exactly 32. It is base64 text, and key material",
    ),
    "base64, line end": (base64.b64encode(KEY) + b"\r\n", "has 46 bytes, but the key takes exactly 32. It is base64"),
    "line end": (KEY + b"\n", "has 33 bytes, but the key takes exactly 32. It has a line end, which is no part"),
    "DOS line end": (KEY + b"\r\n", "has 34 bytes, but the key takes exactly 32. It has a line end"),
    "short": (KEY[:31], "has 31 bytes, but the key takes exactly 32."),
    "long": (KEY + b"?", "has 33 bytes, but the key takes exactly 32."),
    "64 bytes": (KEY * 2, "has 64 bytes, but the key takes exactly 32."),
    "empty": (b"", "has no bytes, so it is no key material."),
    "huge": (bytes(6145), "has more than 6144 bytes, so it is no key material."),
}


@pytest.mark.parametrize("what", LENGTHS)
def test_wrong_length(bare: Site, public: Path, what: str) -> None:
    """A file of another length is refused with its likely format, and nothing of it is shown."""
    data, sentence = LENGTHS[what]
    file = private(bare.folder / "file", data)
    wrap = ("--public-key", public, "--wrapping-algorithm", "RSAES_OAEP_SHA_1")
    message = bare.run("wrap-key-material", file, *wrap).error
    assert message.startswith(f"ValidationException: {file} ")
    assert sentence in message
    assert KEY.hex() not in message
    assert base64.b64encode(KEY).decode() not in message


def test_wrong_length_for_a_key(site: Site) -> None:
    """import-key says the same, before anything is made on the token or written into a database."""
    key, file = new_empty_key(site), private(site.folder / "file", LENGTHS["base64, line end"][0])
    before = site.checksum()
    message = refused(site.run("import-key", file, "--key-id", key, "--no-expiry"), file)
    assert message.startswith(
        f"ValidationException: {file} has 46 bytes, but the key takes exactly 32. It is base64 text"
    )
    assert site.checksum() == before


def test_buffer_is_overwritten(bare: Site) -> None:
    """What was read is overwritten once it was used, also where that failed."""
    file = private(bare.folder / "key", KEY)
    with material_files.material(str(file)) as buffer:
        assert buffer == KEY
    assert buffer == bytes(32)
    with pytest.raises(ValidationException), material_files.material(str(file)) as buffer:
        material_files.check_length("key", buffer, 64)
    assert buffer == bytes(32)


def test_advice_helps(bare: Site, public: Path) -> None:
    """The commands that the refusals advise make the file right, also where its name has a space."""
    wrap = ("--public-key", public, "--wrapping-algorithm", "RSAES_OAEP_SHA_1")
    for data in (base64.b64encode(KEY) + b"\n", KEY + b"\n"):
        file = private(bare.folder / "my key", data)
        message = bare.run("wrap-key-material", file, *wrap).error
        advice = message.partition("`")[2].partition("`")[0].replace("BINARY", "binary")
        subprocess.run(["bash", "-c", f"umask 077; {advice}"], check=True, cwd=bare.folder, timeout=SECONDS)
        assert (bare.folder / "binary").read_bytes() == KEY


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_open_file(bare: Site, public: Path, mode: int, warned: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A file that other users can read is used, with a warning on standard error."""
    file = private(bare.folder / "key", KEY)
    file.chmod(mode)
    result = bare.run("wrap-key-material", file, "--public-key", public, "--wrapping-algorithm", "RSAES_OAEP_SHA_1")
    assert result.status == 0
    expected = f"hsmkms: warning: {file} is open to other users (mode {mode:04o}): run `chmod 600 {file}`.\n"
    assert result.stderr == (expected if warned else "")


def test_text_of_the_right_length(bare: Site, public: Path) -> None:
    """32 bytes that are text (16 in hexadecimal, say, or a password) are taken, with a warning."""
    file = private(bare.folder / "key", KEY[:16].hex().encode())
    result = bare.run("wrap-key-material", file, "--public-key", public, "--wrapping-algorithm", "RSAES_OAEP_SHA_1")
    assert result.status == 0
    assert result.stderr.startswith(f"hsmkms: warning: {file} is text: key material is binary")
    assert KEY[:16].hex() not in result.stderr


def test_unreadable_files(bare: Site, public: Path) -> None:
    """A missing path, and one that is not a file, is named in the error."""
    wrap = ("--public-key", public, "--wrapping-algorithm", "RSAES_OAEP_SHA_1")
    message = bare.run("wrap-key-material", "missing", *wrap).error
    assert message == "ValidationException: missing cannot be read (No such file or directory)."
    assert bare.run("wrap-key-material", ".", *wrap).error == "ValidationException: . cannot be read (Is a directory)."
    wrap = ("--public-key", "missing", "--wrapping-algorithm", "RSAES_OAEP_SHA_1")
    message = bare.run("wrap-key-material", private(bare.folder / "key", KEY), *wrap).error
    assert message == "ValidationException: --public-key: missing cannot be read (No such file or directory)."


# -- wrap-key-material ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> RSAPrivateKey:
    """A key pair in place of a token's."""
    return generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def public(pair: RSAPrivateKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its public half, as DER."""
    file = tmp_path_factory.mktemp("public") / "public.der"
    file.write_bytes(pair.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return file


@pytest.mark.parametrize(("algorithm", "form"), list(zip(ON_DEVICE, ["DER", "PEM"], strict=True)))
def test_wrapped_elsewhere(site: Site, bare: Site, material: Path, algorithm: str, form: str) -> None:
    """Material that was wrapped on a machine without the installation is imported as it is."""
    key = new_empty_key(site)
    asked = ("--wrapping-algorithm", algorithm, "--wrapping-key-spec", "RSA_2048")
    parameters = site.run("get-parameters-for-import", "--key-id", key, *asked).json
    file = bare.folder / "public"
    file.write_bytes(FORMS[form](parameters["PublicKey"]))
    data = material.read_bytes()
    wrap = ("--public-key", file, "--wrapping-algorithm", algorithm)
    here = bare.run("wrap-key-material", private(bare.folder / "key", data), *wrap, "--out", "wrapped.bin")
    assert (here.status, here.stdout, here.stderr) == (0, "", "")
    bring = ("--import-token", parameters["ImportToken"], "--expiration-model", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    wrapped = f"fileb://{bare.folder}/wrapped.bin"
    output = site.run("import-key-material", "--key-id", key, *bring, "--encrypted-key-material", wrapped).json
    again = site.run("import-key", material, "--key-id", key, "--no-expiry", *QUICK).json
    assert again["KeyMaterialId"] == output["KeyMaterialId"]


FORMS: dict[str, Any] = {
    "DER": base64.b64decode,
    "PEM": lambda text: b"-----BEGIN PUBLIC KEY-----\n%s-----END PUBLIC KEY-----\n" % _lines(text),
}


def _lines(text: str) -> bytes:
    return b"".join(text[start : start + 64].encode() + b"\n" for start in range(0, len(text), 64))


def test_base64_on_standard_output(site: Site, bare: Site, material: Path) -> None:
    """Without --out the wrapped material is base64 on one line, as --encrypted-key-material takes it."""
    key = new_empty_key(site)
    asked = ("--wrapping-algorithm", "RSAES_OAEP_SHA_1", "--wrapping-key-spec", "RSA_2048")
    parameters = site.run("get-parameters-for-import", "--key-id", key, *asked).json
    (bare.folder / "public").write_text(parameters["PublicKey"])
    result = bare.run(
        "wrap-key-material", material, "--public-key", "public", "--wrapping-algorithm", "RSAES_OAEP_SHA_1"
    )
    assert (result.status, result.stderr, result.stdout.count("\n")) == (0, "", 1)
    assert len(base64.b64decode(result.stdout, validate=False)) == 256
    bring = ("--import-token", parameters["ImportToken"], "--expiration-model", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    done = site.run("import-key-material", "--key-id", key, *bring, "--encrypted-key-material", result.stdout.strip())
    assert done.json["KeyMaterialId"]


def test_file_is_private_and_new(bare: Site, public: Path) -> None:
    """--out makes a file for its owner alone, whatever the umask, and never overwrites one or follows a link."""
    file = private(bare.folder / "key", KEY)
    wrap = ("wrap-key-material", file, "--public-key", public, "--wrapping-algorithm", "RSAES_OAEP_SHA_256", "--out")
    before = os.umask(0)
    try:
        assert bare.run(*wrap, "wrapped").status == 0
    finally:
        os.umask(before)
    made = bare.folder / "wrapped"
    assert (made.stat().st_mode & 0o777, made.stat().st_size) == (0o600, 256)
    content = made.read_bytes()
    message = bare.run(*wrap, "wrapped").error
    assert message == "ValidationException: --out: wrapped exists already: name a file that does not."
    assert made.read_bytes() == content
    (bare.folder / "link").symlink_to("elsewhere")
    assert "exists already" in bare.run(*wrap, "link").error
    assert not (bare.folder / "elsewhere").exists()
    message = bare.run(*wrap, "no/folder").error
    assert message == "ValidationException: --out: no/folder cannot be created (No such file or directory)."


def test_full_disk(bare: Site, public: Path) -> None:
    """Where the wrapped material finds no room, an error says so, and no half file is left."""
    file = private(bare.folder / "key", KEY)
    done = subprocess.run(
        [
            *("bash", "-c", 'trap "" XFSZ; ulimit -f 0; exec "$@"', "bash", BIN / "hsmkms", "wrap-key-material", file),
            *("--public-key", public, "--wrapping-algorithm", "RSAES_OAEP_SHA_1", "--out", "wrapped"),
        ],
        capture_output=True,
        check=False,
        timeout=SECONDS,
        cwd=bare.folder,
        env=bare.environment(PYTHONDONTWRITEBYTECODE="1"),
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "hsmkms: ValidationException: --out: wrapped cannot be written (File too large).\n"
    assert not (bare.folder / "wrapped").exists()


def test_any_length(bare: Site, public: Path) -> None:
    """--any-length is for keys of other kinds: their material is wrapped as it is, if the algorithm takes it."""
    file = private(bare.folder / "key", os.urandom(1217))
    wrap = ("wrap-key-material", file, "--public-key", public, "--wrapping-algorithm")
    assert "If it is no symmetric key, say --any-length." in bare.run(*wrap, "RSA_AES_KEY_WRAP_SHA_256").error
    done = bare.run(*wrap, "RSA_AES_KEY_WRAP_SHA_256", "--any-length")
    assert (done.status, len(base64.b64decode(done.stdout))) == (0, 256 + 1232)
    message = bare.run(*wrap, "RSAES_OAEP_SHA_256", "--any-length").error
    assert "takes 190 bytes, and the key material has 1217" in message


def test_wrong_arguments(bare: Site, public: Path) -> None:
    """An unknown algorithm, and a file that is no public key, are refused by name."""
    file = private(bare.folder / "key", KEY)
    message = bare.run(
        "wrap-key-material", file, "--public-key", public, "--wrapping-algorithm", "RSAES_PKCS1_V1_5"
    ).error
    assert message.startswith(
        "ValidationException: 'RSAES_PKCS1_V1_5' is none of the wrapping algorithms: use one of RSA"
    )
    message = bare.run(
        "wrap-key-material", file, "--public-key", file, "--wrapping-algorithm", "RSAES_OAEP_SHA_1"
    ).error
    assert message.startswith("ValidationException: The public key cannot be read: give the PublicKey of get-par")


def test_needs_nothing_of_an_installation(bare: Site, public: Path) -> None:
    """Wrapping loads neither configuration nor database nor token, and searches for none."""
    file = private(bare.folder / "key", KEY)
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print([each for each in sys.modules if each in "
        "('sqlalchemy', 'pkcs11', 'alembic', 'hsmkms.config.settings', 'hsmkms.wiring.core')], file=sys.stderr))\n"
        "from hsmkms.cli.main import main\n"
        f"sys.argv = ['hsmkms', 'wrap-key-material', {str(file)!r}, '--public-key', {str(public)!r},"
        " '--wrapping-algorithm', 'RSAES_OAEP_SHA_1']\n"
        "main()\n"
    )
    (bare.folder / "hsmkms.toml").write_text("nonsense")
    done = subprocess.run(
        [BIN / "python", "-c", code],
        capture_output=True,
        check=False,
        timeout=SECONDS,
        cwd=bare.folder,
        env=bare.environment(HSMKMS_CONFIG="nowhere.toml"),
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert len(base64.b64decode(done.stdout)) == 256


# -- other kinds of keys --------------------------------------------------------------------------------------------


def test_private_keys_and_hmac_keys(site: Site) -> None:
    """RSA and ECC keys take PEM or DER, HMAC keys bytes of their length; what is neither is refused by name."""
    made = generate_ec_key(SECP256R1())
    pem = private(site.folder / "key.pem", made.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, PLAIN))
    key = new_empty_key(site, "--key-spec", "ECC_NIST_P256", "--key-usage", "SIGN_VERIFY")
    output = site.run("import-key", pem, "--key-id", key, "--no-expiry", *QUICK).json
    assert list(output) == ["KeyId", "WrappingAlgorithm"]
    assert output["WrappingAlgorithm"] == "RSA_AES_KEY_WRAP_SHA_1"
    public = site.run("get-public-key", "--key-id", key).json["PublicKey"]
    public_key = made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert base64.b64decode(public) == public_key
    wrong = private(site.folder / "wrong.pem", b"-----BEGIN PRIVATE KEY-----\nno\n-----END PRIVATE KEY-----\n")
    assert "cannot be read as a private key" in refused(
        site.run("import-key", wrong, "--key-id", key, "--no-expiry"), wrong
    )
    mac = new_empty_key(site, "--key-spec", "HMAC_384", "--key-usage", "GENERATE_VERIFY_MAC")
    short = private(site.folder / "short.bin", os.urandom(32))
    assert "exactly 48" in refused(site.run("import-key", short, "--key-id", mac, "--no-expiry"), short)
    site.run("import-key", private(site.folder / "mac.bin", os.urandom(48)), "--key-id", mac, "--no-expiry", *QUICK)
    assert metadata(site, mac)["KeyState"] == "Enabled"


def test_a_token_that_imports_nothing() -> None:
    """The reason is named, and so what to do: the token itself may well be able to unwrap."""
    operator = Mock(import_algorithms=list, import_refusal=lambda: "the module crashes: set import.accept_crashes")
    with pytest.raises(UnsupportedOperationException, match=r"this token: .* set import\.accept_crashes\."):
        import_key._strongest(Mock(operator=operator), KeySpec.SYMMETRIC_DEFAULT)
    operator.import_refusal = str
    with pytest.raises(UnsupportedOperationException, match="token-check"):
        import_key._strongest(Mock(operator=operator), KeySpec.SYMMETRIC_DEFAULT)
