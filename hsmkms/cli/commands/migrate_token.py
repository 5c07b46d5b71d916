"""Commands about several tokens: list-tokens, migrate-token, accept-clone, forget-token."""

import shlex
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsmkms.cli.api.confirmations import at_a_terminal
from hsmkms.cli.commands import older_material
from hsmkms.cli.commands.token import PANEL
from hsmkms.cli.files.progress import progress
from hsmkms.cli.options import Common, named, with_common
from hsmkms.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hsmkms.service.operator.clones import Clone
    from hsmkms.service.operator.migration import TokenStanding
    from hsmkms.service.operator.older_material import OlderMaterial
    from hsmkms.service.operator.operator import Operator

RENEW = (
    "it lacks keys of the installation's own, so that nothing is sealed on it: run `hsmkms renew-installation-keys`, "
    "which shows what is lost and creates new ones"
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list-tokens", rich_help_panel=PANEL)(list_tokens)
    app.command("migrate-token", rich_help_panel=PANEL)(migrate_token)
    app.command("accept-clone", rich_help_panel=PANEL)(accept_clone)
    app.command("forget-token", rich_help_panel=PANEL)(forget_token)


@with_common("config", "output", "query")
def list_tokens(common: Common) -> None:
    """List the installation's tokens: which is the home, where keys are created, what each holds, and which are away.

    Tokens of the configuration that the installation does not use yet are listed too, without an id. Also lists the
    keys that still need a former home, why, and how many encryptions their older material there has made. Status 1 if a
    token is away.

    Example: hsmkms list-tokens
    """
    with common.open() as kms:
        standings = kms.operator.tokens()
        left = kms.operator.left_behind()
        unused = _unused(common, kms.operator, standings)
    shown = [*map(named, standings), *unused]
    common.show({"Tokens": shown, "Left": [named(each) for each in left]})
    if any(each["Away"] for each in shown):
        sys.exit(1)


def _unused(common: Common, operator: "Operator", standings: "Sequence[TokenStanding]") -> list[dict[str, Any]]:
    """Return rows for the tokens of the configuration that the installation does not use yet; each is tried."""
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see above

    settings = wiring.load_settings(common.config)
    known = [(each.label, each.serial) for each in standings]
    rows = []
    for each in token_wiring.unused_tokens(settings, known, operator.check_target):
        row = {"TokenId": None, "Label": each.label, "Serial": each.serial, "Home": False, "Objects": 0}
        name = shlex.quote(each.label or each.serial or "")
        advice = each.refused or (
            f"not used: `hsmkms migrate-token --to {name}` makes it the home; remove its [[token]] if it was forgotten"
        )
        rows.append(row | {"Away": each.away, "Next": advice})
    return rows


@with_common("config", "output", "query")
def migrate_token(
    common: Common,
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="TOKEN", help="Label or serial of one [[token]] of the configuration.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done, and what would stay on the old token.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Make another token the home, on which keys are created, and rotate every generated key onto it.

    No key leaves a token. The old token is still needed for older ciphertext, key pairs, HMAC keys and imported
    material; the result lists these and what can be done about them. First name both tokens as [[token]] in the
    configuration and restart the servers: the migration does not begin while a running process cannot reach the new
    token.

    A migration cannot be undone. After an interruption, or if keys could not be rotated (status 1), run it again.

    Example: hsmkms migrate-token --to new-hsm
    """
    with common.open() as kms:
        operator = kms.operator
        device = _open(common, to)
        if dry_run:
            with closing(device):
                operator.check_target(device)
            common.show(_plan(operator))
            return
        if not yes:
            _ask(to)
        token = operator.settle_on(device)
        with progress("migrate-token", lambda: len(operator.waiting_to_move())) as advance:
            moved = operator.move_keys(advance)
        failures = [each for each in moved if each.fault is not None]
        common.show(
            {
                "Token": {"TokenId": token.id, "Label": token.label, "Serial": token.serial},
                "Rotated": len(moved) - len(failures),
                "Failures": [named(each) for each in failures],
                "Left": [named(each) for each in operator.left_behind()],
            }
        )
    if failures:
        sys.exit(1)


@with_common("config", "output", "query")
def accept_clone(
    common: Common,
    *,
    token: Annotated[
        str, typer.Option("--token", metavar="TOKEN", help="Label or serial of one [[token]] of the configuration.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Accept a token's clone, a copy made with its vendor's tools, in its place, and record its serial.

    For a token that is lost for good, or was replaced. The clone must answer the token's challenge; from then on the
    token with the older serial is refused. Members of an HA group that share their objects do not need this: list
    their serials in the configuration, serial = ["A", "B"].

    Example: hsmkms accept-clone --token 0123456789abcdef
    """
    from hsmkms import Kms  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - help must not pay for the database and the token
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - help must not pay for the database and the token

    settings = wiring.load_settings(common.config)
    named_token = token_wiring.named_token(settings, token)
    with (
        closing(token_wiring.open_named(settings, named_token)) as device,
        Kms(wiring.core_of(settings, monotonic=wiring.boot_time, accepting=named_token)) as kms,
    ):
        clone = kms.operator.find_clone(device)
        if not yes:
            _ask_for_clone(clone)
        kms.operator.accept_clone(clone)
    hint = {"Next": RENEW} if clone.lost_purposes else {}
    common.show(named(clone) | hint)


@with_common("config", "output", "query")
def forget_token(
    common: Common,
    *,
    token: Annotated[
        str, typer.Option("--token", metavar="TOKEN", help="Label or serial, as `hsmkms list-tokens` shows it.")
    ],
    abandon_older_material: Annotated[
        bool,
        typer.Option("--abandon-older-material", help="No ciphertext needs the older key material on it any more."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove a former home token from the installation; refused with a list while anything needs it.

    The installation's own keys on it are destroyed if it can be reached. With --abandon-older-material you state that
    no ciphertext needs the older key material on it (list-older-material): such ciphertext is refused from then on. The
    audit log records it, and nothing on the token is destroyed: a backup from before makes it usable again. Remove its
    [[token]] from the configuration afterwards.

    Example: hsmkms forget-token --token old-hsm
    """
    with common.open() as kms:
        row = kms.operator.find_forgettable(token, abandoning=abandon_older_material)
        if not yes:
            _ask_to_forget(
                row.label, row.serial, kms.operator.find_older_material(token) if abandon_older_material else []
            )
        forgotten = kms.operator.forget_token(row, abandoning=abandon_older_material)
    hint = f"remove the [[token]] with label {row.label!r} (serial {row.serial}) from the configuration"
    common.show(named(forgotten) | {"Next": hint})


def _ask_to_forget(label: str, serial: str, older: "Sequence[OlderMaterial]") -> None:
    if not at_a_terminal():
        raise ConfigurationError("forget-token asks at a terminal: run it there, or with --yes")
    older_material.show(older)
    effect = (
        f"{len(older)} older key materials on {label!r} (serial {serial}) are abandoned: ciphertext that needs "
        "them is refused from then on"
        if older
        else f"The installation's own keys on {label!r} (serial {serial}) are destroyed: no backup from before "
        "the migration can be restored afterwards"
    )
    typer.confirm(f"{effect}. Go on?", abort=True, err=True)


def _ask_for_clone(clone: "Clone") -> None:
    if not at_a_terminal():
        raise ConfigurationError("accept-clone asks at a terminal: run it there, or with --yes")
    typer.echo(f"{clone.missing} of {clone.objects} objects that should be on it are missing.", err=True)
    if clone.lost_purposes:
        typer.echo(f"Of the installation's own keys ({', '.join(clone.lost_purposes)}) {RENEW}", err=True)
    typer.confirm(
        f"The token {clone.label!r} with the serial {clone.serial} replaces the one with the serial "
        f"{clone.recorded_serial or '(none)'}, which is refused from then on. Go on?",
        abort=True,
        err=True,
    )


def _open(common: Common, to: str) -> Any:  # noqa: ANN401 - Device, which help must not pay for
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see above
    from hsmkms.wiring import tokens as token_wiring  # noqa: PLC0415 - see above

    settings = wiring.load_settings(common.config)
    return token_wiring.open_named(settings, token_wiring.named_token(settings, to))


def _plan(operator: "Operator") -> dict[str, Any]:
    """Return the keys that would be rotated, and those that would need the present tokens afterwards."""
    return {
        "ToRotate": [named(each) for each in operator.waiting_to_move(elsewhere="")],
        "Left": [named(each) for each in operator.left_by_migration()],
    }


def _ask(to: str) -> None:
    if not at_a_terminal():
        raise ConfigurationError("migrate-token asks at a terminal: run it there, or with --yes")
    typer.confirm(
        f"Keys are created on {to!r} from then on, and this cannot be undone. Go on?",
        abort=True,
        err=True,
    )
