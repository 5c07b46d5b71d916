"""The command doctor: a table of checks, from the outside in, each with its result and what to do about a problem."""

import os
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from hsmkms import ownership
from hsmkms.cli.api.confirmations import at_a_terminal
from hsmkms.cli.commands import doctor_expiry
from hsmkms.cli.commands.check_context import Check, CheckContext, Outcome, Verdict
from hsmkms.cli.commands.repair import PANEL
from hsmkms.cli.options import Common, with_common
from hsmkms.errors import BindingError, CloneError, ConfigurationError, HsmKmsError, StoreError
from hsmkms.model.audit import Durability

if TYPE_CHECKING:
    from hsmkms.config.settings import Settings

Resource = TypeVar("Resource")

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_LEFTOVERS: Final = (".backup-", ".restore-")
_MIB: Final = 1024 * 1024
_TOO_LITTLE: Final = 100 * _MIB
_LITTLE: Final = 1024 * _MIB
_MOST_SESSIONS: Final = 0.9
"""Share of the token's sessions in use by all processes, above which there is a leak or too low a limit."""


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

    Status 1 if something is wrong; a warning leaves it 0, also one that is urgent: what expires within 30 days is a
    warning, within 7 days urgent, within one day wrong.

    Example: hsmkms doctor
    """
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see CheckContext
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see CheckContext

    settings = wiring.load_settings(common.config)
    if (yes and not retry_pin) or (token is not None and not yes):
        raise typer.BadParameter("--yes goes with --retry-pin, and --token with --yes")
    if retry_pin:
        insisted = token_wiring.named_token(settings, token) if yes else None
        token_wiring.retry_pin(settings, insisted=insisted, confirm=_confirm if at_a_terminal() else token_wiring.never)
    with ExitStack() as exits:
        context = CheckContext(settings, exits)
        checks = UNFINISHED if _is_unfinished(settings, retried=retry_pin) else CHECKS
        verdicts = _judge_all(checks, context)
    rows = [{"Check": name, "Outcome": each.outcome, "Detail": each.detail} for name, each in verdicts.items()]
    common.show({"Checks": rows})
    if any(each.outcome is Outcome.WRONG for each in verdicts.values()):
        sys.exit(1)


def _confirm(question: str) -> bool:
    return typer.confirm(question, err=True)


def _judge_all(checks: "Mapping[str, Check]", context: CheckContext) -> dict[str, Verdict]:
    """Return each check's verdict; a fault that several meet is told by the first of them only."""
    verdicts: dict[str, Verdict] = {}
    reported: dict[str, str] = {}
    for name, check in checks.items():
        try:
            verdicts[name] = check(context)
        except HsmKmsError as exc:
            sentence = f"{type(exc).__name__}: {exc}"
            first = reported.setdefault(sentence, name)
            verdicts[name] = (
                Verdict(Outcome.WRONG, sentence)
                if first == name
                else Verdict(Outcome.SKIPPED, f"see the check {first!r}, which names what prevents this one")
            )
    return verdicts


def _ok(detail: str) -> Verdict:
    return Verdict(Outcome.OK, detail)


def _warning(detail: str) -> Verdict:
    return Verdict(Outcome.WARNING, detail)


# -- the checks -------------------------------------------------------------------------------------------------


def _databases(context: CheckContext) -> Verdict:
    from hsmkms.wiring import databases  # noqa: PLC0415 - see CheckContext

    revisions = databases.database_revisions(context.settings)
    databases.check_databases(context.settings)
    return _ok(f"private, whole, and at the revision of this program: {', '.join(revisions.values())}")


def _pin(context: CheckContext) -> Verdict:
    from hsmkms.wiring import pin_change  # noqa: PLC0415 - see CheckContext
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see CheckContext

    for each in context.settings.tokens:
        draft = pin_change.interrupted(each)
        if draft is not None:
            raise ConfigurationError(f"a change of the PIN was interrupted ({draft} is left): run `hsmkms change-pin`")
    if any(token_wiring.wrong_pins_given(context.settings, each) for each in context.settings.tokens):
        return _warning("a wrong PIN was sent to the token since the last login: find out by whom, before it locks")
    return _ok("no wrong PIN since the last login")


def _token(context: CheckContext) -> Verdict:
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see CheckContext

    opened = []
    for each in context.settings.tokens:
        profile = context.keep_open(closing(token_wiring.open_named(context.settings, each))).profile
        opened.append(f"{profile.label} ({profile.model}, serial {profile.serial})")
    return _ok(f"{'; '.join(opened)} accepted the PIN and passed the probe")


