"""The guide's page on import: its commands do what it says. `test_cli_guide_pages.py` runs them as they are printed."""

import re
import subprocess

import pytest
from cli_site import SECONDS, Site
from pages import GUIDE, blocks, commands, section, steps

PAGE = GUIDE / "import.md"


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """The commands of the page, with wrapping keys of 2048 bits: the token takes seconds for each of 4096."""
    spec = ("hsmkms import-key ", "hsmkms import-key --wrapping-key-spec RSA_2048 ")
    return [command.replace("RSA_4096", "RSA_2048").replace(*spec) for command in commands(PAGE.read_text())]


def test_section_is_there(printed: list[str]) -> None:
    """The page shows both commands for people, all three of the API's steps, and both ways of OpenSSL."""
    output = "\n".join(printed)
    for word in ("import-key ", "wrap-key-material ", "get-parameters-for-import ", "import-key-material "):
        assert f"hsmkms {word}" in output
    assert "openssl pkeyutl" in output
    assert "openssl enc -id-aes256-wrap-pad" in output


def run(site: Site, lines: list[str]) -> list[str]:
    """Run commands in one shell, in which each must succeed in silence; the KeyMaterialIds that were answered."""
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -euo pipefail", *lines])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=3 * SECONDS,
        cwd=site.folder,
        env=site.environment(),
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return re.findall(r'"KeyMaterialId": "([0-9a-f]{64})"', done.stdout)


def test_every_way_brings_the_same(site: Site, printed: list[str]) -> None:
    """All commands succeed in one shell, every way brings the same material, and the key works with it."""
    names = run(site, [*printed, 'printf %s "$key" > key.txt'])
    symmetric = [each for each in printed if each.startswith("hsmkms import-key") and "$key" in each]
    assert len(names) == len(symmetric) == 4
    assert len(set(names)) == 1
    key = (site.folder / "key.txt").read_text()
    metadata = site.run("describe-key", "--key-id", key).json["KeyMetadata"]
    assert (metadata["KeyState"], metadata["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    sealed = site.run("encrypt", "--key-id", key, "--plaintext", "aGVsbG8=").json["CiphertextBlob"]
    assert site.run("decrypt", "--ciphertext-blob", sealed).json["Plaintext"] == "aGVsbG8="
    assert not (site.folder / "aes.bin").exists()
    assert "PRIVATE KEY" in (site.folder / "signing.pem").read_text()
    assert "KeyMaterialId" not in (site.folder / "imported.json").read_text()


def test_both_wrap_the_same(site: Site, printed: list[str]) -> None:
    """What wrap-key-material makes in place of OpenSSL is imported as the same material."""
    wrapping = next(index for index, each in enumerate(printed) if "wrap-key-material" in each)
    bringing = printed[wrapping + 1]
    assert "fileb://wrapped.bin" in bringing
    names = run(site, [*printed[: wrapping + 1], bringing.replace("wrapped.bin", "wrapped-by-hsmkms.bin")])
    assert len(names) == 3
    assert len(set(names)) == 1


def test_table_as_printed() -> None:
    """The table below import-key names the members of its answer, and an algorithm that SoftHSM does."""
    text = PAGE.read_text()
    shown = re.findall(r"^│ (\w+) +│ (\S+)", text, re.MULTILINE)
    assert [name for name, _ in shown] == ["KeyId", "KeyMaterialId", "WrappingAlgorithm", "ValidTo"]
    assert dict(shown)["WrappingAlgorithm"] == "RSAES_OAEP_SHA_1"


def test_reader_of_blocks() -> None:
    """Commands are separated from their output, continued lines are joined, and failures are expected as shown."""
    text = "\n## A\n```console\n$ one \\\n    two\nprinted\n$ three\n```\n$ no\n"
    text += "## B\n```console\n$ four  # status 3\n```\n"
    text += "```sh\n$ five\n```\n```console\n$ six\nhsmkms: NotFoundException: nothing\n```\n"
    assert commands(section(text, "A")) == ["one \\\n    two", "three"]
    assert section(text, "C") == ""
    assert blocks(text, "sh") == ["$ five\n"]
    assert [(step.output, step.status) for step in steps(text)] == [
        (["printed"], 0),
        ([], 0),
        ([], 3),
        (["hsmkms: NotFoundException: nothing"], None),
    ]
