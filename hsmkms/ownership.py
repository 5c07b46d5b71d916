"""Check that no other user can change a file or folder that hsmkms relies on, or any folder on the path to it.

Trusted users are root, the user of this process, and those named in HSMKMS_TRUSTED_OWNERS. Write permission for their
private groups (the default of Debian and others) is accepted. A sticky folder such as /tmp may be writable by all, if
what hsmkms uses in it belongs to a trusted user.
"""

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from hsmkms.errors import ConfigurationError

TRUSTED_VARIABLE: Final = "HSMKMS_TRUSTED_OWNERS"
"""Names further trusted owners, by name or uid: that of a checkout on a CI machine, say."""

SERVICE_VARIABLE: Final = "HSMKMS_SERVICE_USER"
"""Names the user of a service whose command (conf/install/hsmkms) root starts: it works as that user, with the PIN."""

_MOST_LINKS: Final = 40
_SYSTEM_GROUPS: Final = range(1, 100)
"""Group ids that Debian allocates for all machines, such as ``staff``. From 100 (``users``) on, a directory service
may add members that the machine does not list.
"""
_OVERFLOW_UID: Final = 65534
_ACL: Final = "system.posix_acl_access"
_FOLDER_MODE: Final = 0o755


class Weakness(Struct, frozen=True, kw_only=True):
    """Why another user can change a path, and how to prevent it."""

    reason: str
    cure: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.cure}"


def check(what: str, path: Path) -> None:
    """Raise ConfigurationError if another user can change a path; of a missing one its existing folders are checked."""
    weak_point = weakness(path)
    if weak_point is not None:
        place = shlex.quote(str(path))
        raise ConfigurationError(f"{what} {place} can be changed by another user, so it is not used: {weak_point}")


def check_module(module: Path, environment: Mapping[str, str]) -> None:
    """Raise ConfigurationError if another user can change a module, or a file that its environment names."""
    check("the PKCS#11 module", module)
    for name, value in environment.items():
        if value.startswith("/"):
            check(f"the file of {name}", Path(value))


def check_user(what: str, folder: Path) -> None:
    """Raise ConfigurationError if root would work in another user's folder: that user could not read what root makes.

    Trusted owners are no exception, but for the uid that stands for users without a mapping: a user namespace, or NFS,
    shows root's own files as that user's.
    """
    try:
        owner = folder.stat().st_uid
    except OSError:
        return  # it is missing, or cannot be read, which is reported where it is used
    if owner in (0, _OVERFLOW_UID) or os.geteuid():
        return
    raise ConfigurationError(
        f"{what} {shlex.quote(str(folder))} belongs to {_user_name(owner)}, who could not read what root makes "
        f"there: {run_as(owner)}"
    )


def unusable(folder: Path, besides: Collection[Path] = ()) -> Path | None:
    """Return the first file in a folder and below that this process can't both read and write; None if there is none.

    Links, and the files in ``besides``, are left out.
    """
    for place, names, files in os.walk(folder):
        for path in (Path(place, name) for name in (*sorted(names), *sorted(files))):
            if path in besides or path.is_symlink():
                continue
            if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
                return path
    return None


def check_usable(what: str, folder: Path, *, besides: Collection[Path] = ()) -> None:
    """Raise ConfigurationError if a folder holds a file that another user has made, so that this one cannot use it."""
    path = unusable(folder, besides)
    if path is not None and _is_read_only(path):
        raise ConfigurationError(
            f"{what} {shlex.quote(str(path))} is on a file system that this process may only read. If the service was "
            f"started by systemd, its unit forbids it: `systemctl edit` the unit, and give it ReadWritePaths={folder}"
        )
    if path is not None and path.exists() and path.lstat().st_uid == os.geteuid():
        raise ConfigurationError(f"{what} {shlex.quote(str(path))} cannot be used by its owner: {owner_advice(path)}")
    try:
        owner = path.lstat().st_uid if path is not None else os.geteuid()
    except FileNotFoundError:
        return  # another process has removed it
    if path is not None and owner != os.geteuid():
        me = _user_name(os.geteuid())
        raise ConfigurationError(
            f"{what} {shlex.quote(str(path))} belongs to {_user_name(owner)}, so {me} cannot use it: a command was run "
            f"as {_user_name(owner)}. As root, run `chown {me} {shlex.quote(str(path))}` (and look for others with "
            f"`find {shlex.quote(str(folder))} ! -user {me}`), and run every command as {me}"
        )


