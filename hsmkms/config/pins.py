"""The sources that a token's PIN may come from: file, environment, command, or the person at the terminal.

No error, repr or log of this module holds anything of a PIN.
"""

import getpass
import hashlib
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct
from msgspec.structs import asdict

from hsmkms import atomic_write, ownership
from hsmkms.errors import ConfigurationError, PinError
from hsmkms.secret import PinOrigin, Secret

COMMAND_SECONDS: Final = 30
MAX_BYTES: Final = 4096
"""More than any token takes. What is longer is not a PIN, and not all of it is read."""

_MOST_KEY_BYTES: Final = 65536
"""No private key is longer in any form."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FAMILY: Final = secrets.token_hex(8)
"""The same in this process and in those that it forks, which have its environment; another one in all others."""


class PinSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the PIN comes from: exactly one of these."""

    file: Path | None = None
    environment: str | None = None
    command: tuple[str, ...] | None = None
    prompt: bool = False

    @property
    def named(self) -> list[str]:
        """The sources that are named."""
        return [name for name, value in asdict(self).items() if value not in (None, False)]


def terminal_prompt() -> Callable[[], str] | None:
    """A way to ask the person at the terminal for the PIN, without echo; None where there is no terminal."""
    return (lambda: getpass.getpass("PIN of the token: ")) if sys.stdin.isatty() else None


def read_pin(
    pin: PinSettings, *, credentials: tuple[str, ...] = (), interactive: Callable[[], str] | None = None
) -> str:
    """Fetch the PIN from its one source. Raises PinError, which holds nothing of it.

    ``credentials``: the names under which systemd may hand over its file.
    ``interactive`` is how a person is asked; without it, at the terminal if there is one.
    """
    return read_secret(pin, credentials=credentials, interactive=interactive).reveal()


def read_secret(
    pin: PinSettings, *, credentials: tuple[str, ...] = (), interactive: Callable[[], str] | None = None
) -> Secret:
    """The same, with where it came from."""
    if pin.file is not None:
        return _pin_of_file(pin.file, credentials)
    if pin.environment is not None:
        return _pin_of_environment(pin.environment)
    if pin.command is not None:
        return _pin_of_command(pin.command)
    ask = interactive or terminal_prompt()
    if ask is None:
        raise PinError("token.pin.prompt needs a terminal: use a file, an environment variable or a command")
    try:
        answer = Secret(ask())
    except EOFError as exc:
        raise PinError("no PIN was given") from exc
    # What a person types anew is what he wants to be tried.
    origin = PinOrigin(name="the answer at the prompt", version=secrets.token_hex(8), typed=True)
    return _one_line(answer, "the answer", origin)


def draft_of(file: Path) -> Path:
    """Where a new PIN is until the token knows it."""
    return file.with_name(f"{file.name}.new")


def write(file: Path, pin: Secret) -> None:
    """Write a PIN to a new file of its owner alone, durably. PinError if it cannot be written or is no PIN."""
    _one_line(pin, "the new PIN")
    try:
        atomic_write.create(file, f"{pin.reveal()}\n".encode())
    except OSError as exc:
        raise PinError(f"{file} cannot be written: {exc.strerror}") from exc


def put_in_place(draft: Path, file: Path) -> None:
    """Let the draft take the place of the PIN file, with its owner, durably."""
    try:
        told = file.stat()
        os.lchown(draft, told.st_uid, told.st_gid)
        draft.replace(file)
        atomic_write.sync_folder(file.parent)
    except OSError as exc:
        raise PinError(
            f"the PIN is changed, but {draft} cannot take the place of {file} ({exc.strerror}): run change-pin again"
        ) from exc


def _credential(path: Path, names: tuple[str, ...]) -> Path:
    """The copy that systemd handed over (LoadCredential=NAME:PATH) under the first name that is there, or the path."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    copies = [Path(folder, name) for name in names] if folder else []
    return next((copy for copy in copies if copy.exists()), path)


def _closed_to_others(told: os.stat_result, *, credential: bool) -> bool:
    """True if the modes let nobody else read it; the group's bits of a credential of root's are the mask of its ACL."""
    may = stat.S_IRGRP if credential and told.st_uid == 0 else 0
    return not told.st_mode & _OTHERS & ~may


def _pin_of_file(named: Path, credentials: tuple[str, ...]) -> Secret:
    path = _credential(named, credentials)
    try:
        with _closed_file(path, "the PIN file", credential=path is not named) as (file, told):
            origin = _origin_of_file(named, told, credential=path is not named)
            return _one_line(_decoded(file.read(MAX_BYTES)), f"the PIN file {path}", origin)
    except OSError as exc:
        advice = _advice(named, credentials) if path is named else ""
        raise PinError(f"the PIN file {path} cannot be read: {exc.strerror}{advice}") from exc


@contextmanager
def _closed_file(path: Path, what: str, *, credential: bool = False) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a file that no other user can read or replace. PinError if one can; OSError if it cannot be opened."""
    with path.open("rb") as file:
        told = os.fstat(file.fileno())
        if told.st_uid not in ownership.trusted_owners():
            raise PinError(f"{what} {path} belongs to another user: run `chown {os.geteuid()} {path}`")
        if not _closed_to_others(told, credential=credential):
            raise PinError(f"{what} {path} is open to other users: run `chmod 600 {path}`")
        found = ownership.weakness(path)
        if found is not None:
            raise PinError(f"{what} {path} can be replaced by another user, so it is not used: {found}")
        yield file, told


