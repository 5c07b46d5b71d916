"""Files and folders that another user can change: which are refused, and that what is usual is not."""

import grp
import os
import pwd
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hsmkms import ownership
from hsmkms.config import settings as config
from hsmkms.config.pins import PinSettings, read_pin
from hsmkms.errors import ConfigurationError, PinError

MOUNTING_REFUSED = 77
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
STRANGER = 54321
"""A uid and a gid without a name, which this process does not have."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A private folder in a private folder, with a file."""
    made = tmp_path / "above" / "folder"
    made.mkdir(parents=True)
    (made / "file").touch(0o600)
    for each in (made.parent, made):
        each.chmod(0o755)
    return made


def link_of_a_stranger(folder: Path) -> None:
    """The folder's place is taken by a symbolic link in a folder that all may write."""
    folder.rename(folder.with_name("real"))
    folder.symlink_to("real")
    os.chown(folder, STRANGER, -1, follow_symlinks=False)
    folder.parent.chmod(0o1777)


def group(path: Path, mode: int) -> None:
    """Give a path to a group of strangers."""
    os.chown(path, -1, STRANGER)
    path.chmod(mode)


@needs_root
@pytest.mark.parametrize(
    ("change", "reason", "cure"),
    [
        (lambda folder: (folder / "file").chmod(0o666), "file can be written by everybody (mode 0666", "chmod go-w "),
        (lambda folder: (folder / "file").chmod(0o602), "file can be written by everybody (mode 0602", "chmod go-w "),
        (lambda folder: group(folder / "file", 0o660), f"by its group (mode 0660, group {STRANGER})", "chmod g-w "),
        (
            lambda folder: os.chown(folder / "file", STRANGER, 0),
            f"file belongs to {STRANGER}",
            f"run hsmkms as the uid {STRANGER}",
        ),
        (lambda folder: folder.chmod(0o777), "folder can be written by everybody (mode 0777", "chmod go-w "),
        (lambda folder: folder.parent.chmod(0o757), "above can be written by everybody (mode 0757", "chmod go-w "),
        (lambda folder: os.chown(folder.parent, STRANGER, 0), f"above belongs to {STRANGER}", f"name {STRANGER} in"),
        (link_of_a_stranger, f"folder belongs to {STRANGER}", "run hsmkms as the uid"),
    ],
    ids=["file", "others", "group", "owner", "folder", "above", "owner above", "link"],
)
def test_refused(folder: Path, change: Callable[[Path], object], reason: str, cure: str) -> None:
    """Whatever lets another user change or replace a file is reported with its remedy."""
    file = folder / "file"
    ownership.check("the file", file)
    change(folder)
    with pytest.raises(ConfigurationError) as caught:
        ownership.check("the file", file)
    message = str(caught.value)
    assert message.startswith(f"the file {file} can be changed by another user, so it is not used: ")
    assert reason in message
    assert cure in message


@needs_root
def test_behind_a_link(folder: Path, tmp_path: Path) -> None:
    """Where a symbolic link leads to counts like the link, over several of them."""
    (tmp_path / "first").symlink_to(tmp_path / "second")
    (tmp_path / "second").symlink_to("above/folder/../folder")
    ownership.check("the file", tmp_path / "first" / "file")
    folder.parent.chmod(0o777)
    assert ownership.weakness(tmp_path / "first" / "file") is not None


def test_sticky_folder(folder: Path) -> None:
    """In a folder such as /tmp no other user can replace a file; as a data folder it is unfit."""
    folder.parent.chmod(0o1777)
    assert ownership.weakness(folder / "file") is None
    assert ownership.weakness(folder / "missing" / "as well") is None
    assert ownership.weakness(folder.parent) is not None


def test_what_cannot_be_there(folder: Path) -> None:
    """A path that the system does not take, a link to nowhere and a circle of links count as missing."""
    (folder / "nowhere").symlink_to("missing")
    (folder / "circle").symlink_to("circle")
    for name in ("x" * 5000, "nowhere", "circle", "file/below"):
        assert ownership.weakness(folder / name) is None
        with pytest.raises(ConfigurationError, match=r"cannot be read|there is no configuration"):
            config.load(folder / name)


