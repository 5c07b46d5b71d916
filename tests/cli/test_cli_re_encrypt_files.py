"""re-encrypt-files: which files it takes, what it leaves of them, what it counts, and how it is interrupted."""

import base64
import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_site import BIN, SECONDS, Result, Site, at_terminal
from msgspec import Struct

from hsmkms.cli.commands.re_encrypt_files import Kind

PLAINTEXT = "aGVsbG8="
LEFTOVER = ".hsmkms-re-encrypt-0123456789abcdef0123456789abcdef.tmp"
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
"""Even root may then read only what the mode lets him read."""


class Keys(Struct, frozen=True):
    """Two keys, and the material ids of both; ``alias/photos`` is the new one."""

    old: str
    old_material: str
    new: str
    new_material: str


@pytest.fixture(scope="module")
def keys(shared: Site) -> Keys:
    """An alias that has moved from one key to another."""
    old, new = shared.new_key(), shared.new_key()
    shared.run("create-alias", "--alias-name", "photos", "--target-key-id", old)
    shared.run("update-alias", "--alias-name", "photos", "--target-key-id", new)
    return Keys(old, material(shared, old), new, material(shared, new))


@pytest.fixture
def folder(new_folder: Callable[[], Path]) -> Path:
    """An empty folder for files."""
    made = new_folder()
    made.mkdir()
    return made


def material(site: Site, key: str) -> str:
    """The id of a key's current material."""
    shown = site.run("describe-key", "--key-id", key, "--query", "KeyMetadata.CurrentKeyMaterialId")
    return str(shown.json)


def sealed(site: Site, key: str, *options: str) -> bytes:
    """A ciphertext."""
    answer = site.run("encrypt", "--key-id", key, "--plaintext", PLAINTEXT, *options).json
    return base64.b64decode(answer["CiphertextBlob"])


def opened(site: Site, ciphertext: bytes, *options: str) -> tuple[str, str]:
    """The id of the key that a ciphertext is under, and its plaintext."""
    answer = site.run("decrypt", "--ciphertext-blob", "-", *options, stdin=ciphertext).json
    return answer["KeyId"].rpartition("/")[2], answer["Plaintext"]


def answered(result: Result, status: int = 0) -> dict[str, Any]:
    """The answer of a run without a word on the other stream, whose totals add up."""
    assert (result.status, result.stderr) == (status, ""), result
    answer = json.loads(result.stdout)
    assert answer["Files"] == sum(answer[kind] for kind in Kind)
    assert answer["Failed"] == len(answer["Failures"])
    return dict(answer)


def run(site: Site, *arguments: object, status: int = 0) -> dict[str, Any]:
    """Move files to alias/photos."""
    return answered(site.run("re-encrypt-files", *arguments, "--destination-key-id", "photos"), status)


def totals(answer: dict[str, Any]) -> dict[str, int]:
    """The totals that are not zero, but for the sum of all."""
    return {str(kind): answer[kind] for kind in Kind if answer[kind]}


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time of change and content of everything in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(file): (file.stat().st_ino, file.stat().st_ctime_ns, file.read_bytes()) for file in files}


