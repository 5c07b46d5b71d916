"""Judge a key's rotation: one word, and one sentence that says what to do."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from msgspec import Struct

from hsmkms.model.enums import KeySpec, KeyState, Origin
from hsmkms.model.records import KeyRecord
from hsmkms.rules import rotation, states
from hsmkms.rules.rotation import RotationPolicy

SOON: Final = timedelta(days=30)


class Posture(StrEnum):
    """Rotation status of a key, the worst first."""

    OVERDUE = "overdue"
    WAITING = "waiting"
    """The key has no key material, so it is unusable."""
    EXPIRING = "expiring"
    AGED = "aged"
    """The key is not rotated automatically, and encrypts with key material older than the rotation period."""
    CANNOT = "cannot rotate"
    OFF = "off"
    PAUSED = "paused"
    OK = "ok"


PROBLEMS: Final = frozenset({Posture.OVERDUE, Posture.WAITING, Posture.EXPIRING, Posture.AGED})
"""Postures that call for action."""


class Verdict(Struct, frozen=True):
    """A key's posture, and a sentence with the reason or the remedy."""

    posture: Posture
    reason: str


def judge(key: KeyRecord, policy: RotationPolicy, now: datetime) -> Verdict:  # noqa: C901, PLR0911 - cases, the first that fits
    """Return the verdict on a key's rotation at ``now``."""
    state = states.effective_state(key, now)
    if state in (KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION):
        return Verdict(Posture.PAUSED, "it waits for its deletion, and does not rotate meanwhile")
    if state is KeyState.PENDING_IMPORT:
        return Verdict(Posture.WAITING, "its key material is not there: import it")
    if key.origin is not Origin.AWS_KMS:
        return _of_imported(key, policy, now)
    if key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        return Verdict(Posture.CANNOT, f"keys of spec {key.spec} do not rotate: make a new key and move the alias")
    due = rotation.next_rotation(key, policy, now)
    if due is None and _is_aged(key, policy, now):
        return Verdict(Posture.AGED, f"{_age(key, policy, now)}: enable-key-rotation, or rotate-key-on-demand")
    if due is None:
        return Verdict(Posture.OFF, "automatic rotation is off: enable-key-rotation switches it on")
    if key.is_replica:
        return Verdict(Posture.OK, f"it rotates with the primary key in {key.primary_region}")
    if due <= now and state is not KeyState.ENABLED:
        return Verdict(Posture.OVERDUE, "it is disabled, and rotates as soon as it is enabled")
    if due <= now:
        return Verdict(Posture.OVERDUE, "run `hsmkms maintain`, and see that its timer runs")
    if state is not KeyState.ENABLED:
        return Verdict(Posture.PAUSED, "it is disabled, and does not rotate meanwhile")
    return Verdict(Posture.OK, "")


def _is_aged(key: KeyRecord, policy: RotationPolicy, now: datetime) -> bool:
    """Return True if an enabled key encrypts with key material that is older than the rotation period."""
    if key.spec is not KeySpec.SYMMETRIC_DEFAULT or key.current is None or key.state is not KeyState.ENABLED:
        return False
    return now - key.current.created_at >= timedelta(days=policy.period_days)


def _age(key: KeyRecord, policy: RotationPolicy, now: datetime) -> str:
    days = (now - key.current.created_at).days if key.current is not None else 0
    return f"its key material is {days} days old, more than {policy.period_days}, and does not rotate by itself"


def _of_imported(key: KeyRecord, policy: RotationPolicy, now: datetime) -> Verdict:
    ends = states.expires_at(key)
    if ends is not None and ends <= now + SOON:
        return Verdict(Posture.EXPIRING, "its key material expires soon: import the same material with a later date")
    if _is_aged(key, policy, now):
        return Verdict(Posture.AGED, f"{_age(key, policy, now)}: make a new key and move the alias to it")
    return Verdict(
        Posture.CANNOT, "imported key material never rotates by itself: make a new key and move the alias to it"
    )