@needs_root
def test_trusted_owners(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user that the variable names is trusted, by uid or name; an unknown name is an error."""
    os.chown(folder, STRANGER, 0)
    monkeypatch.setenv(ownership.TRUSTED_VARIABLE, f"daemon, {STRANGER}")
    assert ownership.weakness(folder / "file") is None
    monkeypatch.setenv(ownership.TRUSTED_VARIABLE, "daemon")
    assert ownership.weakness(folder / "file") is not None
    monkeypatch.setenv(ownership.TRUSTED_VARIABLE, "nobody-of-this-name")
    with pytest.raises(ConfigurationError, match="there is no such user"):
        ownership.weakness(folder)


def named_group(name: str, gid: int, *members: str) -> Callable[[int], grp.struct_group]:
    """The system's answer about a group."""
    return lambda _: grp.struct_group((name, "x", gid, list(members)))


MYSELF = pwd.getpwuid(os.geteuid()).pw_name


@pytest.mark.parametrize(
    ("told", "private"),
    [
        (named_group(MYSELF, 1000), True),
        (named_group(MYSELF, 1000, MYSELF), True),
        (named_group(MYSELF, 1000, MYSELF, "eve"), False),
        (named_group("developers", 2000), False),
        (named_group("developers", 2000, "eve"), False),
        (named_group("staff", 50), True),
        (named_group("users", 100), False),
        (named_group("sssd", 999), False),
        (named_group("staff", 50, "eve"), False),
        (named_group("root", 0), True),
        (named_group("root", 0, "eve"), False),
    ],
)
def test_groups(
    folder: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[[int], grp.struct_group], *, private: bool
) -> None:
    """A file that a group may write counts as private if the group is the user's own, or an empty system group."""
    monkeypatch.setattr(grp, "getgrgid", told)
    monkeypatch.setattr(pwd, "getpwall", lambda: [pwd.getpwuid(os.geteuid())])
    folder.chmod(0o775)
    status = folder.lstat()
    assert ownership._is_private(folder, pretend(status, told(0).gr_gid)) is private


@pytest.mark.parametrize(("name", "gid"), [(MYSELF, 1000), ("staff", 50)])
def test_primary_group_of_others(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, gid: int) -> None:
    """A group is not private if it is another user's primary group, though it lists no members."""
    me = pwd.getpwuid(os.geteuid())
    other = pwd.struct_passwd(("eve", "x", STRANGER, gid, "", "/", "/bin/sh"))
    monkeypatch.setattr(grp, "getgrgid", named_group(name, gid))
    monkeypatch.setattr(pwd, "getpwall", lambda: [me])
    folder.chmod(0o775)
    status = pretend(folder.lstat(), gid)
    assert ownership._is_private(folder, status)
    monkeypatch.setattr(pwd, "getpwall", lambda: [me, other])
    assert not ownership._is_private(folder, status)


def pretend(status: os.stat_result, gid: int) -> os.stat_result:
    """A status with another group."""
    return os.stat_result((*status[:5], gid, *status[6:]))


@needs_root
def test_group_without_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where groups have numbers only one is trusted if this process is in it, as with Kubernetes' fsGroup."""
    group(folder, 0o2775)
    assert ownership.weakness(folder) is not None
    monkeypatch.setattr(os, "getgroups", lambda: [0, STRANGER])
    assert ownership.weakness(folder) is None


ACL = struct.pack(
    "<I" + "HHI" * 5,
    2,
    *(1, 7, 2**32 - 1),
    *(2, 7, STRANGER),
    *(4, 5, 2**32 - 1),
    *(16, 7, 2**32 - 1),
    *(32, 5, 2**32 - 1),
)
"""Version 2; the owner, a stranger who may write, the group that may not, the mask, all others."""


def test_access_control_list(folder: Path) -> None:
    """With an access control list the group's bits count for all its entries, so that a private group helps no more."""
    folder.chmod(0o775)
    try:
        os.setxattr(folder, "system.posix_acl_access", ACL)
    except OSError:
        pytest.skip("the file system has no access control lists")
    weakness = ownership.weakness(folder)
    assert weakness is not None
    assert weakness.cure == f"run `chmod g-w {folder}`"
    folder.chmod(0o755)
    assert ownership.weakness(folder) is None


@pytest.mark.parametrize("umask", [0, 0o002, 0o022, 0o077])
def test_made_folders(tmp_path: Path, umask: int) -> None:
    """Folders that are created on the way are not writable for others, whatever the umask; the last one is private."""
    old = os.umask(umask)
    try:
        ownership.make_folder(tmp_path / "a" / "b", 0o700)
    finally:
        os.umask(old)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert ownership.weakness(tmp_path / "a" / "b") is None


# -- what a configuration names -------------------------------------------------------------------------------------

CONFIGURATION = """
account_id = "111122223333"
regions = ["eu-central-1"]
data_dir = "data"
[token]
module = "module.so"
label = "hsmkms"
[token.pin]
command = ["./pin-program"]
[token.environment]
SOFTHSM2_CONF = "{folder}/softhsm2.conf"
NOT_A_PATH = "x"
[serve]
certificate = "certificate.pem"
private_key = "key.pem"
"""
NAMED = {
    "hsmkms.toml": "the configuration",
    "data": "the data folder",
    "module.so": "the PKCS#11 module",
    "pin-program": "the PIN command",
    "softhsm2.conf": "the file of SOFTHSM2_CONF",
    "certificate.pem": "serve.certificate",
    "key.pem": "serve.private_key",
}


@pytest.mark.parametrize("name", NAMED)
def test_configuration(folder: Path, name: str) -> None:
    """No configuration is loaded that another user can change, or that names what another user can change."""
    (folder / "data").mkdir(mode=0o700)
    for file in NAMED:
        if file != "data":
            (folder / file).write_text(CONFIGURATION.format(folder=folder) if file == "hsmkms.toml" else "")
            (folder / file).chmod(0o700)
    config.load(folder / "hsmkms.toml")
    (folder / name).chmod(0o777)
    with pytest.raises(ConfigurationError) as caught:
        config.load(folder / "hsmkms.toml")
    assert str(caught.value).startswith(f"{NAMED[name]} {folder / name} can be changed by another user, so it is not ")
    assert f"run `chmod go-w {folder / name}`" in str(caught.value)


@needs_root
def test_seal_file_of_root(folder: Path) -> None:
    """Root writes no seal file into a folder of another user, who could lead it to any file."""
    (folder / "data").mkdir(mode=0o700)
    (folder / "share").mkdir(mode=0o755)
    for file in NAMED:
        if file != "data":
            text = CONFIGURATION.format(folder=folder) + '[audit]\nseal_file = "share/seals"\n'
            (folder / file).write_text(text if file == "hsmkms.toml" else "")
            (folder / file).chmod(0o700)
    config.load(folder / "hsmkms.toml")
    os.chown(folder / "share", STRANGER, -1)
    with pytest.raises(
        ConfigurationError, match=f"audit.seal_file {folder}/share/seals can be changed by another user"
    ):
        config.load(folder / "hsmkms.toml")


def test_pin_file(folder: Path) -> None:
    """A PIN file in a folder that others may write is refused: they could have wrong PINs sent."""
    file = folder / "file"
    file.write_text("1234\n")
    assert read_pin(PinSettings(file=file)) == "1234"
    folder.chmod(0o777)
    with pytest.raises(PinError, match=f"can be replaced by another user, so it is not used: .*chmod go-w {folder}`"):
        read_pin(PinSettings(file=file))


@needs_root
def test_root_in_a_folder_of_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is refused where another user could not read what it makes, even if that user is trusted."""
    ownership.check_user("the data folder", folder)
    ownership.check_user("the data folder", folder / "missing")
    os.chown(folder, STRANGER, 0)
    monkeypatch.setenv(ownership.TRUSTED_VARIABLE, str(STRANGER))
    with pytest.raises(
        ConfigurationError, match=f"who could not read what root makes there: run hsmkms as the uid {STRANGER}"
    ):
        ownership.check_user("the data folder", folder)
    os.chown(folder, pwd.getpwnam("daemon").pw_uid, 0)
    with pytest.raises(ConfigurationError, match=r"run hsmkms as daemon \(`sudo -u daemon hsmkms ...`\)"):
        ownership.check_user("the data folder", folder)
    monkeypatch.setenv(ownership.SERVICE_VARIABLE, "daemon")
    with pytest.raises(ConfigurationError, match=r"run `sudo hsmkms \.\.\.`, which works as daemon"):
        ownership.check_user("the data folder", folder)


@needs_root
def test_folder_that_the_sandbox_closes(folder: Path) -> None:
    """A file of one's own on a read-only mount needs a word to systemd, and no other mode."""
    program = "import sys, pathlib, hsmkms.ownership as o; o.check_usable('it', pathlib.Path(sys.argv[1]))"
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 77; exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", folder, sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == MOUNTING_REFUSED or "unshare" in done.stderr:
        pytest.skip("mounting is refused here")
    assert f"it {folder}/file is on a file system that this process may only read." in done.stderr
    assert f"give it ReadWritePaths={folder}" in done.stderr


@needs_root
def test_file_that_root_has_made(folder: Path) -> None:
    """A user is told which file of a folder is root's, and the commands that mend it; a link counts for nothing."""
    os.chown(folder, STRANGER, STRANGER)
    (folder / "file").chmod(0o600)
    (folder / "link").symlink_to("/etc/shadow")
    for each in (folder, *folder.parents):
        if each.stat().st_uid == 0 and not each.stat().st_mode & 0o005:
            each.chmod(0o755)
    answers, child = os.pipe(), os.fork()
    if not child:
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
        try:
            ownership.check_usable("the file", folder, besides={folder / "file"})
            ownership.check_usable("the file", folder)
        except ConfigurationError as exc:
            os.write(answers[1], str(exc).encode())
        finally:
            os._exit(0)
    os.close(answers[1])
    with os.fdopen(answers[0]) as answer:
        told = answer.read()
    os.waitpid(child, 0)
    assert told.startswith(f"the file {folder}/file belongs to root, so {STRANGER} cannot use it: ")
    assert f"As root, run `chown {STRANGER} {folder}/file` (and look for others with `find {folder} ! -user" in told