def _groups(context: CheckContext) -> Verdict:
    """Check that every member of each HA group is present and has all keys."""
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see CheckContext

    whole, faults = [], []
    for each in context.settings.tokens:
        in_use = context.keep_open(closing(token_wiring.open_named(context.settings, each)))
        without = context.kms.operator.made_without_members(in_use)
        for member in in_use.connection.member_states():
            if not member.present:
                faults.append(
                    f"the member {member.serial} is not present: a failover to it is not possible"
                    f"{_made_without(without.get(member.serial))}"
                )
                continue
            try:
                with closing(token_wiring.open_member(context.settings, each, member.serial)) as device:
                    missing = context.kms.operator.missing_on_member(device)
            except HsmKmsError as exc:
                faults.append(
                    f"the member {member.serial} cannot be used: {type(exc).__name__}: {exc}"
                    f"{_made_without(without.get(member.serial))}"
                )
                continue
            if missing:
                faults.append(
                    f"the member {member.serial} lacks {', '.join(missing)}: wait for the HSM's replication, or have "
                    "the vendor's tool synchronise the group"
                )
            whole.append(f"{member.serial}{' (in use)' if member.in_use else ''}")
    if faults:
        return _warning("; ".join(faults))
    return _ok(f"all members have every key: {', '.join(whole)}" if whole else "no token is an HA group")


def _made_without(names: list[str] | None) -> str:
    """Return what to say about keys that were made while a member could not be asked for them."""
    return f"; made without it, so synchronise it before it is used: {', '.join(names)}" if names else ""


def _whole(context: CheckContext) -> Verdict:
    findings = len(context.kms.operator.find_differences())
    if findings:
        raise StoreError(f"{findings} differences between database and token: run `hsmkms reconcile`")
    clone = _clone(context)
    if clone is not None:
        return _warning(clone)
    unmarked = context.kms.operator.interrupted_migrations()
    if unmarked:
        return _warning(
            f"the former home {unmarked[0].label!r} has no mark of the migration, so that an older database could take "
            "it for the home: make it reachable and run `hsmkms migrate-token --to HOME` again; a token that keeps no "
            "data objects needs audit.seal_file"
        )
    lost = context.kms.operator.lost_purposes()
    if lost:
        return _warning(
            f"the newest of the installation's own keys ({', '.join(lost)}) are not on the token any more: put the "
            "token that has them back, or run `hsmkms renew-installation-keys`, which shows what is lost"
        )
    interrupted = context.kms.operator.interrupted_rotations()
    if interrupted:
        return _warning(
            f"the rotation of the installation's own keys ({', '.join(interrupted)}) was interrupted: run "
            "`hsmkms rotate-installation-keys`"
        )
    return _ok("database and token belong together and agree")


def _clone(context: CheckContext) -> str | None:
    """Return the warning about a token of the configuration that is a clone of an installation's token, else None."""
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see CheckContext

    for each in context.settings.further_tokens and context.settings.tokens:
        with closing(token_wiring.open_named(context.settings, each)) as device:
            try:
                context.kms.operator.check_target(device)
            except CloneError as exc:
                return str(exc)
            except BindingError:
                continue  # a former home
    return None


def _rows(context: CheckContext) -> Verdict:
    faults = context.kms.operator.audit.verify_rows()
    if faults:
        raise StoreError(
            f"rows changed by something other than hsmkms, which are not used: {len(faults)} ({faults[0].subject}: "
            f"{faults[0].reason}): `hsmkms verify-store` shows all; restore a backup, or run "
            "`hsmkms accept-store` if the change is right"
        )
    return _ok("every row that decides is as hsmkms wrote it")


def _audit(context: CheckContext) -> Verdict:
    if context.settings.audit.durability == Durability.OFF:
        context.kms.operator.audit.check_home()
        return _ok("switched off by audit.durability")
    context.kms.operator.audit.check()
    if not context.kms.operator.audit.remembered():
        return _warning(
            "the newest seal is kept only beside the log, where it can be rolled back with it, since the token keeps "
            "no data objects: name audit.seal_file in the configuration, a file elsewhere"
        )
    return _ok("the newest seal matches the log (`hsmkms audit verify` checks every record)")


def _clock(context: CheckContext) -> Verdict:
    doubt = context.kms.operator.watch.clock_doubt()
    if doubt is not None:
        raise ConfigurationError(f"nothing is rotated or destroyed, since {doubt}")
    return _ok("not behind the newest time in the database")


def _due(context: CheckContext) -> Verdict:
    steps = context.kms.operator.maintain(dry_run=True).steps
    if steps:
        kinds = ", ".join(sorted({each.kind for each in steps}))
        return _warning(f"steps that are due: {len(steps)} ({kinds}): run `hsmkms maintain`, and let a timer run it")
    return _ok("no rotation, expiry or deletion is overdue")


def _policies(context: CheckContext) -> Verdict:
    notes = context.kms.operator.notes.every()
    if not notes:
        return _ok("every principal and every condition can fit")
    first = notes[0]
    others = f", and {len(notes) - 1} more like it" if len(notes) > 1 else ""
    return _ok(f"note: {first.policy}, {first.sentence.rstrip('.')}{others}: `hsmkms simulate-policy` shows them")


