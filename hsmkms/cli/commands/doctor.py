"""doctor: one table of checks, from the outside in; each says what it found, and what to do about it."""

import os
import shlex
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, TypeVar

import typer

from hsmkms import ownership
from hsmkms.cli.api.confirmations import at_a_terminal
from hsmkms.cli.commands.repair import PANEL
from hsmkms.cli.options import Common, with_common
from hsmkms.errors import BindingError, CloneError, ConfigurationError, HsmKmsError, StoreError
from hsmkms.model.audit import Durability

if TYPE_CHECKING:
    from hsmkms.config.settings import Settings
    from hsmkms.kms import Kms

Kept = TypeVar("Kept")

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_LEFTOVERS: Final = (".backup-", ".restore-")
_MIB: Final = 1024 * 1024
_TOO_LITTLE: Final = 100 * _MIB
_LITTLE: Final = 1024 * _MIB
_SOON: Final = timedelta(days=30)
_MOST_SESSIONS: Final = 0.9
"""Of what the token has, in use by all processes: more than that is a leak, or a limit that is too tight."""


class Outcome(StrEnum):
    """How a check ended. Only what is wrong makes the status 1."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


class Verdict(NamedTuple):
    """What a check found; for all but OK with what to do."""

    outcome: Outcome
    detail: str


class Patient:
    """What the checks look at: the settings, and the installation, which is opened once."""

    def __init__(self, settings: "Settings", exits: ExitStack) -> None:
        self.settings = settings
        self._exits = exits
        self._kms: Kms | None = None
        self._fault: HsmKmsError | None = None

    def kept(self, thing: AbstractContextManager[Kept]) -> Kept:
        """What stays open for the checks that follow: to open a token is to read all of it."""
        return self._exits.enter_context(thing)

    @property
    def kms(self) -> "Kms":
        """The open installation; where it cannot be opened, the same error each time it is asked for."""
        from hsmkms import Kms  # noqa: PLC0415 - help must not pay for the database and the token
        from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for the database and the token

        if self._fault is not None:
            raise self._fault
        if self._kms is None:
            try:
                self._kms = self._exits.enter_context(Kms(wiring.core_of(self.settings, monotonic=wiring.boot_time)))
            except HsmKmsError as exc:
                self._fault = exc
                raise
        return self._kms


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", rich_help_panel=PANEL)(doctor)


@with_common("config", "output", "query")
def doctor(
    common: Common,
    *,
    retry_pin: Annotated[
        bool, typer.Option("--retry-pin", help="Try the corrected PIN once, after the token has refused one.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --retry-pin: send the PIN without asking whether it was corrected.")
    ] = False,
    token: Annotated[
        str | None,
        typer.Option("--token", help="With --yes: the token whose PIN is sent, if there are several [[token]]."),
    ] = None,
) -> None:
    """Check the installation step by step, and say what to do about each problem.

    Status 1 if something is wrong; a warning leaves it 0.

    Example: hsmkms doctor
    """
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see Patient
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see Patient

    settings = wiring.load_settings(common.config)
    if (yes and not retry_pin) or (token is not None and not yes):
        raise typer.BadParameter("--yes goes with --retry-pin, and --token with --yes")
    if retry_pin:
        insisted = token_wiring.named_token(settings, token) if yes else None
        token_wiring.retry_pin(settings, insisted=insisted, confirm=_confirm if at_a_terminal() else token_wiring.never)
    with ExitStack() as exits:
        patient = Patient(settings, exits)
        checks = UNFINISHED if _is_unfinished(settings, retried=retry_pin) else CHECKS
        verdicts = {name: _judge(check, patient) for name, check in checks.items()}
    rows = [{"Check": name, "Outcome": each.outcome, "Detail": each.detail} for name, each in verdicts.items()]
    common.show({"Checks": rows})
    if any(each.outcome is Outcome.WRONG for each in verdicts.values()):
        sys.exit(1)


def _confirm(question: str) -> bool:
    return typer.confirm(question, err=True)


def _judge(check: "Check", patient: Patient) -> Verdict:
    try:
        return check(patient)
    except HsmKmsError as exc:
        return Verdict(Outcome.WRONG, f"{type(exc).__name__}: {exc}")


def _ok(detail: str) -> Verdict:
    return Verdict(Outcome.OK, detail)


def _warning(detail: str) -> Verdict:
    return Verdict(Outcome.WARNING, detail)


# -- the checks -------------------------------------------------------------------------------------------------


def _databases(patient: Patient) -> Verdict:
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see Patient

    revisions = wiring.database_revisions(patient.settings)
    wiring.check_databases(patient.settings)
    return _ok(f"private, whole, and at the revision of this program: {', '.join(revisions.values())}")


def _pin(patient: Patient) -> Verdict:
    from hsmkms.wiring import pin_change  # noqa: PLC0415 - see Patient
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see Patient

    for each in patient.settings.tokens:
        draft = pin_change.interrupted(each)
        if draft is not None:
            raise ConfigurationError(f"a change of the PIN was interrupted ({draft} is left): run `hsmkms change-pin`")
    if any(token_wiring.wrong_pins_given(patient.settings, each) for each in patient.settings.tokens):
        return _warning("somebody gave the token a wrong PIN since the last login: find out who, before it locks")
    return _ok("no wrong PIN since the last login")


def _token(patient: Patient) -> Verdict:
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see Patient

    told = []
    for each in patient.settings.tokens:
        profile = patient.kept(closing(token_wiring.open_device(patient.settings, each))).profile
        told.append(f"{profile.label} ({profile.model}, serial {profile.serial})")
    return _ok(f"{'; '.join(told)} took the PIN and passed the probe")


def _whole(patient: Patient) -> Verdict:
    findings = len(patient.kms.operator.find_differences())
    if findings:
        raise StoreError(f"{findings} differences between database and token: run `hsmkms reconcile`")
    clone = _clone(patient)
    if clone is not None:
        return _warning(clone)
    unmarked = patient.kms.operator.interrupted_migrations()
    if unmarked:
        return _warning(
            f"the token {unmarked[0].label!r} was left and bears no note of it, so that an older database could take "
            "it for the home: let it be reached and run `hsmkms migrate-token --to HOME` again; a token that keeps no "
            "data objects needs audit.seal_file"
        )
    lost = patient.kms.operator.lost_purposes()
    if lost:
        return _warning(
            f"the newest of the installation's own keys ({', '.join(lost)}) are not on the token any more: put the "
            "token that has them back, or run `hsmkms renew-installation-keys`, which tells what is lost"
        )
    interrupted = patient.kms.operator.interrupted_rotations()
    if interrupted:
        return _warning(
            f"the rotation of the installation's own keys ({', '.join(interrupted)}) was interrupted: run "
            "`hsmkms rotate-installation-keys`"
        )
    return _ok("database and token belong together and agree")


def _clone(patient: Patient) -> str | None:
    """What is to be said of a token of the configuration that is a clone of one of the installation's."""
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see Patient

    for each in patient.settings.further_tokens and patient.settings.tokens:
        with closing(token_wiring.open_device(patient.settings, each)) as device:
            try:
                patient.kms.operator.check_target(device)
            except CloneError as exc:
                return str(exc)
            except BindingError:
                continue  # it was left
    return None


