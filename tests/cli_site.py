"""Running the real `hsmkms` in processes of its own (see warm.py), against copies of one real installation.

An installation is made once and copied for each test that wants its own: only two of its files name their folder.
"""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import warm
from msgspec import Struct

HERE = Path(__file__).parent / "cli"
BIN = Path(sys.executable).parent
PROGRAMS = HERE / "programs"
ACCOUNT = "111122223333"
REGION = "eu-central-1"
OTHER_REGION = "us-east-1"
WIDTH = "100"
NewFolder = Callable[[], Path]
"""Names a folder that is not there yet."""
SECONDS = 240
"""After which a test gives up."""


class Result(Struct, frozen=True, kw_only=True):
    """What a command printed, and how it ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON
        """The answer of a command that must have succeeded without a word of complaint."""
        assert (self.status, self.stderr) == (0, ""), self
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The one line of a command that must have failed with status 1 and printed nothing else."""
        assert self.status == 1, self
        assert self.stdout == "", self
        assert self.stderr.startswith("hsmkms: "), self
        assert self.stderr.count("\n") == 1, self
        return self.stderr.removeprefix("hsmkms: ").rstrip("\n")


class Site(Struct, frozen=True, kw_only=True):
    """A folder to work in, with an installation in a subfolder (which some tests still have to make)."""

    folder: Path
    name: str = "data"
    """The name of the subfolder."""

    @property
    def data(self) -> Path:
        """The data folder of the installation."""
        return self.folder / self.name

    @property
    def config(self) -> Path:
        """The installation's configuration file."""
        return self.data / "hsmkms.toml"

    def environment(self, **more: str) -> dict[str, str]:
        """Only what a command needs: nothing of the user who runs the tests."""
        return {
            "PATH": f"{warm.folder()}:{BIN}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "COLUMNS": WIDTH,
            "HSMKMS_CONFIG": str(self.config),
        } | more

    def run(self, *arguments: object, stdin: bytes = b"", cwd: Path | None = None, **environment: str) -> Result:
        """Run `hsmkms` without a terminal."""
        done = warm.run([*map(str, arguments)], cwd or self.folder, self.environment(**environment), stdin, SECONDS)
        return Result(status=done.returncode, stdout=done.stdout.decode(), stderr=done.stderr.decode())

    def program(self, name: str, *arguments: object, status: int = 0) -> str:
        """Run one of the programs, which use the library; what it printed."""
        program = PROGRAMS / f"{name}.py"
        done = warm.run_program(program, [*map(str, arguments)], self.environment(), SECONDS, self.folder)
        assert done.returncode == status, done
        return done.stdout.decode()

    def new_key(self, *arguments: object) -> str:
        """Create a key; its id."""
        return str(self.run("create-key", *arguments).json["KeyMetadata"]["KeyId"])

    def checksum(self) -> dict[str, str]:
        """Mode and checksum of each file in the data folder, but for those that reading changes."""
        return {
            str(path.relative_to(self.data)): f"{path.stat().st_mode:o} {sha256(path.read_bytes()).hexdigest()}"
            for path in sorted(self.data.rglob("*"))
            if path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock", "token.object", "generation"))
            if path.parent.name != "audit" and not path.name.endswith(".object")
        }

    def copy(self, folder: Path) -> "Site":
        """The same installation in another place, which may be an empty folder."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        copy = Site(folder=folder, name=self.name)
        for file in (copy.config, copy.data / "softhsm" / "softhsm2.conf"):
            file.write_text(file.read_text().replace(str(self.folder), str(folder)))
        return copy


def hide_rsa(configuration: Path) -> None:
    """Hide the generation of RSA pairs in a SoftHSM configuration: of a token-check's seconds it takes most."""
    with configuration.open("a") as file:
        file.write("slots.mechanisms = -,CKM_RSA_PKCS_KEY_PAIR_GEN\n")  # SoftHSM 2.6.1 overlooks the first name


def damage(database: Path) -> None:
    """Make the pages after the first rubbish."""
    with database.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def at_terminal(
    site: Site, *arguments: str, columns: str = "200", answer: str = "", prompt: str = "", **environment: str
) -> tuple[str, int]:
    """What a command prints at a terminal, and its status.

    ``answer`` has been typed already, or is typed when ``prompt`` is shown: what asks for a PIN drops earlier input.
    """
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [warm.folder() / "hsmkms", *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=site.folder,
        env=site.environment(COLUMNS=columns, TERM="dumb") | environment,
    )
    os.close(terminal)
    typed = f"{answer}\n".encode() if answer else b""
    printed = b""
    try:
        if not prompt:
            os.write(controller, typed)
        while chunk := os.read(controller, 65536):
            printed += chunk
            if prompt and prompt.encode() in printed:
                os.write(controller, typed)
                prompt = ""
    except OSError:  # Linux says so when the other end has been closed
        pass
    finally:
        os.close(controller)
    return printed.decode().replace("\r\n", "\n"), process.wait(SECONDS)
