"""HA groups for tests: one module that shows two members, each a SoftHSM behind a shim of its own.

tests/group is the module that shows the members together, as a vendor's client does. Each member is a copy of the shim
over a copy of SoftHSM's library, so that it has sessions, handles and a login of its own, and fails alone. The members
share the folder of one SoftHSM token, so that what is made on the one is on the other at once; the second has another
serial. A second member with ``behind=True`` has a copy of the folder instead, to which nothing new comes.
"""

import shutil
from pathlib import Path
from typing import Final, Self

import second_token
import shims
from msgspec import Struct
from msgspec.structs import replace

from hsmkms.config.settings import TokenSettings
from hsmkms.hsm.session import softhsm

SECOND_SERIAL: Final = "b" * 16
REMOVED: Final = 0x32


def replicate(ours: Path, theirs: Path) -> None:
    """Copy the objects that the other member lacks, and let its module notice."""
    for each in ours.glob("*.object"):
        if each.name != "token.object" and not (theirs / each.name).exists():
            shutil.copy(each, theirs / each.name)
    shutil.copy(ours / "generation", theirs / "generation")


class Modules(Struct, frozen=True):
    """The module that shows the group, and a copy of shim and SoftHSM for each member."""

    group: Path
    shims: tuple[Path, ...]
    libraries: tuple[Path, ...]

    @classmethod
    def build(cls, folder: Path, shim: Path, kept: Path) -> Self:
        """Compile the one, unless it is ``kept``, and copy the others to ``folder``."""
        copies: dict[str, list[Path]] = {"shim": [], "softhsm": []}
        for name, original in (("shim", shim), ("softhsm", softhsm.find_module())):
            for member in ("first", "second"):
                copies[name].append(folder / f"{name}-{member}.so")
                shutil.copy(original, copies[name][-1])
        group = shims.compile_module("group", kept)
        return cls(group, tuple(copies["shim"]), tuple(copies["softhsm"]))


class Member(Struct, frozen=True):
    """One member: its serial, and the control file of its shim, for all processes."""

    serial: str
    control: Path

    def order(self, *lines: str) -> None:
        """Let it behave so from now on; it keeps its serial."""
        shims.order(self.control, f"serial {self.serial}", *lines)

    def fail(self, code: int = REMOVED) -> None:
        """Let every call to it fail from now on, as after its removal."""
        self.order(f"fault * * return {code:#x}")

    def come_back(self) -> None:
        """Let it answer again, to processes that reinitialise the module; its sessions and logins are gone."""
        self.order(f"fault * until-initialized return {REMOVED:#x}")


class Group(Struct, frozen=True):
    """A group of two members, and the settings of a token that is this group."""

    first: Member
    second: Member
    settings: TokenSettings

    @classmethod
    def of(
        cls,
        token: TokenSettings,
        folder: Path,
        modules: Modules,
        *,
        behind: bool = False,
        replication_seconds: float | None = None,
    ) -> Self:
        """Make a group of a SoftHSM token and a second member, which is a copy if it is ``behind``.

        Without ``replication_seconds`` no creation waits for a member that is behind.
        """
        assert isinstance(token.serial, str)
        folder.mkdir(mode=0o700)
        copied = token.environment
        if behind:
            _, copied = second_token.new_module(token, folder / "copy")
            second_token.clone(token, serial=SECOND_SERIAL, into=folder / "copy" / "tokens")
        members, shown = [], []
        each = zip(("first", "second"), (token.serial, SECOND_SERIAL), (token.environment, copied), strict=True)
        for (name, serial, environment), shim, library in zip(each, modules.shims, modules.libraries, strict=True):
            member = Member(serial, folder / f"{name}.control")
            member.order()
            members.append(member)
            variables = environment | shims.variables(library, member.control)
            shown.append("|".join((str(shim), *(f"{name}={value}" for name, value in variables.items()))))
        settings = replace(
            token,
            module=modules.group,
            serial=tuple(each.serial for each in members),
            environment={"GROUP_MEMBERS": " ".join(shown)},
            replication_seconds=(0.0 if behind else 60.0) if replication_seconds is None else replication_seconds,
        )
        return cls(*members, settings)

    def write(self, file: Path) -> None:
        """Let a configuration file name the group in the place of its token."""
        assert isinstance(self.settings.serial, tuple)
        lines = file.read_text().splitlines()
        serials = ", ".join(f'"{each}"' for each in self.settings.serial)
        new = {
            "module =": f'module = "{self.settings.module}"',
            "serial =": f"serial = [{serials}]",
            "# replication_seconds =": f"replication_seconds = {self.settings.replication_seconds}",
        }
        kept = [next((new[each] for each in new if line.startswith(each)), line) for line in lines]
        at = kept.index("[token.environment]")
        variables = [f'{name} = "{value}"' for name, value in self.settings.environment.items()]
        end = next((i for i in range(at + 1, len(kept)) if kept[i].startswith("[")), len(kept))
        file.write_text("\n".join([*kept[: at + 1], *variables, "", *kept[end:], ""]))
