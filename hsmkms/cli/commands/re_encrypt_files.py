"""Commands on many files at once: re-encrypt-files."""

import errno
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from msgspec import Struct

from hsmkms.cli.api import values
from hsmkms.cli.api.table import CRYPTOGRAPHY
from hsmkms.cli.errors import describe
from hsmkms.cli.files import sealed_files
from hsmkms.cli.files.interruption import INTERRUPTED, interruptible
from hsmkms.cli.files.progress import progress
from hsmkms.cli.files.sealed_files import Base64Form, Content, FileEntry, FileLeftAloneError
from hsmkms.cli.options import Common, with_common
from hsmkms.errors import DependencyTimeoutException, HsmKmsError, SetupError, TokenUnavailableError

if TYPE_CHECKING:
    from hsmkms.kms import Kms
    from hsmkms.service.operator.re_encryption import BackingKey, Job

THREADS: Final = 4
"""Threads wait for disk and token at the same time; Python code itself uses one processor."""
AHEAD: Final = 64
"""How many files may be submitted before the outcome of the first of them is read."""

_STOPPING: Final = (DependencyTimeoutException, TokenUnavailableError, SetupError)
"""Errors that would occur for the next file as well."""


class Kind(StrEnum):
    """The outcome of a file, which is also the name of its total."""

    RE_ENCRYPTED = "ReEncrypted"
    ALREADY_CURRENT = "AlreadyCurrent"
    NOT_CIPHERTEXT = "NotCiphertext"
    FAILED = "Failed"
    NOT_DONE = "NotDone"


class Outcome(Struct, frozen=True):
    """The outcome of one file; ``needs`` is the backing key that it needs now, where that is known."""

    kind: Kind
    needs: "BackingKey | None" = None
    code: str = ""
    sentence: str = ""


NOT_DONE: Final = Outcome(Kind.NOT_DONE)
NOT_CIPHERTEXT: Final = Outcome(Kind.NOT_CIPHERTEXT)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("re-encrypt-files", rich_help_panel=CRYPTOGRAPHY)(re_encrypt_files)