def _limits(context: CheckContext) -> Verdict:
    figures = context.kms.operator.watch.figures()
    if figures.half_spent:
        return _warning(
            f"{figures.half_spent} key materials have used half of the encryptions that are allowed, or more "
            f"({figures.nearly_spent} of them 90 %): `hsmkms rotation-report` shows them (BudgetPercent); imported "
            "ones need a new key"
        )
    return _ok(f"the most used key material has made {100 * figures.budget_used:.1f} % of the allowed encryptions")


def _sessions(context: CheckContext) -> Verdict:
    limits = context.kms.operator.token_limits()
    if limits is None or not limits.max_sessions or limits.sessions is None:
        return _ok("the token reports no limit")
    usage = f"{limits.sessions} of {limits.max_sessions} sessions of the token are in use"
    if limits.sessions > _MOST_SESSIONS * limits.max_sessions:
        return _warning(f"{usage}: end processes that hang, or lower token.max_sessions")
    return _ok(usage)


def _files(context: CheckContext) -> Verdict:
    settings = context.settings
    own = [settings.serve.private_key] if settings.serve.private_key is not None else []
    for path in (*own, *_all_files(settings.data_dir)):
        mode = stat.S_IMODE(path.lstat().st_mode) if path.exists() else 0
        if mode & _OTHERS and not path.is_symlink():
            raise StoreError(f"{path} is open to other users (mode {mode:04o}): run `chmod go= {path}`")
    for path in (*own, settings.data_dir, *sorted(settings.data_dir.rglob("*"))):
        weak_point = ownership.weakness(path)
        if weak_point is not None:
            raise StoreError(f"{path} can be changed by another user: {weak_point}")
    pins = {each.pin.file for each in settings.tokens if each.pin.file is not None}  # root's, passed by systemd
    ownership.check_usable("the installation's file", settings.data_dir, besides=pins)
    left = [each for each in settings.data_dir.iterdir() if each.name.startswith(_LEFTOVERS)]
    if left:
        return _warning(
            f"an interrupted backup or restore has left {left[0]}, with copies of the databases: remove it, unless "
            "one is running"
        )
    seals = settings.audit.seal_file
    weak_point = ownership.weakness(seals) if seals is not None else None
    if weak_point is not None:
        return _warning(f"audit.seal_file {seals} can be changed by another user, so it proves nothing: {weak_point}")
    return _ok("nothing of the installation is open to other users")


def _all_files(folder: Path) -> Iterator[Path]:
    """Yield every file in a folder and below, except the configuration, which has no secrets and may be readable."""
    from hsmkms.cli.commands.setup import CONFIG_FILE  # noqa: PLC0415 - of this check alone

    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if name != CONFIG_FILE)


def _disk(context: CheckContext) -> Verdict:
    folder = context.settings.data_dir
    try:
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        raise StoreError(f"the free space of the disk of {folder} cannot be read: {exc.strerror}") from exc
    space = f"{free // _MIB:,} MiB are free on the disk of {folder}"
    if free < _TOO_LITTLE:
        raise StoreError(f"{space}: free some space, or nothing can be written soon")
    return _warning(f"{space}: `hsmkms audit archive` moves old records away") if free < _LITTLE else _ok(space)


def _is_unfinished(settings: "Settings", *, retried: bool) -> bool:
    """Return True if init was interrupted: the database is not bound to the token, or, with --retry-pin, not created.

    The latter is the state after an init whose PIN the token refused.
    """
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see CheckContext

    try:
        if wiring.is_begun(settings):
            return not wiring.is_initialised(settings)
        return retried and not any((settings.data_dir / each).exists() for each in ("meta.db", "log.db", "audit"))
    except HsmKmsError:
        return False  # the checks report what is wrong with the databases


def _init(context: CheckContext) -> Verdict:
    raise BindingError(
        f"init is not finished: run the same init again (`hsmkms init --data-dir "
        f"{shlex.quote(str(context.settings.data_dir))}` with its options), or restore a backup if there was an "
        "installation here"
    )


UNFINISHED: Final[dict[str, Check]] = {"PIN": _pin, "token": _token, "installation": _init}
"""The checks of an installation whose init was interrupted."""

CHECKS: Final[dict[str, Check]] = {
    "databases": _databases,
    "PIN": _pin,
    "token": _token,
    "installation": _whole,
    "HA members": _groups,
    "rows": _rows,
    "audit log": _audit,
    "clock": _clock,
    "due work": _due,
    "policies": _policies,
    "encryption limits": _limits,
    "sessions": _sessions,
    "files": _files,
    "disk": _disk,
    "certificate": doctor_expiry.certificate,
    "expiring material": doctor_expiry.material,
    "awaiting deletion": doctor_expiry.deletion,
}
