"""Replacing a file atomically: what is at its name at each instant, and that no other user can redirect it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hsmkms import atomic_write
from hsmkms.store import audit_files

LOCKED = """
import sys
from pathlib import Path
from hsmkms import atomic_write
with atomic_write.draft(Path(sys.argv[1]), b"never"):
    print("ready", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file that must stay as it is."""
    file = tmp_path / "precious"
    file.write_text("precious")
    return file


def test_content_and_mode(tmp_path: Path) -> None:
    """The file has the new content, readable for the owner alone whatever the umask, and no other file is left."""
    old = os.umask(0)
    try:
        for content in (b"one", b"another"):
            atomic_write.replace(tmp_path / "file", content)
            assert (tmp_path / "file").read_bytes() == content
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
        assert names(tmp_path) == ["file"]
    finally:
        os.umask(old)


def test_links_are_not_followed(tmp_path: Path, precious: Path) -> None:
    """Links at the file's name, and at names that a draft might have, lead nowhere."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("file", "file.new", ".file.new", "file.tmp", "file.part"):
        (folder / name).symlink_to(precious)
    audit_files.replace(folder / "file", b"mine")
    assert precious.read_text() == "precious"
    assert (folder / "file").read_bytes() == b"mine"
    assert not (folder / "file").is_symlink()
    assert (folder / "file.new").is_symlink()


def test_lines_are_not_added_through_links(tmp_path: Path, precious: Path) -> None:
    """A link in the place of a file of the audit log is an error."""
    (tmp_path / "seals.jsonl").symlink_to(precious)
    with pytest.raises(audit_files.StoreError, match="cannot be written"):
        audit_files.append(tmp_path / "seals.jsonl", b"line\n")
    assert precious.read_text() == "precious"


def test_failure_leaves_all_as_it_was(tmp_path: Path) -> None:
    """What fails before the last step changes nothing and leaves nothing."""
    (tmp_path / "file").write_text("old")

    def write_half() -> None:
        with atomic_write.replacing(tmp_path / "file") as file:
            file.write(b"half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_new_files_replace_none(tmp_path: Path, precious: Path) -> None:
    """Where a new file is wanted another one is left alone, also a link to nowhere."""
    (tmp_path / "nowhere").symlink_to("missing")
    for name in ("precious", "nowhere"):
        with pytest.raises(FileExistsError):
            atomic_write.create(tmp_path / name, b"new")
    assert precious.read_text() == "precious"
    atomic_write.create(tmp_path / "new", b"new")
    assert (tmp_path / "new").read_bytes() == b"new"


def test_leftovers(tmp_path: Path) -> None:
    """The draft of a process that lives is left alone, and that of a killed one is removed by the next write."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCKED, tmp_path / "file"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        atomic_write.replace(tmp_path / "file", b"mine")
        assert len(names(tmp_path)) == 2
        other.kill()
    atomic_write.replace(tmp_path / "file", b"mine again")
    assert names(tmp_path) == ["file"]


def test_together(tmp_path: Path) -> None:
    """Files that belong together are all there, or none: where one name is taken, or one cannot be put in place."""
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text("older")
    with atomic_write.draft(first, b"1") as put_first, atomic_write.draft(second, b"2") as put_second:
        drafts = {first: put_first, second: put_second}
        with pytest.raises(FileExistsError):
            atomic_write.create_together(drafts)
        assert (first.exists(), second.read_text()) == (False, "older")
        second.unlink()
        (draft,) = [each for each in tmp_path.iterdir() if each.read_bytes() == b"2"]
        draft.rename(tmp_path / "moved")
        with pytest.raises(FileNotFoundError):
            atomic_write.create_together(drafts)
    assert names(tmp_path) == ["moved"]
    with atomic_write.draft(first, b"1") as put_first, atomic_write.draft(second, b"2") as put_second:
        atomic_write.create_together({first: put_first, second: put_second})
    assert names(tmp_path) == ["first", "moved", "second"]