@contextmanager
def started(site: Site, folder: Path, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run that continues beside the test, and wait until it has replaced a file."""
    before = file.stat().st_ino
    command = [BIN / "hsmkms", "re-encrypt-files", folder, "--destination-key-id", "photos"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=site.folder, env=site.environment(), **pipes) as process:
        try:
            while file.stat().st_ino == before:
                assert process.poll() is None, process.communicate()
                time.sleep(0.001)
            yield process
        finally:
            process.kill()


# -- what is taken, and what is left of it --------------------------------------------------------------------------


def test_nested_folders_and_both_forms(shared: Site, keys: Keys, folder: Path) -> None:
    """Ciphertexts in nested folders move, raw ones stay raw and base64 keeps its lines; all else stays untouched."""
    (folder / "a/b").mkdir(parents=True)
    blobs = [sealed(shared, keys.old) for _ in range(4)]
    written = {
        "raw": blobs[0],
        "a/line": base64.b64encode(blobs[1]) + b"\n",
        "a/b/wrapped": base64.encodebytes(blobs[2]),
        "a/b/bare": base64.b64encode(blobs[3]),
    }
    others = {"notes.txt": b"dear diary\n", "a/empty": b"", "json": b'{"a": 1}'}
    others["a/b/two"] = 2 * (base64.b64encode(blobs[0] + b"!") + b"\n")
    for name, content in (written | others).items():
        (folder / name).write_bytes(content)
    before = state(folder)
    assert run(shared, folder) == {
        "Files": 8,
        "ReEncrypted": 4,
        "AlreadyCurrent": 0,
        "NotCiphertext": 4,
        "Failed": 0,
        "NotDone": 0,
        "Failures": [],
        "OldBackingKeys": [],
    }
    after = {name: (folder / name).read_bytes() for name in written}
    assert all(len(after[name]) == len(written[name]) and after[name] != written[name] for name in written)
    assert base64.encodebytes(base64.decodebytes(after["a/b/wrapped"])) == after["a/b/wrapped"]
    for content in (after["raw"], *(base64.decodebytes(after[name]) for name in list(written)[1:])):
        assert opened(shared, content) == (keys.new, "aGVsbG8=")
    untouched = {str(folder / name) for name in others}
    assert {name: held for name, held in state(folder).items() if name in untouched} == {
        name: held for name, held in before.items() if name in untouched
    }
    assert sorted(path.name for path in folder.iterdir()) == ["a", "json", "notes.txt", "raw"]


def test_second_run_changes_nothing(shared: Site, keys: Keys, folder: Path) -> None:
    """What is under the destination's current material is skipped, and its file is not even touched."""
    shared.program("seal_files", folder, keys.old, 10)
    assert totals(run(shared, folder)) == {"ReEncrypted": 10}
    before = state(folder)
    assert totals(run(shared, folder)) == {"AlreadyCurrent": 10}
    assert state(folder) == before


def test_rotation(site: Site, folder: Path) -> None:
    """After a rotation of the same key the older material is listed as needed, and no longer after re-encryption."""
    key = site.new_key()
    first = material(site, key)
    site.program("seal_files", folder, key, 6)
    site.run("rotate-key-on-demand", "--key-id", key)
    assert material(site, key) != first
    reported = answered(site.run("re-encrypt-files", folder, "--report"))
    assert totals(reported) == {"NotDone": 6}
    assert reported["OldBackingKeys"] == [{"KeyId": key, "KeyMaterialId": first, "Files": 6}]
    moved = answered(site.run("re-encrypt-files", folder, "--destination-key-id", key))
    assert (totals(moved), moved["OldBackingKeys"]) == ({"ReEncrypted": 6}, [])
    reported = answered(site.run("re-encrypt-files", folder, "--report"))
    assert (totals(reported), reported["OldBackingKeys"]) == ({"AlreadyCurrent": 6}, [])
    assert json.loads(site.program("open_files", folder)) == {key: 6}


@pytest.mark.parametrize("option", ["--report", "--dry-run"])
def test_nothing_is_changed(shared: Site, keys: Keys, folder: Path, option: str) -> None:
    """A report and a dry run count what there is, leave even the remains of a killed run, and change no file."""
    shared.program("seal_files", folder, keys.old, 3)
    whole = (folder / "00000").read_bytes()
    (folder / "damaged").write_bytes(whole[:-1] + bytes((whole[-1] ^ 1,)))
    (folder / LEFTOVER).write_bytes(b"")
    shutil.copytree(folder, folder / "done")
    (folder / "done/damaged").unlink()
    run(shared, folder / "done")
    (folder / "done" / LEFTOVER).write_bytes(b"")
    before = state(folder)
    if option == "--report":
        answer = answered(shared.run("re-encrypt-files", folder, option))
        # No header shows that the rest of a file is damaged, and the old key's material is that key's current one.
        assert totals(answer) == {"AlreadyCurrent": 7}
        assert answer["OldBackingKeys"] == []
    else:
        answer = run(shared, folder, option, status=1)
        assert totals(answer) == {"AlreadyCurrent": 3, "NotDone": 3, "Failed": 1}
        assert answer["OldBackingKeys"] == [{"KeyId": keys.old, "KeyMaterialId": keys.old_material, "Files": 4}]
    assert state(folder) == before


def test_mode_owner_and_attributes(shared: Site, keys: Keys, folder: Path) -> None:
    """A file keeps mode, group, owner and extended attributes, and gets the time of its change."""
    file = folder / "secret"
    file.write_bytes(sealed(shared, keys.old))
    owner = (12345, 54321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(file, *owner)
    file.chmod(0o2640)
    attributes = {"user.origin": b"backup"}
    try:
        os.setxattr(file, "user.origin", b"backup")
    except OSError:  # the file system has none
        attributes = {}
    os.utime(file, (1, 1))
    assert totals(run(shared, file)) == {"ReEncrypted": 1}
    now = file.stat()
    assert (now.st_mode & 0o7777, now.st_uid, now.st_gid) == (0o2640, *owner)
    assert {name: os.getxattr(file, name) for name in os.listxattr(file) if name.startswith("user.")} == attributes
    assert now.st_mtime > 1


def test_large_files_are_not_read(shared: Site, keys: Keys, folder: Path) -> None:
    """A file of ten terabytes is not read, whatever it begins with; nor is anything but regular files."""
    (folder / "huge").write_bytes(sealed(shared, keys.old))
    os.truncate(folder / "huge", 10**13)
    os.mkfifo(folder / "pipe")
    assert totals(run(shared, folder)) == {"NotCiphertext": 1}
    assert totals(run(shared, folder / "pipe")) == {"NotCiphertext": 1}


def test_links(shared: Site, keys: Keys, folder: Path) -> None:
    """A symbolic link in a folder is not followed, one that is named stands for its target; hard links are refused."""
    outside, inside = folder / "outside", folder / "inside"
    shared.program("seal_files", outside, keys.old, 2)
    inside.mkdir()
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "00000")
    assert run(shared, inside)["Files"] == 0
    assert totals(run(shared, inside / "file")) == {"ReEncrypted": 1}
    assert (inside / "file").is_symlink()
    assert json.loads(shared.program("open_files", outside)) == {keys.old: 1, keys.new: 1}
    os.link(outside / "00001", inside / "second name")
    content = (outside / "00001").read_bytes()
    answer = run(shared, outside / "00001", status=1)
    assert [(failure["File"], failure["Error"]) for failure in answer["Failures"]] == [
        (str(outside / "00001"), "HardLink")
    ]
    assert (outside / "00001").read_bytes() == (inside / "second name").read_bytes() == content


def test_a_file_is_done_once(shared: Site, keys: Keys, folder: Path) -> None:
    """Arguments that lie in each other, or are the same in other words, do not count a file twice."""
    shared.program("seal_files", folder / "a", keys.old, 3)
    assert totals(run(shared, folder / "a", folder, folder / "a/00000", folder / "a/../a")) == {"ReEncrypted": 3}


def test_include(shared: Site, keys: Keys, folder: Path) -> None:
    """--include takes files whose names match one of the patterns, and no others."""
    ciphertext = sealed(shared, keys.old)
    for name in ("one.enc", "two.bin", "three.txt"):
        (folder / name).write_bytes(ciphertext)
    assert totals(run(shared, folder, "--include", "*.enc", "--include", "*.bin")) == {"ReEncrypted": 2}
    assert (folder / "three.txt").read_bytes() == ciphertext


# -- contexts -------------------------------------------------------------------------------------------------------


def test_context_is_kept(shared: Site, keys: Keys, folder: Path) -> None:
    """The source's context is the destination's as well; a file with another one fails and is unchanged."""
    shared.program("seal_files", folder, keys.old, 2, '{"album": "2026"}')
    (folder / "other").write_bytes(sealed(shared, keys.old))
    before = (folder / "other").read_bytes()
    answer = run(shared, folder, "--source-encryption-context", "album=2026", status=1)
    assert totals(answer) == {"ReEncrypted": 2, "Failed": 1}
    assert answer["Failures"] == [
        {
            "File": str(folder / "other"),
            "Error": "InvalidCiphertextException",
            "Message": "The ciphertext cannot be decrypted: check it and the encryption context (one error for every "
            "cause).",
        }
    ]
    assert answer["OldBackingKeys"] == [{"KeyId": keys.old, "KeyMaterialId": keys.old_material, "Files": 1}]
    assert (folder / "other").read_bytes() == before
    (folder / "other").unlink()
    assert json.loads(shared.program("open_files", folder, '{"album": "2026"}')) == {keys.new: 2}


def test_context_is_changed(shared: Site, keys: Keys, folder: Path) -> None:
    """Another destination context is given to files of any material, once; what has it already is only moved."""
    contexts = ("--source-encryption-context", "a=1", "--destination-encryption-context", '{"a": "2"}')
    for name, key, context in (("1", keys.old, 1), ("2", keys.new, 1), ("3", keys.old, 2), ("4", keys.new, 2)):
        (folder / name).write_bytes(sealed(shared, key, "--encryption-context", f"a={context}"))
    (folder / "5").write_bytes(sealed(shared, keys.new, "--encryption-context", "a=3"))
    fifth = state(folder)[str(folder / "5")]
    tried = run(shared, folder, *contexts, "--dry-run", status=1)
    assert totals(tried) == {"NotDone": 3, "AlreadyCurrent": 1, "Failed": 1}
    answer = run(shared, folder, *contexts, status=1)
    assert totals(answer) == {"ReEncrypted": 3, "AlreadyCurrent": 1, "Failed": 1}
    assert [Path(failure["File"]).name for failure in answer["Failures"]] == ["5"]
    assert answer["OldBackingKeys"] == []
    for name in "1234":
        assert opened(shared, (folder / name).read_bytes(), "--encryption-context", "a=2") == (keys.new, "aGVsbG8=")
    assert state(folder)[str(folder / "5")] == fifth
    again = run(shared, folder, *contexts, status=1)
    assert totals(again) == {"AlreadyCurrent": 4, "Failed": 1}


# -- what fails -----------------------------------------------------------------------------------------------------


def test_failures_do_not_stop_the_run(site: Site, folder: Path) -> None:
    """A disabled source key, an unknown key and a damaged file are reported one by one; the others are moved."""
    old, disabled, new = site.new_key(), site.new_key(), site.new_key()
    for name, key in (("a", disabled), ("b", old), ("c", old), ("d", old), ("e\n\udcff\x1b[1m", old)):
        (folder / name).write_bytes(sealed(site, key))
    (folder / "b").write_bytes((folder / "b").read_bytes()[:-1])
    unknown = "11111111-2222-4333-8444-555555555555"
    (folder / "c").write_bytes((folder / "c").read_bytes().replace(old.encode(), unknown.encode()))
    (folder / "e\n\udcff\x1b[1m").write_bytes((folder / "b").read_bytes())
    site.run("disable-key", "--key-id", disabled)
    before = state(folder)
    answer = answered(site.run("re-encrypt-files", folder, "--destination-key-id", new), status=1)
    assert totals(answer) == {"ReEncrypted": 1, "Failed": 4}
    assert [(Path(failure["File"]).name, failure["Error"]) for failure in answer["Failures"]] == [
        ("a", "DisabledException"),
        ("b", "InvalidCiphertextException"),
        ("c", "AccessDeniedException"),
        ("e\\n\\xff\\x1b[1m", "InvalidCiphertextException"),
    ]
    assert answer["Failures"][0]["Message"].endswith(f"key/{disabled} is disabled.")
    assert {backing_key["KeyId"]: backing_key["Files"] for backing_key in answer["OldBackingKeys"]} == {
        disabled: 1,
        old: 2,
        unknown: 1,
    }
    unchanged = state(folder)
    assert [name for name in before if unchanged[name] != before[name]] == [str(folder / "d")]
    reported = answered(site.run("re-encrypt-files", folder, "--report"))
    assert [backing_key["KeyId"] for backing_key in reported["OldBackingKeys"]] == [unknown]


def test_unreadable(shared: Site, keys: Keys, folder: Path) -> None:
    """Files and folders that cannot be read are reported with the system's word; the others are moved."""
    shared.program("seal_files", folder, keys.old, 3)
    (folder / "00001").chmod(0o000)
    (folder / "closed").mkdir(mode=0o000)
    prefix = UNPRIVILEGED if os.geteuid() == 0 else ()
    command = [*prefix, BIN / "hsmkms", "re-encrypt-files", folder, "--destination-key-id", "photos"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS, env=shared.environment())
    answer = answered(
        Result(status=done.returncode, stdout=done.stdout.decode(), stderr=done.stderr.decode()), status=1
    )
    assert totals(answer) == {"ReEncrypted": 2, "Failed": 2}
    assert answer["Failures"] == [
        {"File": str(folder / name), "Error": "EACCES", "Message": "Permission denied"} for name in ("00001", "closed")
    ]
    (folder / "closed").rmdir()
    (folder / "00001").chmod(0o600)
    assert json.loads(shared.program("open_files", folder)) == {keys.old: 1, keys.new: 2}


def test_read_only_folder(shared: Site, keys: Keys, folder: Path) -> None:
    """In a folder that takes no new file nothing is changed, and every file is reported."""
    shared.program("seal_files", folder, keys.old, 2)
    before = state(folder)
    folder.chmod(0o500)
    prefix = UNPRIVILEGED if os.geteuid() == 0 else ()
    command = [*prefix, BIN / "hsmkms", "re-encrypt-files", folder, "--destination-key-id", "photos"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS, env=shared.environment())
    folder.chmod(0o700)
    assert done.returncode == 1
    assert [failure["Error"] for failure in json.loads(done.stdout)["Failures"]] == ["EACCES", "EACCES"]
    assert state(folder) == before


def test_unusable_destination(site: Site, folder: Path) -> None:
    """A destination that cannot take anything ends the command before a file is touched."""
    old, new = site.new_key(), site.new_key()
    site.program("seal_files", folder, old, 2)
    before = state(folder)
    site.run("disable-key", "--key-id", new)
    message = site.run("re-encrypt-files", folder, "--destination-key-id", new).error
    assert message == f"DisabledException: arn:aws:kms:eu-central-1:111122223333:key/{new} is disabled."
    assert site.run("re-encrypt-files", folder, "--destination-key-id", "nobody").error.startswith("NotFoundException")
    empty = str(site.run("create-key", "--origin", "EXTERNAL").json["KeyMetadata"]["KeyId"])
    assert "pending import" in site.run("re-encrypt-files", folder, "--destination-key-id", empty).error
    assert state(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["."],
        [".", "--report", "--destination-key-id", "photos"],
        [".", "--report", "--dry-run"],
        [".", "--report", "--source-encryption-context", "a=1"],
        [".", "--source-encryption-context", "a=1"],
        ["nowhere", "--destination-key-id", "photos"],
        ["--destination-key-id", "photos"],
    ],
)
def test_wrong_usage(shared: Site, arguments: list[str]) -> None:
    """Options that do not go together, a path that is not there, and no path at all are wrong usage."""
    result = shared.run("re-encrypt-files", *arguments)
    assert (result.status, result.stdout) == (2, "")
    assert "Usage: hsmkms re-encrypt-files" in result.stderr