def _is_read_only(path: Path) -> bool:
    """Return True if the mount of a path is read-only, for this process at least."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def owner_advice(path: Path) -> str:
    """Say whose a path is that this user may not use, and how it can be used."""
    try:
        owner = path.lstat().st_uid
    except OSError:
        return "a folder above it is closed to this user"
    if owner == os.geteuid():
        return f"run `chmod u+rwX {shlex.quote(str(path))}`"
    return f"it belongs to {_user_name(owner)}: {run_as(owner)}"


def run_as(uid: int) -> str:
    """Advise to run hsmkms as another user, by a command if the user has a name."""
    name = _user_name(uid)
    if name == os.environ.get(SERVICE_VARIABLE):
        return f"run `sudo hsmkms ...`, which works as {name}"
    return f"run hsmkms as {name} (`sudo -u {name} hsmkms ...`)" if name != str(uid) else f"run hsmkms as the uid {uid}"


def weakness(path: Path) -> Weakness | None:
    """Return the first component of a path that lets another user change what is there; None if there is none."""
    trusted = trusted_owners()
    places = list(_way(path.absolute()))
    # Not Path.exists: that raises where a folder may not be read.
    target = places[-1][0] if os.path.exists(path) else None  # noqa: PTH110
    for place, status in places:
        if status.st_uid not in trusted:
            return _foreign(place, status)
        sticky = bool(status.st_mode & stat.S_ISVTX) and place != target
        weak_point = None if sticky or stat.S_ISLNK(status.st_mode) else _written_by_others(place, status)
        if weak_point is not None:
            return weak_point
    return None


def make_folder(folder: Path, mode: int) -> None:
    """Create a folder with exactly this mode, and its missing parents writable by their owner only. Raises OSError."""
    missing = [each for each in (folder, *folder.parents) if not os.path.exists(each)]  # noqa: PTH110 - as above
    for each in reversed(missing):
        each.mkdir(mode=mode if each == folder else _FOLDER_MODE, exist_ok=True)


def trusted_owners() -> set[int]:
    """Return the uids of root, this user, and those in the variable. ConfigurationError for an unknown user name."""
    return {0, os.geteuid(), *map(_uid, os.environ.get(TRUSTED_VARIABLE, "").replace(",", " ").split())}


def _uid(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as exc:
        raise ConfigurationError(f"{TRUSTED_VARIABLE} names {name!r}, and there is no such user: correct it") from exc


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every existing component of a path with its status, from the root to the target, following links."""
    place, links = Path("/"), 0
    todo = list(reversed(path.parts[1:]))
    yield place, place.lstat()
    while todo:
        name = todo.pop()
        if name == "..":
            place = place.parent
            continue
        here = place / name
        try:
            status = here.lstat()
            target = here.readlink() if stat.S_ISLNK(status.st_mode) else None
        except OSError:  # an unreachable path is not used either
            return
        yield here, status
        if target is None:
            place = here
            continue
        links += 1
        if links > _MOST_LINKS:
            return
        place = Path("/") if target.is_absolute() else place
        todo.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))


def _foreign(place: Path, status: os.stat_result) -> Weakness:
    owner = _user_name(status.st_uid)
    return Weakness(
        reason=f"{shlex.quote(str(place))} belongs to {owner} (uid {status.st_uid})",
        cure=f"{run_as(status.st_uid)}; if {owner} may change what this user runs and trusts, name {owner} in "
        f"{TRUSTED_VARIABLE}",
    )


def _written_by_others(place: Path, status: os.stat_result) -> Weakness | None:
    """Return the weakness of a mode that lets others write; in a folder that lets them remove and replace entries."""
    mode = status.st_mode
    group = bool(mode & stat.S_IWGRP) and not _is_private(place, status)
    if not group and not mode & stat.S_IWOTH:
        return None
    who, bits = ("everybody", "go") if mode & stat.S_IWOTH else ("its group", "g")
    return Weakness(
        reason=f"{shlex.quote(str(place))} can be written by {who} (mode {stat.S_IMODE(mode):04o}, group "
        f"{_group_name(status.st_gid)})",
        cure=f"run `chmod {bits}-w {shlex.quote(str(place))}`",
    )


def _is_private(place: Path, status: os.stat_result) -> bool:
    """Return True if only trusted users are in the group of a file, as far as this machine knows."""
    if _has_acl(place):
        return False  # the mode's group bits are then the mask of the ACL
    try:
        group = grp.getgrgid(status.st_gid)
    except KeyError:  # a container that runs under a uid without an account
        return status.st_gid in {os.getegid(), *os.getgroups()}
    names = {_user_name(each) for each in trusted_owners()}
    if not set(group.gr_mem) <= names:
        return False
    if status.st_gid == 0:
        return True
    known = group.gr_name in names or status.st_gid in _SYSTEM_GROUPS
    return known and all(each.pw_gid != status.st_gid or each.pw_name in names for each in pwd.getpwall())


def _has_acl(place: Path) -> bool:
    try:
        return bool(os.getxattr(place, _ACL, follow_symlinks=False))
    except OSError:
        return False


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