@with_common("config", "region", "output", "query")
def re_encrypt_files(
    common: Common,
    *,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", exists=True, help="Files, and folders (recursive).")],
    destination_key_id: Annotated[
        str | None, typer.Option("--destination-key-id", help=f"{values.KEY_HELP} Not needed with --report.")
    ] = None,
    source_encryption_context: Annotated[
        str | None, typer.Option("--source-encryption-context", metavar="MAP", help="The files' encryption context.")
    ] = None,
    destination_encryption_context: Annotated[
        str | None,
        typer.Option(
            "--destination-encryption-context",
            metavar="MAP",
            help="The files' new encryption context; default: the same.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="GLOB", help="Only files whose names match; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Try everything, change nothing.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Only list the files that are not under their keys' current material.")
    ] = False,
) -> None:
    """Re-encrypt files that are ciphertexts under a key's current key material; status 1 if something failed.

    A file is processed if its whole content is one ciphertext, raw or in base64; it keeps that form, mode and owner.

    Each file is replaced atomically; after an interruption, run the same command again. In folders, symbolic links are
    not followed.

    Example: hsmkms re-encrypt-files ./secrets --destination-key-id alias/photos
    """
    contexts = _read_contexts(source_encryption_context, destination_encryption_context)
    if report != (destination_key_id is None) or (report and (dry_run or any(contexts))):
        raise typer.BadParameter("say --destination-key-id, or --report without key, contexts and --dry-run")
    arguments = sealed_files.outermost(paths)
    with common.open() as kms, interruptible() as interrupted:
        job = _job(kms, common, destination_key_id, contexts, dry_run=dry_run)
        if not (dry_run or report):
            sealed_files.remove_leftovers(arguments)
        run = Run(job, interrupted)
        files = sealed_files.walk(arguments, include or [])
        with progress("re-encrypt-files", partial(_count, arguments, include or [])) as advance:
            run.work(files, advance)
        answer = run.answer()
    common.show(answer)
    if run.stopped_by is not None:
        raise run.stopped_by
    if interrupted.is_set():
        sys.exit(INTERRUPTED)
    if run.failures:
        sys.exit(1)


def _count(arguments: list[Path], include: list[str]) -> int:
    return sum(1 for _ in sealed_files.walk(arguments, include))


class Run:
    """One run over all files: processes them in threads, counts outcomes in the order of the files."""

    def __init__(self, job: "Job", interrupted: Event) -> None:
        self.job = job
        self.failures: list[dict[str, str]] = []
        self.stopped_by: HsmKmsError | None = None
        self._interrupted = interrupted
        self._totals = Counter[Kind]()
        self._needed = Counter["BackingKey"]()

    def work(self, files: Iterable[FileEntry], advance: Callable[[], None]) -> None:
        """Process the files. After an interruption or a stopping error the rest is only counted."""
        pending: deque[tuple[FileEntry, Future[Outcome]]] = deque()

        def count_first() -> None:
            file, future = pending.popleft()
            self._count(file.path, NOT_DONE if self._stopped and future.cancel() else self._outcome(future))
            advance()

        with ThreadPoolExecutor(THREADS) as pool:
            for file in files:
                if self._stopped:
                    self._count(file.path, NOT_DONE)
                    continue
                pending.append((file, pool.submit(do_file, self.job, file)))
                if len(pending) > AHEAD:
                    count_first()
            while pending:
                count_first()

    def answer(self) -> dict[str, Any]:
        """Return the totals, the failures, and the older backing keys that files need."""
        old = {needs: files for needs, files in sorted(self._needed.items()) if not self.job.is_current(needs)}
        return {
            "Files": self._totals.total(),
            **{str(kind): self._totals[kind] for kind in Kind},
            "Failures": self.failures,
            "OldBackingKeys": [
                {"KeyId": needs.key_id, "KeyMaterialId": needs.key_material_id, "Files": files}
                for needs, files in old.items()
            ],
        }

    @property
    def _stopped(self) -> bool:
        return self.stopped_by is not None or self._interrupted.is_set()

    def _outcome(self, future: "Future[Outcome]") -> Outcome:
        try:
            return future.result()
        except _STOPPING as exc:
            self.stopped_by = self.stopped_by or exc
            return NOT_DONE

    def _count(self, path: str, outcome: Outcome) -> None:
        self._totals[outcome.kind] += 1
        if outcome.needs is not None:
            self._needed[outcome.needs] += 1
        if outcome.kind is Kind.FAILED:
            self.failures.append({"File": _printable(path), "Error": outcome.code, "Message": outcome.sentence})


def do_file(job: "Job", file: FileEntry) -> Outcome:
    """Process one file; return its outcome. Raises only errors that would occur for the next file as well."""
    if file.error is not None:
        return _failed(file.error)
    try:
        content = sealed_files.read(file.path)
    except OSError as exc:
        return _failed(exc)
    recognised = _recognise(content) if content is not None else None
    if content is None or recognised is None:
        return NOT_CIPHERTEXT
    ciphertext, form, needs = recognised
    try:
        return _move(job, file.path, content, ciphertext, form, needs)
    except _STOPPING:
        raise
    except (HsmKmsError, OSError, FileLeftAloneError) as exc:
        return _failed(exc, needs)


def _move(
    job: "Job", path: str, content: Content, ciphertext: bytes, form: Base64Form | None, needs: "BackingKey"
) -> Outcome:
    from hsmkms.service.operator.re_encryption import recognise  # noqa: PLC0415 - help must not pay for the database and the token

    moved = job.move(ciphertext, needs)
    if moved.current:
        return Outcome(Kind.ALREADY_CURRENT, needs)
    sealed_files.check_replaceable(content)
    if moved.ciphertext is None:
        return Outcome(Kind.NOT_DONE, needs)
    sealed_files.replace(path, content, moved.ciphertext if form is None else form.write(moved.ciphertext))
    return Outcome(Kind.RE_ENCRYPTED, recognise(moved.ciphertext))


def _recognise(content: Content) -> "tuple[bytes, Base64Form | None, BackingKey] | None":
    """Return the ciphertext, its base64 layout (None for raw) and its backing key; None if it is no ciphertext."""
    from hsmkms.service.operator.re_encryption import recognise  # noqa: PLC0415 - see _move

    if (needs := recognise(content.raw)) is not None:
        return content.raw, None, needs
    unwrapped = content.unwrapped()
    if unwrapped is None or (needs := recognise(unwrapped[0])) is None:
        return None
    return *unwrapped, needs


def _failed(error: Exception, needs: "BackingKey | None" = None) -> Outcome:
    if isinstance(error, HsmKmsError):
        code, _, sentence = describe(error).partition(": ")
    elif isinstance(error, OSError):
        code, sentence = errno.errorcode.get(error.errno or 0, "OSError"), error.strerror or str(error)
    else:
        code, sentence = getattr(error, "code", type(error).__name__), str(error)
    return Outcome(Kind.FAILED, needs, code, sentence)


def _read_contexts(source: str | None, destination: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Parse the source's and the destination's encryption context; the latter defaults to the former."""
    before = values.mapping("--source-encryption-context", source) if source is not None else {}
    if destination is None:
        return before, before
    return before, values.mapping("--destination-encryption-context", destination)


def _job(
    kms: "Kms", common: Common, key_id: str | None, contexts: tuple[dict[str, str], dict[str, str]], *, dry_run: bool
) -> "Job":
    from hsmkms.service.operator.re_encryption import Mover, Survey  # noqa: PLC0415 - see _move

    caller = common.caller(kms)
    if key_id is None:
        return Survey(kms, caller)
    source, destination = contexts
    return Mover(
        kms,
        values.key_name(key_id),
        source_context=source,
        destination_context=destination,
        dry_run=dry_run,
        caller=caller,
    )


def _printable(path: str) -> str:
    """Escape a path for one line: file names may contain line ends, control sequences and invalid UTF-8."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
