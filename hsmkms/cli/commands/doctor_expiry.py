"""Checks of doctor about what ends at a date: the endpoint's certificate, imported material, keys to be deleted."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from hsmkms.cli.commands.check_context import CheckContext, Outcome, Verdict
from hsmkms.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmkms.service.operator.rotation_report import KeyPosture

_SEVERITIES: Final = (
    (timedelta(days=1), Outcome.WRONG),
    (timedelta(days=7), Outcome.URGENT),
    (timedelta(days=30), Outcome.WARNING),
)
"""How long is left, and how a check ends then; the most severe first."""

_NAMED: Final = 3
"""Keys that a detail names."""


def severity(left: timedelta) -> Outcome:
    """Return how a check ends about what ends in that time."""
    return next((outcome for limit, outcome in _SEVERITIES if left <= limit), Outcome.OK)


def certificate(context: CheckContext) -> Verdict:
    """Check every certificate in the file of the server's own: the first to expire decides."""
    file = context.settings.serve.certificate
    if file is None:
        return Verdict(Outcome.OK, "no TLS by the server itself")
    from hsmkms.server.monitoring.certificate import validity  # noqa: PLC0415 - of this check alone

    now, found = datetime.now(UTC), validity(file)
    sentence = f"serve.certificate is valid from {found.begin:%Y-%m-%d} to {found.end:%Y-%m-%d}"
    if found.count > 1:
        sentence += f" (the {found.count} certificates in it together)"
    if not found.begin <= now <= found.end:
        raise ConfigurationError(f"{sentence}, so clients refuse it: put a new one there and send the server SIGHUP")
    outcome = severity(found.end - now)
    if outcome is not Outcome.OK:
        sentence += ": put a new one there in time and send the server SIGHUP"
    return Verdict(outcome, sentence)


def material(context: CheckContext) -> Verdict:
    """Check when imported key material expires: afterwards its key can neither encrypt nor decrypt.

    What has expired already is due work, or was let go on purpose.
    """
    now = context.kms.operator.watch.now()
    dates = [
        (each.expires_at, each)
        for each in context.kms.operator.rotation_report()
        if each.expires_at is not None and each.expires_at > now and each.deletion_date is None
    ]
    soon = [(date, key) for date, key in dates if severity(date - now) is not Outcome.OK]
    if not soon:
        return Verdict(Outcome.OK, "no imported key material expires within 30 days")
    first = min(date for date, _ in soon)
    advice = "import the same material again with a later date (`hsmkms guide import`)"
    return Verdict(severity(first - now), f"imported key material expires: {_listed(soon)}: {advice}")


def deletion(context: CheckContext) -> Verdict:
    """Check which keys are deleted soon. It was ordered, so nothing is wrong: it can be cancelled until then."""
    now = context.kms.operator.watch.now()
    dates = [
        (each.deletion_date, each) for each in context.kms.operator.rotation_report() if each.deletion_date is not None
    ]
    if not dates:
        return Verdict(Outcome.OK, "no key is awaiting deletion")
    advice = "what they have encrypted is lost then; `hsmkms cancel-key-deletion` keeps a key"
    left = min(date for date, _ in dates) - now
    outcome = {Outcome.WRONG: Outcome.URGENT, Outcome.URGENT: Outcome.WARNING}.get(severity(left), Outcome.OK)
    return Verdict(outcome, f"keys are awaiting deletion: {_listed(dates)}: {advice}")


def _listed(dates: "Sequence[tuple[datetime, KeyPosture]]") -> str:
    """Name the first keys by their dates, and count the others."""
    ordered = sorted(dates, key=lambda both: both[0])
    named = ", ".join(
        f"{key.aliases[0] if key.aliases else key.key_id} ({key.region}) on {date.astimezone(UTC):%Y-%m-%d}"
        for date, key in ordered[:_NAMED]
    )
    others = len(ordered) - _NAMED
    return f"{named}, and {others} more" if others > 0 else named