def _rows(patient: Patient) -> Verdict:
    faults = patient.kms.operator.audit.verify_rows()
    if faults:
        raise StoreError(
            f"{len(faults)} records were changed by something other than hsmkms ({faults[0].subject}: "
            f"{faults[0].reason}), and are not used: `hsmkms verify-store` shows all; restore a backup, or run "
            "`hsmkms accept-store` if you know better"
        )
    return _ok("every row that decides is as hsmkms wrote it")


def _audit(patient: Patient) -> Verdict:
    if patient.settings.audit.durability == Durability.OFF:
        patient.kms.operator.audit.check_home()
        return _ok("switched off by audit.durability")
    patient.kms.operator.audit.check()
    return _ok("the newest seal fits what is there (`hsmkms audit verify` looks at every record)")


def _clock(patient: Patient) -> Verdict:
    doubt = patient.kms.operator.watch.clock_doubt()
    if doubt is not None:
        raise ConfigurationError(f"nothing is rotated or destroyed, since {doubt}")
    return _ok("not behind what the database has seen")


def _due(patient: Patient) -> Verdict:
    steps = patient.kms.operator.maintain(dry_run=True).steps
    if steps:
        kinds = ", ".join(sorted({each.kind for each in steps}))
        return _warning(f"{len(steps)} steps are due ({kinds}): run `hsmkms maintain`, and let a timer do so")
    return _ok("no rotation, expiry or deletion is overdue")


def _policies(patient: Patient) -> Verdict:
    notes = patient.kms.operator.notes.every()
    if not notes:
        return _ok("every principal and every condition can fit")
    first = notes[0]
    others = f", and {len(notes) - 1} more like it" if len(notes) > 1 else ""
    return _ok(f"note: {first.policy}, {first.sentence.rstrip('.')}{others}: `hsmkms simulate-policy` shows them")


def _limits(patient: Patient) -> Verdict:
    figures = patient.kms.operator.watch.figures()
    if figures.half_spent:
        return _warning(
            f"{figures.half_spent} key materials have used half of the encryptions that AES-GCM allows, or more "
            f"({figures.nearly_spent} of them 90 %): `hsmkms rotation-report` shows them (BudgetPercent); imported "
            "ones need a new key"
        )
    return _ok(f"the most used key material has used {100 * figures.budget_used:.1f} % of what AES-GCM allows")


