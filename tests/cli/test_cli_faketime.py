"""Whole processes with the clock moved: rotation, keys of services, wrapping keys, expiry and deletion, day by day."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cli_site import BIN, SECONDS, Result, Site

FAKETIME = "/usr/bin/faketime"
DAY = 24 * 3600
WRAP = Path(__file__).parent / "programs" / "wrap_material.py"


def at(site: Site, offset: int, *arguments: object) -> Result:
    """Run a command ``offset`` seconds from now."""
    command = [FAKETIME, "-f", f"+{offset}s", BIN / "hsmkms", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=site.folder, env=site.environment(), capture_output=True, timeout=SECONDS, check=False
    )
    return Result(status=done.returncode, stdout=done.stdout.decode(), stderr=done.stderr.decode())


def steps(site: Site, offset: int) -> list[tuple[str, str]]:
    """What a sweep did at that time: (kind, outcome)."""
    report = json.loads(at(site, offset, "maintain").stdout)
    return [(each["Kind"], each["Outcome"]) for each in report["Steps"]]


def state(site: Site, offset: int, key_id: str) -> str:
    """The key's state at that time."""
    answer: str = at(site, offset, "describe-key", "--key-id", key_id).json["KeyMetadata"]["KeyState"]
    return answer


def seal(site: Site, key_id: str) -> str:
    """Encrypt something now; the ciphertext."""
    sealed: str = site.run("encrypt", "--key-id", key_id, "--plaintext", "c2VjcmV0").json["CiphertextBlob"]
    return sealed


def opens(site: Site, offset: int, sealed: str) -> bool:
    """Whether the ciphertext can be decrypted at that time."""
    return at(site, offset, "decrypt", "--ciphertext-blob", sealed).status == 0


def test_rotation_after_365_days(site: Site) -> None:
    """A sweep rotates the key after 365 days and not an hour before; what it made still decrypts."""
    key_id = site.new_key()
    site.run("enable-key-rotation", "--key-id", key_id)
    sealed = seal(site, key_id)
    assert steps(site, 365 * DAY - 3600) == []
    assert steps(site, 365 * DAY + 60) == [("rotation", "done")]
    assert opens(site, 365 * DAY + 120, sealed)
    listed = at(site, 365 * DAY + 120, "list-key-rotations", "--key-id", key_id).json["Rotations"]
    assert [each["RotationType"] for each in listed] == ["AUTOMATIC"]
    held = site.run("maintain")
    assert held.status == 1
    assert "set the clock right" in json.loads(held.stdout)["Doubt"]


def test_service_key_after_1095_days(site: Site) -> None:
    """A key of a service rotates after 1095 days and not a day before."""
    settings = site.config.read_text()
    site.config.write_text(settings.replace('# services = ["s3"]', 'services = ["s3"]'))
    sealed = seal(site, "alias/aws/s3")
    assert steps(site, 1094 * DAY) == []
    assert steps(site, 1095 * DAY + 60) == [("rotation", "done")]
    assert opens(site, 1095 * DAY + 120, sealed)


def parameters(site: Site, key_id: str) -> dict[str, Any]:
    """Parameters for an import, and material that is wrapped with them."""
    answer: dict[str, Any] = site.run(
        "get-parameters-for-import",
        *("--key-id", key_id, "--wrapping-algorithm", "RSAES_OAEP_SHA_1", "--wrapping-key-spec", "RSA_2048"),
    ).json
    return answer


def options(site: Site, key_id: str) -> list[str]:
    """The options that import 32 bytes, which do not expire."""
    told = parameters(site, key_id)
    wrapped = subprocess.run(
        [sys.executable, WRAP, told["PublicKey"]], check=True, capture_output=True, text=True, timeout=SECONDS
    ).stdout.strip()
    return [
        *("--key-id", key_id, "--import-token", told["ImportToken"], "--encrypted-key-material", wrapped),
        *("--expiration-model", "KEY_MATERIAL_DOES_NOT_EXPIRE"),
    ]


def test_wrapping_key_for_24_hours(site: Site) -> None:
    """A day after the parameters an import is refused and a sweep destroys the wrapping key; before it works."""
    key_id = site.new_key("--origin", "EXTERNAL")
    wanted = options(site, key_id)
    late = at(site, DAY, "import-key-material", *wanted)
    assert late.status == 1
    assert "ExpiredImportTokenException" in late.stderr
    assert at(site, DAY - 3600, "import-key-material", *wanted).status == 0
    assert steps(site, DAY + 60) == [("wrapping key", "done")]


def test_material_until_valid_to(site: Site) -> None:
    """At ValidTo the key ceases to work without any sweep, and stays so when the clock is set back."""
    key_id = site.new_key("--origin", "EXTERNAL")
    material = site.folder / "material"
    material.touch(mode=0o600)
    material.write_bytes(os.urandom(32))
    until = subprocess.run(["date", "-u", "-d", "+10 days", "+%FT%TZ"], check=True, capture_output=True, text=True)
    assert site.run("import-key", material, "--key-id", key_id, "--valid-to", until.stdout.strip()).status == 0
    sealed = seal(site, key_id)
    assert opens(site, 10 * DAY - 3600, sealed)
    assert not opens(site, 10 * DAY + 60, sealed)
    assert state(site, 0, key_id) == "PendingImport"
    assert not opens(site, 0, sealed)
    assert ("destruction", "done") in steps(site, 10 * DAY + 120)


def test_deletion_after_the_waiting_period(site: Site) -> None:
    """The key is destroyed after its 7 days and not an hour before."""
    key_id = site.new_key()
    sealed = seal(site, key_id)
    assert site.run("schedule-key-deletion", "--key-id", key_id, "--pending-window-in-days", "7").status == 0
    assert steps(site, 7 * DAY - 3600) == []
    assert state(site, 7 * DAY - 3600, key_id) == "PendingDeletion"
    assert steps(site, 7 * DAY + 60) == [("deletion", "done")]
    gone = at(site, 7 * DAY + 120, "describe-key", "--key-id", key_id)
    assert "NotFoundException" in gone.stderr
    assert not opens(site, 7 * DAY + 120, sealed)
