"""The samples in conf/ lead to a working installation by the commands in their own comments.

Here with other places, and as the user who runs the tests; scripts/install-check follows all of them as root, on a bare
machine, to the running service.
"""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import install_samples
import pytest
from cli_site import Site
from install_samples import MODULE, PIN, SO_PIN

from hsmkms.config import settings as config
from hsmkms.config.pin_credentials import credential_names

CONF = Path(__file__).parent.parent.parent / "conf"
SAMPLES = sorted(install_samples.SAMPLES)


def credentials(drop_in: Path) -> list[tuple[str, str]]:
    """The names and files of the credentials that a drop-in passes, after it has dropped those of the unit."""
    lines = re.findall(r"(?m)^LoadCredential(?:Encrypted)?=(.*)$", drop_in.read_text())
    assert lines.pop(0) == ""
    return [(name, path) for name, _, path in (each.partition(":") for each in lines)]


def placed(site: Site, sample: Path) -> str:
    """The commands of a sample for the test's own folder, without those that only root can run."""
    text = install_samples.commands(sample)
    text = re.sub(r"(?m)^(?:apt-get|getent) .*\n", "", text)
    text = text.replace(" -o hsmkms -g hsmkms", "").replace("runuser -u hsmkms -- ", "")
    text = text.replace("/etc/systemd/system", f"{site.folder}/units")
    text = text.replace("/etc/hsmkms", str(site.folder / "etc")).replace("/var/lib/hsmkms", str(site.data))
    return re.sub(r"(?m)^scripts/install$", f"hsmkms init --config {site.folder}/etc/hsmkms.toml", text)


def with_samples(site: Site) -> Path:
    """Copy the samples, for the test's own places; their folder."""
    shutil.copytree(CONF, site.folder / "conf")
    for file in (site.folder / "conf").glob("*/*"):
        if file.suffix in {".toml", ".conf"}:
            text = file.read_text().replace("/etc/hsmkms", str(site.folder / "etc"))
            file.write_text(text.replace("/var/lib/hsmkms", str(site.data)))
    return site.folder / "conf"


def test_softhsm(bare: Site) -> None:
    """The comments make a token that asks for its PINs, hand its PIN over, and create the installation on it."""
    conf = with_samples(bare)
    (bare.folder / "pin").write_text(f"{PIN}\n")
    install_samples.follow(bare.folder, placed(bare, conf / "softhsm/hsmkms.toml"), bare.environment())
    made = bare.run("create-key", "--config", bare.folder / "etc/hsmkms.toml").json["KeyMetadata"]
    assert made["Arn"].startswith("arn:aws:kms:eu-central-1:111122223333:key/")


def test_two_tokens(bare: Site) -> None:
    """The comments pass both PINs, and the installation uses both tokens."""
    conf = with_samples(bare)
    serials, softhsm = two_vendors(bare)
    install_samples.replace(conf / "two-tokens/hsmkms.toml", {"0123456789": serials[0], "9876543210": serials[1]})
    for name in ("old-pin", "new-pin"):
        (bare.folder / name).write_text(f"{PIN}\n")
    environment = bare.environment(SOFTHSM2_CONF=softhsm)
    install_samples.follow(bare.folder, placed(bare, conf / "two-tokens/hsmkms.toml"), environment)
    file = str(bare.folder / "etc/hsmkms.toml")
    listed = bare.run("list-tokens", "--query", "Tokens[].Label", HSMKMS_CONFIG=file, SOFTHSM2_CONF=softhsm).json
    assert sorted(listed) == ["new-hsm", "old-hsm"]
    (names, _) = zip(*credentials(bare.folder / "units/hsmkms.service.d/pins.conf"), strict=True)
    assert [credential_names(config.load(Path(file)), each)[0] for each in config.load(Path(file)).tokens] == [*names]


def two_vendors(site: Site) -> tuple[list[str], str]:
    """Put two modules where the sample says, with a token for each; their serials, and SoftHSM's configuration."""
    softhsm, tokens = site.folder / "softhsm2.conf", site.folder / "tokens"
    softhsm.write_text(f"directories.tokendir = {tokens}\n")
    tokens.mkdir(mode=0o700)
    serials = []
    sample = site.folder / "conf/two-tokens/hsmkms.toml"
    for label in ("old-hsm", "new-hsm"):
        module = site.folder / label / "libpkcs11.so"
        module.parent.mkdir()
        shutil.copy(MODULE, module)
        install_samples.replace(sample, {f"/opt/{label[:3]}-vendor/lib/libpkcs11.so": str(module)})
        make = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN]
        subprocess.run(make, env=site.environment(SOFTHSM2_CONF=str(softhsm)), check=True, capture_output=True)
        serials.append(install_samples.serial_of(label, show_slots(site, softhsm)))
    return serials, str(softhsm)


def show_slots(site: Site, softhsm: Path) -> str:
    """What softhsm2-util says about all tokens."""
    environment = site.environment(SOFTHSM2_CONF=str(softhsm))
    return subprocess.run(
        ["softhsm2-util", "--show-slots"], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_network_hsm() -> None:
    """The credential that the comments encrypt is the one that the drop-in decrypts and the PIN command prints."""
    text = install_samples.commands(CONF / "network-hsm/hsmkms.toml")
    ((name, file),) = credentials(CONF / "network-hsm/pin.conf")
    assert f"systemd-creds encrypt --name={name} ./pin {file}\n" in text
    command = tomllib.loads((CONF / "network-hsm/hsmkms.toml").read_text())["token"]["pin"]["command"]
    assert command == ["systemd-creds", "cat", name]


@pytest.mark.parametrize("sample", SAMPLES)
def test_comments(sample: str) -> None:
    """They name files that are there, put the configuration where hsmkms looks for it, and end with scripts/install."""
    text = install_samples.commands(CONF / sample / "hsmkms.toml")
    assert text.splitlines()[-1] == "scripts/install"
    named = re.findall(r"conf/\S+", text)
    assert f"conf/{sample}/hsmkms.toml" in named
    assert all((CONF.parent / each).is_file() for each in named)
    assert re.search(rf"(?m)^install -D -m 644 -t /etc/hsmkms conf/{sample}/hsmkms\.toml", text)


def test_every_sample_is_followed() -> None:
    """Each folder with a configuration is one whose comments are followed."""
    assert sorted(each.parent.name for each in CONF.glob("*/hsmkms.toml")) == SAMPLES