def _sessions(patient: Patient) -> Verdict:
    limits = patient.kms.operator.token_info().limits
    if limits is None or not limits.max_sessions or limits.sessions is None:
        return _ok("the token tells no limit")
    told = f"{limits.sessions} of {limits.max_sessions} sessions of the token are in use"
    if limits.sessions > _MOST_SESSIONS * limits.max_sessions:
        return _warning(f"{told}: end processes that hang, or lower token.max_sessions")
    return _ok(told)


def _files(patient: Patient) -> Verdict:
    settings = patient.settings
    own = [settings.serve.private_key] if settings.serve.private_key is not None else []
    for path in (*own, *_all_files(settings.data_dir)):
        mode = stat.S_IMODE(path.lstat().st_mode) if path.exists() else 0
        if mode & _OTHERS and not path.is_symlink():
            raise StoreError(f"{path} is open to other users (mode {mode:04o}): run `chmod go= {path}`")
    for path in (*own, settings.data_dir, *sorted(settings.data_dir.rglob("*"))):
        changeable = ownership.weakness(path)
        if changeable is not None:
            raise StoreError(f"{path} can be changed by another user: {changeable}")
    left = [each for each in settings.data_dir.iterdir() if each.name.startswith(_LEFTOVERS)]
    if left:
        return _warning(
            f"an interrupted backup or restore has left {left[0]}, with copies of the databases: remove it, unless "
            "one is going on"
        )
    seals = settings.audit.seal_file
    found = ownership.weakness(seals) if seals is not None else None
    if found is not None:
        return _warning(f"audit.seal_file {seals} can be changed by another user, so what it says may be his: {found}")
    return _ok("nothing of the installation is open to other users")


def _all_files(folder: Path) -> Iterator[Path]:
    """Every file in a folder and below; the configuration may be read by others, as it holds no secret."""
    from hsmkms.cli.commands.setup import CONFIG_FILE  # noqa: PLC0415 - of this check alone

    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if name != CONFIG_FILE)


def _disk(patient: Patient) -> Verdict:
    folder = patient.settings.data_dir
    try:
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        raise StoreError(f"the disk of {folder} cannot be asked: {exc.strerror}") from exc
    told = f"{free // _MIB:,} MiB are free on the disk of {folder}"
    if free < _TOO_LITTLE:
        raise StoreError(f"{told}: free some space, or nothing can be written soon")
    return _warning(f"{told}: `hsmkms audit archive` moves old records away") if free < _LITTLE else _ok(told)


def _certificate(patient: Patient) -> Verdict:
    file = patient.settings.serve.certificate
    if file is None:
        return _ok("no TLS by the server itself")
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415 - of this check alone

    try:
        found = load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"serve.certificate {file} cannot be read as PEM: put the right file there") from exc
    now, begin, end = datetime.now(UTC), found.not_valid_before_utc, found.not_valid_after_utc
    told = f"serve.certificate is valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}"
    if not begin <= now <= end:
        raise ConfigurationError(f"{told}, so clients refuse it: put a new one there and send the server SIGHUP")
    if end - now < _SOON:
        return _warning(f"{told}: put a new one there in time and send the server SIGHUP")
    return _ok(told)


def _is_unfinished(settings: "Settings", *, retried: bool) -> bool:
    """True if init has not bound the databases to the token, or has made none, since the token had refused its PIN."""
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see Patient

    traces = [each for each in ("meta.db", "log.db", "audit") if (settings.data_dir / each).exists()]
    try:
        return (retried and not traces) or ("meta.db" in traces and not wiring.is_initialised(settings))
    except HsmKmsError:
        return False  # the checks say what is wrong with them


def _init(patient: Patient) -> Verdict:
    raise BindingError(
        f"init is not finished: run the same init again (`hsmkms init --data-dir "
        f"{shlex.quote(str(patient.settings.data_dir))}` with its options), or restore a backup if there was an "
        "installation here"
    )


Check = Callable[[Patient], Verdict]

UNFINISHED: Final[dict[str, Check]] = {"PIN": _pin, "token": _token, "installation": _init}
"""What can be looked at before init is finished."""

CHECKS: Final[dict[str, Check]] = {
    "databases": _databases,
    "PIN": _pin,
    "token": _token,
    "installation": _whole,
    "rows": _rows,
    "audit log": _audit,
    "clock": _clock,
    "due work": _due,
    "policies": _policies,
    "encryption limits": _limits,
    "sessions": _sessions,
    "files": _files,
    "disk": _disk,
    "certificate": _certificate,
}
