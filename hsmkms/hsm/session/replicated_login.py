"""Acknowledge a new object only once every member of the HA group that could take over has it.

What a member could not be asked for is recorded (unreplicated.py), and asked for again when the member answers.
"""

import logging
import time
from collections.abc import Container, Sequence
from typing import Final

from hsmkms.errors import HsmKmsError, TokenUnavailableError
from hsmkms.hsm.faults import translated
from hsmkms.hsm.objects.objects import find
from hsmkms.hsm.session.group_login import GroupLogin
from hsmkms.hsm.session.replicas import Answers

log = logging.getLogger("hsmkms.hsm")

REPLICA_PAUSE_SECONDS: Final = 0.05
"""Pause between two looks whether the other members have a new object."""

BATCH: Final = 100
"""How many recorded objects a member is asked for at once, within its time limit."""


class ReplicatedLogin(GroupLogin):
    """The login with a token, or with one member of an HA group, whose new objects are sought on the other ones."""

    def require_replicated(self, cka_ids: Sequence[bytes], takeovers: int) -> None:
        """Wait until every other member of the group that could take over has these new objects.

        Those that cannot be asked are recorded as lacking them. TokenUnavailableError if one lacks them after the
        configured time, or if another member has taken over from the one on which they were made, which was at that
        count of ``takeovers``; StoreError if the record cannot be written: then they are not acknowledged.
        """
        deadline = time.monotonic() + self.settings.replication_seconds
        answers = Answers([], [])
        while self._is_replicated() and (answers := self._ask(cka_ids)).lacking:
            if time.monotonic() > deadline:
                raise TokenUnavailableError(
                    f"the new key is on the HA member with serial {self.member}, and not on "
                    f"{', '.join(answers.lacking)} after {self.settings.replication_seconds:g} s "
                    "(token.replication_seconds), so it is not acknowledged: check the replication of the group, then "
                    "try again; `hsmkms reconcile` shows what is left of this attempt"
                )
            time.sleep(REPLICA_PAUSE_SECONDS)
        if answers.silent:
            self._unreplicated.add(answers.silent, cka_ids)
            log.warning(
                "the key with CKA_ID %s is made without the HA member with serial %s, which cannot be asked for it: "
                "until it was, it is recorded as lacking the key",
                cka_ids[0].hex(),
                ", ".join(answers.silent),
            )
        self.require_no_takeover(takeovers)

    def _is_replicated(self) -> bool:
        return self.settings.choice.is_group and self.settings.replication_seconds > 0

    def _ask(self, cka_ids: Sequence[bytes]) -> Answers:
        return self._replicas.ask(self.member, cka_ids, self._patience)

    @property
    def _patience(self) -> float:
        return max(self.settings.session_wait_seconds, self.settings.replication_seconds)

    def unreplicated(self) -> dict[str, list[bytes]]:
        """Return the objects that members could not be asked for when they were made, by the member's serial."""
        return self._unreplicated.read() if self.settings.choice.is_group else {}

    def check_unreplicated(self, needed: Container[bytes]) -> None:
        """Ask each member for its recorded objects; those that it has, or that are not needed, leave the record."""
        for serial, recorded in self.unreplicated().items():
            self._unreplicated.remove([serial], [each for each in recorded if each not in needed])
            wanted = [each for each in recorded if each in needed]
            for some in (wanted[start : start + BATCH] for start in range(0, len(wanted), BATCH)):
                missing = self._missing_on(serial, some)
                if missing is None:
                    break
                self._unreplicated.remove([serial], [each for each in some if each not in missing])

    def _missing_on(self, serial: str, cka_ids: Sequence[bytes]) -> list[bytes] | None:
        """Return the objects that a member lacks, in use or not; None if it cannot be asked."""
        if serial != self.member:
            return self._replicas.missing_on(serial, cka_ids, self._patience)
        try:
            with self.pool.session() as session, translated():
                found = [each for each in cka_ids if find(session, None, each) is not None]
                self.require_login(session)
                return [each for each in cka_ids if each not in found] if serial == self.member else None
        except HsmKmsError as exc:
            log.warning("the HA member with serial %s cannot be asked for recorded objects: %s", serial, exc)
            return None

    def forget_unreplicated(self, cka_id: bytes) -> None:
        """Remove an object that was destroyed from the record of all members."""
        if self.settings.choice.is_group:
            self._unreplicated.remove(self.settings.choice.serials, [cka_id])