def _advice(file: Path, credentials: tuple[str, ...]) -> str:
    """How a service of systemd gets a file that was not handed over to it."""
    if not credentials or "CREDENTIALS_DIRECTORY" not in os.environ:
        return ""
    return f"; systemd hands it over with LoadCredential={credentials[0]}:{file}"


def _origin_of_file(named: Path, told: os.stat_result, *, credential: bool) -> PinOrigin:
    """A file has one name under all paths to it; its status changes when it is written, and in systemd's copies."""
    state = f"{told.st_ino} {told.st_mtime_ns} {told.st_ctime_ns}"
    version = hashlib.sha256(state.encode()).hexdigest()[:16]
    return PinOrigin(name=f"the PIN file {os.path.realpath(named)}", version=version, comparable=not credential)


def read_private_key(what: str, *, file: Path | None = None, command: tuple[str, ...] | None = None) -> bytes:
    """A private key from a file that is closed to others, or as a program prints it. ConfigurationError says why not.

    ``what`` names the key in that. One of the two is given.
    """
    if file is not None:
        try:
            with _closed_file(file, what) as (opened, _):
                return opened.read(_MOST_KEY_BYTES)
        except PinError as exc:
            raise ConfigurationError(str(exc)) from exc
        except OSError as exc:
            raise ConfigurationError(f"{what} {file} cannot be read: {exc.strerror}") from exc
    printed, fault = _output_of(command or ())
    if fault:
        del printed
        raise ConfigurationError(f"{what}: the program {(command or ('',))[0]} {fault}: run it by hand to see why")
    return printed[:_MOST_KEY_BYTES]


def _pin_of_environment(name: str) -> Secret:
    if name not in os.environ:
        raise PinError(f"the environment variable {name} (token.pin.environment) is not set")
    source = f"the environment variable {name}"
    return _one_line(Secret(os.environ[name]), source, PinOrigin(name=source, version=_FAMILY))


def _pin_of_command(command: tuple[str, ...]) -> Secret:
    # Raised out here, where no local variable and no earlier exception holds what the program printed.
    printed, fault = _first_line_of(command)
    if fault:
        raise PinError(f"the PIN command {command[0]} {fault}: run it by hand to see why")
    source = f"the PIN command {command[0]}"
    return _one_line(printed, source, PinOrigin(name=source))


def _first_line_of(command: tuple[str, ...]) -> tuple[Secret | None, str]:
    """The first line that a program prints (None if that is no text), and what went wrong with it."""
    printed, fault = _output_of(command)
    return _decoded(printed.partition(b"\n")[0]), fault


def _output_of(command: tuple[str, ...]) -> tuple[bytes, str]:
    """What a program prints, and what went wrong with it."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return b"", f"took longer than {COMMAND_SECONDS} seconds"
    except (OSError, ValueError) as exc:
        return b"", f"could not be started ({type(exc).__name__})"
    return done.stdout, f"ended with status {done.returncode}" if done.returncode else ""


def _decoded(raw: bytes) -> Secret | None:
    try:
        return Secret(raw.decode())
    except UnicodeDecodeError:  # it would carry the bytes, so the caller raises an error of its own
        return None


def _one_line(text: Secret | None, source: str, origin: PinOrigin | None = None) -> Secret:
    """Without one line end. A text that cannot be a PIN is refused here, before it costs a try on the token."""
    if text is None:
        raise PinError(f"{source} is not UTF-8 text")
    pin = Secret(text.reveal().removesuffix("\n").removesuffix("\r"), origin)
    if not pin.reveal():
        raise PinError(f"{source} holds no PIN")
    if not pin.reveal().isprintable():
        raise PinError(f"{source} holds more than one line, or control characters")
    if len(pin.reveal().encode()) >= MAX_BYTES:
        raise PinError(f"{source} holds {MAX_BYTES} bytes or more, which is no PIN")
    return pin
