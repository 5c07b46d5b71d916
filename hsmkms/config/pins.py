"""Read a token's PIN from its source: file, environment, command, or a prompt at the terminal.

No error, repr or log of this module contains any part of a PIN.
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
"""Above the longest PIN of any token. A longer text is no PIN, and is not read to its end."""

_MOST_KEY_BYTES: Final = 65536
"""Above the length of any private key, in any form."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FAMILY: Final = secrets.token_hex(8)
"""Shared by this process and its forked children, which have the same environment; different in all others."""


class PinSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The source of the PIN: exactly one of these."""

    file: Path | None = None
    environment: str | None = None
    command: tuple[str, ...] | None = None
    prompt: bool = False

    @property
    def named(self) -> list[str]:
        """The names of the sources that are set."""
        return [name for name, value in asdict(self).items() if value not in (None, False)]


def terminal_prompt() -> Callable[[], str] | None:
    """Return a function that prompts for the PIN without echo; None without a terminal."""
    return (lambda: getpass.getpass("PIN of the token: ")) if sys.stdin.isatty() else None


def read_pin(
    pin: PinSettings, *, credentials: tuple[str, ...] = (), interactive: Callable[[], str] | None = None
) -> str:
    """Read the PIN from its source. Raises PinError, which contains no part of it.

    ``credentials``: the names of systemd credentials that may stand for its file.
    ``interactive`` prompts a person; by default at the terminal, if there is one.
    """
    return read_secret(pin, credentials=credentials, interactive=interactive).reveal()


def read_secret(
    pin: PinSettings, *, credentials: tuple[str, ...] = (), interactive: Callable[[], str] | None = None
) -> Secret:
    """Read the PIN from its source, with its origin; otherwise like ``read_pin``."""
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
    # A PIN that is typed again is meant to be tried again, so each answer gets a version of its own.
    origin = PinOrigin(name="the answer at the prompt", version=secrets.token_hex(8), typed=True)
    return _one_line(answer, "the answer", origin)


def draft_of(file: Path) -> Path:
    """Return the path of the draft, which holds a new PIN until it is set on the token."""
    return file.with_name(f"{file.name}.new")


def write(file: Path, pin: Secret) -> None:
    """Write a PIN to a new file, readable by its owner only, and fsync it. PinError on failure, or if it is no PIN."""
    _one_line(pin, "the new PIN")
    try:
        atomic_write.create(file, f"{pin.reveal()}\n".encode())
    except OSError as exc:
        raise PinError(f"{file} cannot be written: {exc.strerror}") from exc


def put_in_place(draft: Path, file: Path) -> None:
    """Replace the PIN file by the draft, keep its owner, and fsync."""
    try:
        original = file.stat()
        os.lchown(draft, original.st_uid, original.st_gid)
        draft.replace(file)
        atomic_write.sync_folder(file.parent)
    except OSError as exc:
        raise PinError(
            f"the PIN is changed, but {draft} cannot replace {file} ({exc.strerror}): run change-pin again"
        ) from exc


def _credential(path: Path, names: tuple[str, ...]) -> Path:
    """Return systemd's copy (LoadCredential=NAME:PATH) under the first of the names that exists, else the path."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    copies = [Path(folder, name) for name in names] if folder else []
    return next((copy for copy in copies if copy.exists()), path)


def _closed_to_others(status: os.stat_result, *, credential: bool) -> bool:
    """Return True if the mode lets no other user read the file.

    The group bits of a credential that belongs to root are the mask of its ACL.
    """
    allowed = stat.S_IRGRP if credential and status.st_uid == 0 else 0
    return not status.st_mode & _OTHERS & ~allowed


def _pin_of_file(named: Path, credentials: tuple[str, ...]) -> Secret:
    path = _credential(named, credentials)
    try:
        with _closed_file(path, "the PIN file", credential=path is not named) as (file, status):
            origin = _origin_of_file(named, status, credential=path is not named)
            return _one_line(_decoded(file.read(MAX_BYTES)), f"the PIN file {path}", origin)
    except OSError as exc:
        advice = _advice(named, credentials, exc) if path is named else ""
        raise PinError(f"the PIN file {path} cannot be read: {exc.strerror}{advice}") from exc


@contextmanager
def _closed_file(path: Path, what: str, *, credential: bool = False) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a file that no other user can read or replace. PinError if one can; OSError if it cannot be opened."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in ownership.trusted_owners():
            raise PinError(f"{what} {path} belongs to another user: {ownership.run_as(status.st_uid)}")
        if not _closed_to_others(status, credential=credential):
            raise PinError(f"{what} {path} is open to other users: run `chmod 600 {path}`")
        weak_point = ownership.weakness(path)
        if weak_point is not None:
            raise PinError(f"{what} {path} can be replaced by another user, so it is not used: {weak_point}")
        yield file, status


def _advice(file: Path, credentials: tuple[str, ...], error: OSError) -> str:
    """Advise how a systemd service, or its command, gets the PIN file as a credential; empty where neither does."""
    if isinstance(error, PermissionError) and ownership.SERVICE_VARIABLE in os.environ:
        return "; `sudo hsmkms ...` hands it over"
    if not credentials or "CREDENTIALS_DIRECTORY" not in os.environ:
        return ""
    return f"; systemd passes it with LoadCredential={credentials[0]}:{file}"


def _origin_of_file(named: Path, status: os.stat_result, *, credential: bool) -> PinOrigin:
    """Return the origin of a PIN file: its real path as the name, a hash of its status as the version.

    The status changes when the file is written; each of systemd's copies has another one.
    """
    state = f"{status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"
    version = hashlib.sha256(state.encode()).hexdigest()[:16]
    return PinOrigin(name=f"the PIN file {os.path.realpath(named)}", version=version, comparable=not credential)


def read_private_key(
    what: str,
    *,
    file: Path | None = None,
    command: tuple[str, ...] | None = None,
    credentials: tuple[str, ...] = (),
) -> bytes:
    """Read a private key from a file that no other user can read, or from a program's output.

    Either ``file`` or ``command`` is given. ``credentials``: the names of systemd credentials that may stand for the
    file. Raises ConfigurationError, in which ``what`` names the key.
    """
    if file is not None:
        path = _credential(file, credentials)
        try:
            with _closed_file(path, what, credential=path is not file) as (opened, _):
                return opened.read(_MOST_KEY_BYTES)
        except PinError as exc:
            raise ConfigurationError(str(exc)) from exc
        except OSError as exc:
            advice = _advice(file, credentials, exc) if path is file else ""
            raise ConfigurationError(f"{what} {path} cannot be read: {exc.strerror}{advice}") from exc
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
    # Raised here, where no local variable and no chained exception holds the program's output.
    printed, fault = _first_line_of(command)
    if fault:
        raise PinError(f"the PIN command {command[0]} {fault}: run it by hand to see why")
    source = f"the PIN command {command[0]}"
    return _one_line(printed, source, PinOrigin(name=source))


def _first_line_of(command: tuple[str, ...]) -> tuple[Secret | None, str]:
    """Run a program; return the first line of its output (None if it is no text), and its failure or an empty text."""
    printed, fault = _output_of(command)
    return _decoded(printed.partition(b"\n")[0]), fault


def _output_of(command: tuple[str, ...]) -> tuple[bytes, str]:
    """Run a program; return its output, and its failure or an empty text."""
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
    except UnicodeDecodeError:  # it holds the bytes, so the caller raises a new error instead of chaining it
        return None


def _one_line(text: Secret | None, source: str, origin: PinOrigin | None = None) -> Secret:
    """Remove one line end, and refuse what cannot be a PIN before it costs a try on the token."""
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
