"""A SoftHSM token whose folder is changed under its users: it vanishes, or another one takes its place.

Sessions live on meanwhile, as with a network HSM whose partition is unmounted or an HSM that is initialised again.
"""

import os
import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

from hsmkms.config.settings import TokenSettings

OF_THE_TOKEN = {"token.object", "token.lock", "generation"}
"""The files of a SoftHSM token that are not its objects: label, serial and PINs are in the first."""


class TokenFolder(Struct):
    """The folder of the one token of a SoftHSM, and a place for what is taken out of it."""

    folder: Path
    place: Path

    @classmethod
    def of(cls, token: TokenSettings) -> "TokenFolder":
        """That of a token of an installation."""
        tokens = Path(token.environment["SOFTHSM2_CONF"]).parent / "tokens"
        (folder,) = tokens.iterdir()
        place = tokens.parent / "aside"
        place.mkdir(exist_ok=True)
        return cls(folder, place)

    @property
    def right(self) -> Path:
        """Where the right token is while it is not in its place."""
        return self.place / "right"

    def vanish(self) -> None:
        """Take the token away."""
        self.folder.rename(self.right)

    def put(self, other: Path) -> None:
        """Put another token in its place, which it has left."""
        other.rename(self.folder)

    def put_back(self) -> None:
        """Put the right one in its place, whatever is there."""
        if not self.right.exists():
            return
        if self.folder.exists():
            self.folder.rename(self.place / f"was-{len(list(self.place.iterdir()))}")
        self.right.rename(self.folder)

    def hide_objects(self) -> None:
        """Take the objects away, and leave the token."""
        self.right.mkdir()
        for path in self.folder.iterdir():
            if path.name not in OF_THE_TOKEN:
                path.rename(self.right / path.name)

    def show_objects(self) -> None:
        """Put them back."""
        for path in self.right.iterdir():
            path.rename(self.folder / path.name)
        self.right.rmdir()

    def copy(self, name: str, without: set[str] | None = None) -> Path:
        """A copy of the token as it is now, without some of its files."""
        made = self.place / name
        shutil.copytree(self.folder, made)
        for each in without or ():
            (made / each).unlink(missing_ok=True)
        return made

    def initialised_again(self, name: str = "empty") -> Path:
        """A token with the same label, serial and PINs, and without objects."""
        return self.copy(name, self.objects())

    def with_another_serial(self, label: str, conf: Path) -> Path:
        """A token that was initialised again with that label, so that its serial is another one."""
        made = self.place / "another serial"
        made.mkdir()
        own = self.place / "softhsm2.conf"
        there = [line for line in conf.read_text().splitlines() if not line.startswith("directories.tokendir")]
        own.write_text("\n".join([*there, f"directories.tokendir = {made}"]))
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", "1234", "--so-pin", "12345678"]
        subprocess.run(command, env=os.environ | {"SOFTHSM2_CONF": str(own)}, check=True, capture_output=True)
        (token,) = made.iterdir()
        return token

    def objects(self) -> set[str]:
        """The files of its objects."""
        return {path.name for path in self.folder.iterdir()} - OF_THE_TOKEN
