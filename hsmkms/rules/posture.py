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
    CANNOT = "cannot rotate"
    OFF = "off"
    PAUSED = "paused"
    OK = "ok"


class Verdict(Struct, frozen=True):
    """A key's posture, and a sentence with the reason or the remedy."""

    posture: Posture
    reason: str


def judge(key: KeyRecord, policy: RotationPolicy, now: datetime) -> Verdict:  # noqa: PLR0911 - cases, the first that fits
    """Return the verdict on a key's rotation at ``now``."""
    state = states.effective_state(key, now)
    if state in (KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION):
        return Verdict(Posture.PAUSED, "it waits for its deletion, and does not rotate meanwhile")
    if state is KeyState.PENDING_IMPORT:
        return Verdict(Posture.WAITING, "its key material is not there: import it")
    if key.origin is not Origin.AWS_KMS:
        return _of_imported(key, now)
    if key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        return Verdict(Posture.CANNOT, f"keys of spec {key.spec} do not rotate: make a new key and move the alias")
    due = rotation.next_rotation(key, policy, now)
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


def _of_imported(key: KeyRecord, now: datetime) -> Verdict:
    ends = states.expires_at(key)
    if ends is not None and ends <= now + SOON:
        return Verdict(Posture.EXPIRING, "its key material expires soon: import the same material with a later date")
    return Verdict(
        Posture.CANNOT, "imported key material never rotates by itself: make a new key and move the alias to it"
    )