def test_token_goes_away(shared: Site, keys: Keys, folder: Path) -> None:
    """A token that is away ends the run: what is left is counted as not done, the answer is shown, then the error."""
    shared.program("seal_files", folder, keys.old, 200)
    arguments = ("re-encrypt-files", folder, "--destination-key-id", "photos")
    done = subprocess.run(
        [BIN / "python", Path(__file__).parent / "programs/lose_token.py", "50", *arguments],
        capture_output=True,
        check=False,
        timeout=SECONDS,
        env=shared.environment(),
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "hsmkms: TokenUnavailableError: the token does not answer (DeviceRemoved)\n"
    answer = json.loads(done.stdout)
    assert totals(answer) == {"ReEncrypted": 50, "NotDone": 150}
    assert (answer["Files"], answer["Failures"]) == (200, [])
    assert json.loads(shared.program("open_files", folder)) == {keys.old: 150, keys.new: 50}
    assert totals(run(shared, folder)) == {"AlreadyCurrent": 50, "ReEncrypted": 150}


# -- interruptions --------------------------------------------------------------------------------------------------


def test_kill(shared: Site, keys: Keys, folder: Path) -> None:
    """Killed again and again, a run leaves every file whole, and the next one does the rest and removes all remains."""
    count, done, kills = 1200, 0, 0
    shared.program("seal_files", folder, keys.old, count)
    names = [folder / f"{number:05}" for number in range(count)]
    while done + 200 < count and kills < 4:
        with started(shared, folder, names[done + 20]) as process:
            process.kill()
        under = json.loads(shared.program("open_files", folder))
        assert sum(under.values()) == count
        assert under[keys.new] > done
        done, kills = under[keys.new], kills + 1
    assert kills >= 3
    assert done < count
    (folder / LEFTOVER).write_bytes(b"half")
    assert totals(run(shared, folder)) == {"AlreadyCurrent": done, "ReEncrypted": count - done}
    assert json.loads(shared.program("open_files", folder)) == {keys.new: count}
    assert sorted(folder.iterdir()) == names


def test_remains_of_the_living(shared: Site, keys: Keys, folder: Path) -> None:
    """Remains of a killed run are removed beside a file as well; a temporary file that is being written stays."""
    shared.program("seal_files", folder, keys.old, 1)
    living, dead, other = (folder / LEFTOVER.replace("0123", digits) for digits in ("aaaa", "bbbb", "zzzz"))
    for each in (living, dead, other):
        each.write_bytes(b"half")
    with living.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert totals(run(shared, folder / "00000")) == {"ReEncrypted": 1}
    assert sorted(folder.iterdir()) == sorted([folder / "00000", living, other])


def test_interrupt(shared: Site, keys: Keys, folder: Path) -> None:
    """Ctrl-C ends a run with its answer and status 130; every file is whole, and the next run does the rest."""
    count = 2000
    shared.program("seal_files", folder, keys.old, count)
    with started(shared, folder, folder / "00020") as process:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=SECONDS)
    answer = answered(
        Result(status=process.returncode, stdout=stdout.decode(), stderr=stderr.decode()), status=128 + signal.SIGINT
    )
    done = answer["ReEncrypted"]
    assert totals(answer) == {"ReEncrypted": done, "NotDone": count - done}
    assert 0 < done < count
    assert json.loads(shared.program("open_files", folder)) == {keys.old: count - done, keys.new: done}
    assert totals(run(shared, folder)) == {"AlreadyCurrent": done, "ReEncrypted": count - done}


# -- people ---------------------------------------------------------------------------------------------------------


def test_at_a_terminal(shared: Site, keys: Keys, folder: Path) -> None:
    """People see on the error stream how far it is, and the answer is a table; the bar is gone at the end."""
    shared.program("seal_files", folder, keys.old, 3)
    shown, status = at_terminal(shared, "re-encrypt-files", str(folder), "--destination-key-id", "photos")
    assert status == 0
    assert "│ ReEncrypted    │ 3 │" in shown
    controller, terminal = pty.openpty()
    command = [BIN / "hsmkms", "re-encrypt-files", folder, "--destination-key-id", "photos"]
    environment = shared.environment(TERM="xterm")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        answer = json.loads(process.communicate(timeout=SECONDS)[0])
    os.close(terminal)
    bar = os.read(controller, 65536)
    os.close(controller)
    assert totals(answer) == {"AlreadyCurrent": 3}
    assert b"re-encrypt-files" in bar
    assert b"3/3" in bar
    assert bar.endswith(b"\x1b[2K")
