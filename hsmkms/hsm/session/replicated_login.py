"""Acknowledge a new object only once every member of the HA group that could take over has it.

What a member could not be asked for is recorded (unreplicated.py), and asked for again when the member answers.
"""

import logging
import time
from collections.abc import Callable, Container, Sequence
from functools import cached_property
from typing import Final

from pkcs11.exceptions import PKCS11Error

from hsmkms.errors import HsmKmsError, TokenUnavailableError
from hsmkms.hsm.faults import translated
from hsmkms.hsm.objects.objects import find
from hsmkms.hsm.session.group_login import GroupLogin
from hsmkms.hsm.session.reconnect import Reconnector
from hsmkms.hsm.session.replicas import Answers
from hsmkms.hsm.session.returned_member import is_listed_anew
from hsmkms.hsm.session.token_login import DRAIN_SECONDS

log = logging.getLogger("hsmkms.hsm")

REPLICA_PAUSE_SECONDS: Final = 0.05
"""Pause between two looks whether the other members have a new object."""

LOOK_SECONDS: Final = 60.0
LONGEST_LOOK_SECONDS: Final = 3600.0
"""Pause before a member that could not be asked is looked for in a new process, and before the next time. It doubles if
the module, initialised anew, does not list it all the same."""

BATCH: Final = 100
"""How many recorded objects a member is asked for at once, within its time limit."""


class ReplicatedLogin(GroupLogin):
    """The login with a token, or with one member of an HA group, whose new objects are sought on the other ones."""

    _sought: tuple[str, ...] = ()
    """Serials of the members that could not be asked, which are looked for."""
    _next_look: float | None = None
    """When they are looked for again; None as long as all could be asked."""
    _look_pause: float = LOOK_SECONDS

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
            self._look_for(answers.silent)
            self._unreplicated.add(answers.silent, cka_ids)
            log.warning(
                "the key with CKA_ID %s is made without the HA member with serial %s, which cannot be asked for it: "
                "until it was, it is recorded as lacking the key",
                cka_ids[0].hex(),
                ", ".join(answers.silent),
            )
        self.require_no_takeover(takeovers)

    # -- members that came back ------------------------------------------------------------------------------------

    def _look_for(self, silent: list[str]) -> None:
        """From time to time find out, in a thread, whether a member is back that this process does not see.

        Some modules list a token that was away only once they are initialised anew.
        """
        now = time.monotonic()
        if self._next_look is None:
            self._next_look = now + LOOK_SECONDS
        if now >= self._next_look:
            self._next_look, self._sought = now + self._look_pause, tuple(silent)
            self._seeker.begin()

    @cached_property
    def _seeker(self) -> Reconnector:
        return Reconnector(self._bring_back)

    def _bring_back(self, _: int) -> bool:
        """Initialise the module anew if another process sees a sought member that this one does not.

        Return True: there is no second attempt before ``_look_for`` orders one.
        """
        try:
            unseen = [each for each in self._sought if not self._is_listed(each)]
            back = [each for each in unseen if is_listed_anew(self.settings, each)]
            if back:
                self._renew_for(back)
        except (HsmKmsError, PKCS11Error) as exc:
            log.warning("members of the HA group that may be back could not be looked for: %s", exc)
        return True

    def _renew_for(self, back: list[str]) -> None:
        log.warning("the HA member with serial %s is back: the module is initialised anew to see it", ", ".join(back))
        with self.alone(), self.pool.held(), self._else_away():
            if self.pool.drain(DRAIN_SECONDS) and self.module.renew(self):
                self.login_died()
                self._log_in_again()
        self._begin_notifying()
        helped = any(map(self._is_listed, back))
        self._look_pause = LOOK_SECONDS if helped else min(2 * self._look_pause, LONGEST_LOOK_SECONDS)

    def _is_listed(self, serial: str) -> bool:
        return next(each.present for each in self.member_states() if each.serial == serial)

    def close_sessions(self) -> None:
        """Log out, and close all that is open."""
        if not self.guard.foreign:
            self._seeker.stop()
        super().close_sessions()

    # -- asking and recording --------------------------------------------------------------------------------------

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

    def check_unreplicated(self, read_needed: Callable[[], Container[bytes]]) -> None:
        """Ask each member for its recorded objects: those that it has leave the record.

        So do those that are not needed and that no member has. ``read_needed`` is called once the record was read, or
        an object that is recorded meanwhile would not be among the needed ones. The databases alone do not decide: they
        may have been edited, or be older than the key, which the operator may yet adopt.
        """
        for serial, recorded in self.unreplicated().items():
            needed = read_needed()
            for some in (recorded[start : start + BATCH] for start in range(0, len(recorded), BATCH)):
                missing = self._missing_on(serial, some)
                if missing is not None:
                    self._unreplicated.remove([serial], [each for each in some if each not in missing])
                unneeded = [each for each in (some if missing is None else missing) if each not in needed]
                self._unreplicated.remove([serial], self._on_no_other(serial, unneeded))
                if missing is None:
                    break

    def _on_no_other(self, serial: str, cka_ids: Sequence[bytes]) -> list[bytes]:
        """Return the objects that no member but this one has; none of them if no other one answers."""
        if not cka_ids:
            return []
        others = [self._missing_on(each, cka_ids) for each in self.settings.choice.serials if each != serial]
        answers = [each for each in others if each is not None]
        return [each for each in cka_ids if answers and all(each in missing for missing in answers)]

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
