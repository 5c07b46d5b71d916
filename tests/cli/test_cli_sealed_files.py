"""Files whose whole content is a ciphertext: their forms, and how one is replaced in one step or not at all."""

import base64
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hsmkms.cli.commands.re_encrypt_files import Kind, do_file
from hsmkms.cli.files import sealed_files
from hsmkms.cli.files.sealed_files import Base64Form, Content, FileEntry
from hsmkms.rules import blob
from hsmkms.service.operator.re_encryption import BackingKey, Moved

CIPHERTEXT = blob.header("11111111-2222-4333-8444-555555555555", "ab" * 32) + bytes(40)


@pytest.fixture
def folder(new_folder: Callable[[], Path]) -> Path:
    """An empty folder for files."""
    made = new_folder()
    made.mkdir()
    return made


FORMS = [
    lambda text: text,
    lambda text: text + b"\n",
    lambda text: text + b"\r\n",
    lambda text: b"\n".join(text[start : start + 76] for start in range(0, len(text), 76)) + b"\n",
    lambda text: b"\n".join(text[start : start + 64] for start in range(0, len(text), 64)),
    lambda text: b"\r\n".join(text[start : start + 64] for start in range(0, len(text), 64)) + b"\r\n\r\n",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [110, 111, 112, 3072, 6144])
def test_forms_of_base64(folder: Path, form: Callable[[bytes], bytes], length: int) -> None:
    """What is read in a form of base64 is written in the same form, to the byte."""
    data = os.urandom(length)
    written = form(base64.b64encode(data))
    unwrapped = Content(written, folder.stat()).unwrapped()
    assert unwrapped is not None
    assert unwrapped[0] == data
    assert unwrapped[1].write(data) == written


@pytest.mark.parametrize(
    "text", [b"\n\n", b"a", b"aGVsbG8", b"aGVs bG8=", b"aGVsbG8=\naGVsbG8=", b"hkms\x01\x01", b"\xff"]
)
def test_no_base64(folder: Path, text: bytes) -> None:
    """What is no base64, or several pieces of it, is not taken for it (or for an empty piece)."""
    assert Content(text, folder.stat()).unwrapped() in (None, (b"", Base64Form(1, b"\n", b"\n\n")))


class Meddler:
    """A job during which another process changes the file."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self.meddle = meddle

    def move(self, ciphertext: bytes, needs: BackingKey) -> Moved:
        """Change the file, and hand a new content out."""
        del needs
        self.meddle()
        return Moved(current=False, ciphertext=ciphertext[:-1] + b"?")

    def is_current(self, needs: BackingKey) -> bool:
        """Nothing is."""
        del needs
        return False


MEDDLERS: dict[str, Callable[[Path], object]] = {
    "written": lambda file: file.write_bytes(b"something new"),
    "shortened": lambda file: os.truncate(file, 50),
    "rewritten with the same bytes": lambda file: file.write_bytes(file.read_bytes()),
    "replaced": lambda file: (
        file.with_name("next").write_bytes(file.read_bytes()),
        file.with_name("next").rename(file),
    ),
    "another mode": lambda file: file.chmod(0o604),
    "removed": lambda file: file.unlink(),
    "a link": lambda file: (file.rename(file.with_name("aside")), file.symlink_to("aside")),
}


@pytest.mark.parametrize("name", MEDDLERS)
def test_file_changed_meanwhile(folder: Path, name: str) -> None:
    """A file that another process changes between reading and replacing is left unchanged, and reported."""
    file = folder / "file"
    file.write_bytes(CIPHERTEXT)
    left: list[object] = []

    def look() -> object:
        return (file.lstat().st_mode, os.path.lexists(file) and file.read_bytes()) if os.path.lexists(file) else None

    def meddle() -> None:
        time.sleep(0.02)  # the file system's clock ticks every few milliseconds
        MEDDLERS[name](file)
        left.append(look())

    outcome = do_file(Meddler(meddle), FileEntry(str(file)))
    assert (outcome.kind, outcome.code) == (Kind.FAILED, "ENOENT" if name == "removed" else "FileChanged")
    assert look() == left[0]
    assert not list(folder.glob(".hsmkms-*"))


STEPS = ["write", "fchown", "listxattr", "setxattr", "fchmod", "fsync", "rename"]


@pytest.mark.parametrize("step", STEPS)
def test_failed_step(folder: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whatever step of a replacement fails: the file is untouched, nothing is left beside it, and it is reported."""
    file = folder / "file"
    file.write_bytes(CIPHERTEXT)

    def fail(*arguments: object, **options: object) -> NoReturn:
        del arguments, options
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "fchown":
        inode, fstat = file.stat().st_ino, os.fstat
        monkeypatch.setattr(os, "fstat", lambda descriptor: _of_somebody_else(fstat(descriptor), but=inode))
    if step == "setxattr":
        monkeypatch.setattr(os, "listxattr", lambda *_, **__: ["user.origin"])
        monkeypatch.setattr(os, "getxattr", lambda *_, **__: b"backup")
    monkeypatch.setattr(os, step, fail)
    before = file.stat()
    outcome = do_file(Meddler(lambda: None), FileEntry(str(file)))
    monkeypatch.undo()
    assert (outcome.kind, outcome.code) == (Kind.FAILED, "ENOSPC")
    assert (file.read_bytes(), file.stat().st_ino) == (CIPHERTEXT, before.st_ino)
    assert list(folder.iterdir()) == [file]


def _of_somebody_else(status: os.stat_result, *, but: int) -> os.stat_result:
    """The status as it would be for another owner, but for one inode."""
    return status if status.st_ino == but else os.stat_result((*status[:4], status.st_uid + 1, *status[5:]))


def test_order_of_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new content is on the disk, and dressed, before it gets the name; the folder is synced after that."""
    file = folder / "file"
    file.write_bytes(CIPHERTEXT)
    steps: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        act: Callable[..., Any] = getattr(os, name)

        def do(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever the function takes
            steps.append(name)
            return act(*arguments, **options)

        return do

    for name in ("write", "fchmod", "fsync", "rename"):
        monkeypatch.setattr(os, name, watched(name))
    assert do_file(Meddler(lambda: None), FileEntry(str(file))).kind is Kind.RE_ENCRYPTED
    assert steps == ["write", "fchmod", "fsync", "rename", "fsync"]
    assert file.read_bytes() == CIPHERTEXT[:-1] + b"?"


def test_short_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that takes a few bytes at a time gets all of them."""
    file = folder / "file"
    file.write_bytes(base64.encodebytes(CIPHERTEXT))
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    assert do_file(Meddler(lambda: None), FileEntry(str(file))).kind is Kind.RE_ENCRYPTED
    assert file.read_bytes() == base64.encodebytes(CIPHERTEXT[:-1] + b"?")


def test_temporary_file_is_private(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is dressed, only its owner can read the new file, whatever the umask."""
    file = folder / "file"
    file.write_bytes(CIPHERTEXT)
    file.chmod(0o666)
    modes: list[int] = []
    fill = sealed_files._fill

    def look(descriptor: int, data: bytes) -> None:
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        fill(descriptor, data)

    monkeypatch.setattr(sealed_files, "_fill", look)
    before = os.umask(0)
    try:
        do_file(Meddler(lambda: None), FileEntry(str(file)))
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert file.stat().st_mode & 0o777 == 0o666
