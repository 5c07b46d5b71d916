"""An installation in trouble: every command says in one line what is wrong and what to do, and changes nothing."""

import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing

import pytest
from cli_site import BIN, Site, damage

UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")


def missing_database(site: Site) -> None:
    """Both databases are gone."""
    for path in site.data.glob("*.db*"):
        path.unlink()


def missing_log(site: Site) -> None:
    """Only the second database is gone."""
    (site.data / "log.db").unlink()


def corrupt_database(site: Site) -> None:
    """The pages after the first are rubbish."""
    damage(site.data / "meta.db")


def no_database(site: Site) -> None:
    """The database is something else."""
    (site.data / "meta.db").write_bytes(b"dear diary, " * 1000)


def newer_database(site: Site) -> None:
    """The database has a revision that this program does not know."""
    with closing(sqlite3.connect(site.data / "meta.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'meta_9999'")


def open_database(site: Site) -> None:
    """Others may read the database."""
    (site.data / "meta.db").chmod(0o644)


def missing_module(site: Site) -> None:
    """The module is gone."""
    text = site.config.read_text()
    line = next(each for each in text.splitlines() if each.startswith("module = "))
    site.config.write_text(text.replace(line, 'module = "/nowhere/libhsm.so"'))


def missing_token(site: Site) -> None:
    """The configuration names a token that is not there."""
    site.config.write_text(site.config.read_text().replace('serial = "', 'serial = "0'))


def missing_pin(site: Site) -> None:
    """The PIN file is gone."""
    (site.data / "pin").unlink()


def open_pin(site: Site) -> None:
    """Others may read the PIN file."""
    (site.data / "pin").chmod(0o644)


FAULTS: list[tuple[Callable[[Site], None], str, str]] = [
    (missing_database, "StoreError", "log.db is missing: "),
    (missing_log, "StoreError", "log.db is missing"),
    (corrupt_database, "StoreError", "meta.db is damaged: stop all hsmkms processes and restore a backup"),
    (no_database, "StoreError", "meta.db is no hsmkms database: restore a backup, or correct data_dir"),
    (newer_database, "MigrationError", "is newer than this program"),
    (open_database, "StoreError", "chmod 600"),
    (missing_module, "ModuleError", "/nowhere/libhsm.so"),
    (missing_token, "TokenNotFoundError", "hsmkms"),
    (missing_pin, "PinError", "pin cannot be read: No such file or directory"),
    (open_pin, "PinError", "is open to other users: run `chmod 600"),
]


@pytest.mark.parametrize(("break_it", "name", "words"), FAULTS, ids=lambda each: getattr(each, "__name__", None))
def test_fault(site: Site, break_it: Callable[[Site], None], name: str, words: str) -> None:
    """The error is named in one line with what to do; doctor sees it too; no file is changed by either."""
    break_it(site)
    before = site.checksum()
    message = site.run("create-key").error
    assert message.startswith(f"{name}: ")
    assert words in message
    doctor = site.run("doctor", "--query", "Checks[?Outcome=='wrong'].Detail | [0]", "--output", "text")
    assert (doctor.status, doctor.stderr) == (1, "")
    assert doctor.stdout.startswith(f"{name}: ")
    assert words in doctor.stdout
    assert site.checksum() == before


def test_another_token(site: Site, bare: Site) -> None:
    """A database and a token that do not belong together are refused."""
    assert bare.run("init", "--data-dir", "data", "--create-softhsm-token").status == 0
    for name in ("meta.db", "log.db"):
        (site.data / name).write_bytes((bare.data / name).read_bytes())
    message = site.run("create-key").error
    assert message.startswith("BindingError: this database belongs to the token 'hsmkms'")


def test_another_account(site: Site) -> None:
    """The account of an installation cannot be changed afterwards."""
    site.config.write_text(site.config.read_text().replace("111122223333", "222233334444"))
    message = site.run("list-keys").error
    assert message == (
        "ConfigurationError: account_id is 222233334444, but this installation was created for 111122223333: correct it"
    )


def test_another_installations_ciphertext(site: Site, bare: Site) -> None:
    """A ciphertext of another installation names an unknown key, and gets the error that AWS gives."""
    assert bare.run("init", "--data-dir", "data", "--create-softhsm-token").status == 0
    key = bare.new_key()
    sealed = bare.run("encrypt", "--key-id", key, "--plaintext", "aGVsbG8=").json["CiphertextBlob"]
    assert site.run("decrypt", "--ciphertext-blob", sealed).error.startswith("AccessDeniedException: ")


def test_wrong_pin(site: Site) -> None:
    """A wrong PIN is sent once; then none is sent, not even the right one, until `doctor --retry-pin`."""
    right = (site.data / "pin").read_text()
    (site.data / "pin").write_text("wrong horse\n")
    first = site.run("list-keys").error
    assert first == (
        "PinError: the token 'hsmkms' refused the PIN (PinIncorrect); it will not be tried again: "
        "correct the PIN, then run `hsmkms doctor --retry-pin`"
    )
    mark = (site.data / "pin-refused.json").read_text()
    assert "horse" not in mark
    for _ in range(2):
        assert "correct the PIN, then run `hsmkms doctor --retry-pin`" in site.run("list-keys").error
    assert site.run("doctor").status == 1
    assert (site.data / "pin-refused.json").read_text() == mark

    # Still the same file: not tried, unless the operator insists; then the mark is there again.
    unchanged = site.run("doctor", "--retry-pin").error
    assert unchanged.startswith(f"PinError: the PIN file {site.data / 'pin'} has not changed since the token 'hsmkms'")
    assert (site.data / "pin-refused.json").read_text() == mark
    once_more = site.run("doctor", "--retry-pin", "--yes")
    assert once_more.status == 1
    *logged, message = once_more.stderr.splitlines()
    assert set(logged) == {"hsmkms: log: a wrong PIN was given for token 'hsmkms' since the last login"}
    assert message.startswith("hsmkms: PinError: the token 'hsmkms' refused the PIN")
    assert (site.data / "pin-refused.json").exists()

    (site.data / "pin").write_text(right)
    assert "hsmkms doctor --retry-pin" in site.run("list-keys").error
    recovered = site.run("doctor", "--retry-pin", "--yes", "--query", "Checks[].Outcome", "--output", "text")
    assert (recovered.status, set(recovered.stdout.split())) == (0, {"ok"})
    assert site.new_key()


def test_no_traceback_of_the_unexpected(site: Site) -> None:
    """An unexpected exception is reported in one line by its name; the traceback is printed on request."""
    (site.data / "login.lock").unlink()
    (site.data / "login.lock").mkdir()
    message = site.run("list-keys").error
    assert "Traceback" not in message
    asked = site.run("list-keys", HSMKMS_DEBUG="1")
    assert asked.status == 1
    assert "Traceback" in asked.stderr


def unprivileged(site: Site, *arguments: str) -> str:
    """What a command prints that root's right to read and write everything does not help."""
    prefix = UNPRIVILEGED if os.geteuid() == 0 else ()
    command = [*prefix, str(BIN / "hsmkms"), *arguments]
    done = subprocess.run(command, env=site.environment(), capture_output=True, text=True, check=False, cwd=site.folder)
    assert done.returncode == 1, done
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "mode", "command", "words"),
    [
        ("data/audit", 0, ("audit", "verify"), "StoreError: the audit log {}/data/audit cannot be read (Perm"),
        ("data/audit", 0, ("doctor",), "StoreError: the audit log {}/data/audit cannot be read (Permission denied)"),
        ("data/softhsm/tokens", 0, ("list-keys",), "cannot be read by this user: run `chmod u+rwX {}/data/"),
        ("data/softhsm/softhsm2.conf", 0, ("list-keys",), "SOFTHSM2_CONF of token.environment names {}/data/s"),
        ("data", 0o500, ("serve", "--port", "0"), "port-"),
        ("data", 0o500, ("create-key",), "log.db cannot be written"),
        ("data", 0, ("list-keys",), "cannot be read: Permission denied"),
        ("data/processes", 0, ("create-key",), "StoreError: {}/data/processes cannot be written: Permission denied"),
    ],
)
def test_places_without_permission(site: Site, place: str, mode: int, command: tuple[str, ...], words: str) -> None:
    """A file or folder that may not be read or written is named, with no internal error."""
    site.new_key()
    closed = site.folder / place
    before = closed.stat().st_mode
    closed.chmod(mode)
    try:
        printed = unprivileged(site, *command)
    finally:
        closed.chmod(before)
    assert words.format(site.folder) in printed
    assert "internal error" not in printed
