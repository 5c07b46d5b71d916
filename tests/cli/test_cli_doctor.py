"""doctor: each check finds the fault it is for and says what to do, and a warning is not a fault."""

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cli_site import Site
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsmkms.cli.commands import doctor_expiry
from hsmkms.cli.commands.check_context import CheckContext, Outcome
from hsmkms.cli.commands.doctor_expiry import severity
from hsmkms.config.settings import PinSettings, ServeSettings, Settings, TokenSettings


def tell(site: Site, name: str, value: str) -> None:
    """Set a setting, which stands in the configuration as a comment."""
    lines = site.config.read_text().splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith(f"# {name} = ")]
    lines[at] = f"{name} = {value}"
    site.config.write_text("\n".join(lines))


def certificate(file: Path, *, begin: int, end: int) -> None:
    """A certificate that is valid between two days, counted from today."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kms")])
    days = [datetime.now(UTC) + timedelta(days=each) for each in (begin, end)]
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), *days)
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def certified(begin: int, end: int) -> Callable[[Site], None]:
    """The server has such a certificate."""

    def give(site: Site) -> None:
        certificate(site.data / "tls.pem", begin=begin, end=end)
        (site.data / "tls.pem").chmod(0o600)
        (site.data / "tls.key").touch(mode=0o600)
        tell(site, "certificate", '"tls.pem"')
        tell(site, "private_key", '"tls.key"')

    return give


def no_certificate(site: Site) -> None:
    """The certificate is no certificate."""
    certified(0, 1)(site)
    (site.data / "tls.pem").write_text("nothing")


def open_file(site: Site) -> None:
    """Others may read a file."""
    (site.data / "so-pin").chmod(0o644)


def leftover(site: Site) -> None:
    """A restore was killed."""
    (site.data / ".restore-1234").mkdir()


def much_used(site: Site) -> None:
    """A key material has encrypted very often."""
    material = site.run("create-key").json["KeyMetadata"]["CurrentKeyMaterialId"]
    with closing(sqlite3.connect(site.data / "log.db")) as connection, connection:
        connection.execute("INSERT INTO encryption_count VALUES (?, ?)", (material, 2**32 * 95 // 100))


def later_changes(site: Site) -> None:
    """The database was changed by a clock that was ten days ahead."""
    site.new_key()
    moved = "UPDATE regional_key SET creation_date = creation_date + 864000000000"
    with closing(sqlite3.connect(site.data / "meta.db")) as connection, connection:
        connection.execute(moved)
        connection.execute("UPDATE key SET creation_date = creation_date + 864000000000")
        connection.execute("UPDATE material SET created_at = created_at + 864000000000")
    site.run("accept-store", "--yes")


def damaged_page(site: Site) -> None:
    """A page that nothing reads at the start is rubbish."""
    with closing(sqlite3.connect(site.data / "meta.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_alias_key_id'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with (site.data / "meta.db").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xa5" * size)


def open_seals(site: Site) -> None:
    """The seals are also kept in a folder that every user may write to."""
    place = site.folder / "share"
    place.mkdir()
    place.chmod(0o777)
    site.config.write_text(site.config.read_text().replace("# seal_file = ", f'seal_file = "{place}/seals"\n# '))


def open_folder(site: Site) -> None:
    """Make the folder of tokens writable for every user of the machine."""
    (site.data / "softhsm" / "tokens").chmod(0o777)


def foreign_file(site: Site) -> None:
    """Make a private file of the installation belong to another user."""
    os.chown(site.data / "so-pin", STRANGER, -1)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root is refused at once")
STRANGER = 54321

CASES = [
    (certified(-400, -30), "certificate", "wrong", "so clients refuse it"),
    (certified(1, 30), "certificate", "wrong", "so clients refuse it"),
    (certified(-30, 20), "certificate", "warning", "put a new one there in time"),
    (certified(-30, 200), "certificate", "ok", "serve.certificate is valid from"),
    (no_certificate, "certificate", "wrong", "cannot be read as PEM"),
    (open_file, "files", "wrong", "so-pin is open to other users (mode 0644): run `chmod go= "),
    (open_folder, "files", "wrong", "tokens can be changed by another user: "),
    pytest.param(foreign_file, "files", "wrong", f"so-pin belongs to {STRANGER}", marks=needs_root),
    pytest.param(
        open_seals,
        "files",
        "warning",
        "seals can be changed by another user, so it proves nothing: ",
        marks=not_root,
    ),
    (leftover, "files", "warning", "an interrupted backup or restore has left "),
    (much_used, "encryption limits", "warning", "1 key materials have used half"),
    (much_used, "due work", "warning", "steps that are due: 1 (rotation): run `hsmkms maintain`"),
    (later_changes, "clock", "wrong", "set the clock right"),
    (damaged_page, "databases", "wrong", "meta.db is damaged"),
]


@pytest.mark.parametrize(("do", "check", "outcome", "words"), CASES)
def test_checks(site: Site, do: Callable[[Site], None], check: str, outcome: str, words: str) -> None:
    """A fault gives status 1, a warning does not, and both say what to do; other checks are unaffected."""
    do(site)
    result = site.run("doctor", "--query", f"Checks[?Check=='{check}'].[Outcome, Detail][]", "--output", "text")
    printed, _, detail = result.stdout.rstrip("\n").partition("\t")
    assert (result.status, printed) == (1 if outcome == "wrong" else 0, outcome), result
    assert words in detail
    others = site.run("doctor", "--query", f"Checks[?Check!='{check}' && Outcome=='wrong'].Check", "--output", "text")
    assert others.stdout.strip() == ("rows" if do is damaged_page else "")  # an index that is rubbish hides rows


def test_wrong_pin_by_another_program(site: Site) -> None:
    """A wrong PIN that another program sent since the last login is reported."""
    site.new_key()
    site.program("give_wrong_pin")
    query = "Checks[?Check=='PIN'].[Outcome, Detail][]"
    result = site.run("doctor", "--query", query, "--output", "text")
    assert result.status == 0
    assert result.stdout.startswith("warning\ta wrong PIN was sent to the token since the last login")
    assert site.run("doctor", "--query", query, "--output", "text").stdout.startswith("ok\t")


def test_a_fault_is_told_once(site: Site) -> None:
    """A fault that keeps several checks from running is told by the first of them; the others name that check."""
    (site.data / "pin").unlink()
    rows = json.loads(site.run("doctor").stdout)["Checks"]
    details = [each["Detail"] for each in rows]
    assert sum("the PIN file" in each for each in details) == 1
    skipped = [each for each in rows if each["Outcome"] == "not checked"]
    (named,) = {each["Detail"] for each in skipped}
    (first,) = [each for each in rows if "the PIN file" in each["Detail"]]
    assert named == f"see the check {first['Check']!r}, which names what prevents this one"
    assert (first["Outcome"], len(skipped) > 3) == ("wrong", True)


def test_imports_are_not_tried(site: Site) -> None:
    """Generating the key pairs that a trial of imports needs takes longer than all checks, and no check needs one."""
    (record,) = site.data.glob("refused-material-*")
    record.unlink()
    assert site.run("doctor").status == 0
    assert not record.exists()


@pytest.mark.parametrize(
    ("left", "outcome"),
    [
        (timedelta(days=31), Outcome.OK),
        (timedelta(days=30), Outcome.WARNING),
        (timedelta(days=7, seconds=1), Outcome.WARNING),
        (timedelta(days=7), Outcome.URGENT),
        (timedelta(days=1), Outcome.WRONG),
    ],
)
def test_severities(left: timedelta, outcome: Outcome) -> None:
    """The less time is left, the more severe it is."""
    assert severity(left) is outcome


@pytest.mark.parametrize(
    ("ends", "outcome", "words"),
    [
        ((5,), "urgent", "put a new one there in time"),
        ((1,), "wrong", "put a new one there in time"),
        ((200, 6), "urgent", "(the 2 certificates in it together): put a new one there in time"),
    ],
)
def test_certificates(tmp_path: Path, ends: tuple[int, ...], outcome: str, words: str) -> None:
    """The severity is that of the time that is left; of several certificates the first one that expires decides."""
    file = tmp_path / "tls.pem"
    chain = b""
    for days in ends:
        certificate(file, begin=-30, end=days)
        chain += file.read_bytes()
    file.write_bytes(chain)
    token = TokenSettings(label="any", pin=PinSettings())
    served = ServeSettings(certificate=file)
    settings = Settings(account_id="111122223333", regions=("eu-central-1",), token=token, serve=served)
    with ExitStack() as exits:
        verdict = doctor_expiry.certificate(CheckContext(settings, exits))
    assert (verdict.outcome, words in verdict.detail) == (outcome, True)


def test_material_and_deletions(site: Site) -> None:
    """Imported material that expires and keys awaiting deletion are named by their dates, with what can be done."""
    query = "Checks[?Check=='expiring material' || Check=='awaiting deletion'].[Outcome, Detail]"
    key, leaving = site.new_key("--origin", "EXTERNAL"), site.new_key()
    site.run("create-alias", "--alias-name", "leaving", "--target-key-id", leaving)
    site.run("schedule-key-deletion", "--key-id", leaving, "--pending-window-in-days", "7", "--yes")
    material = site.folder / "material.bin"
    material.write_bytes(bytes(range(32)))
    for hours, outcome, status in ((12, "wrong", 1), (24 * 20, "warning", 0)):
        date = datetime.now(UTC) + timedelta(hours=hours)
        valid = ("--valid-to", f"{date:%Y-%m-%dT%H:%M:%SZ}", "--wrapping-key-spec", "RSA_2048")
        assert site.run("import-key", material, "--key-id", key, *valid).status == 0
        found = site.run("doctor", "--query", query)
        assert found.status == status
        (of_material, expiring), (of_deletion, awaiting) = json.loads(found.stdout)
        assert (of_material, of_deletion) == (outcome, "warning")
        assert expiring.startswith(
            f"imported key material expires: {key} (eu-central-1) on {date:%Y-%m-%d}: import the"
        )
        assert awaiting.startswith("keys are awaiting deletion: alias/leaving (eu-central-1) on 20")
        assert awaiting.endswith("`hsmkms cancel-key-deletion` keeps a key")
