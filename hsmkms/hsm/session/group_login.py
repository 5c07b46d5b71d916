"""Log in to one member of an HA group, and to another one when it fails.

A configured token whose serial may be one of a list is an HA group: its members share their objects, and are different
tokens for PKCS#11 (slots, sessions, object handles, logins). One of them is in use, until it fails; then the others are
tried, each after the same checks as at the start. What was prepared for the one (its profile) must hold for the other.

A member fails if its login is lost and cannot be restored, or if the probe of the start fails on it after a call did.
All processes of an installation use the same member: one that has failed over records it, and the others follow.
"""

import logging
import time
from collections.abc import Iterable
from functools import cached_property
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from hsmkms.errors import (
    ClosedError,
    HsmKmsError,
    ObjectLostError,
    PinError,
    StoreError,
    TokenUnavailableError,
    TokenUnfitError,
)
from hsmkms.hsm.calls.function_list import session_handle
from hsmkms.hsm.calls.messages import Messages
from hsmkms.hsm.crypto.message_gcm import find_generator
from hsmkms.hsm.faults import OBJECT_LOST, translate
from hsmkms.hsm.probing.profile import TokenProfile, probe
from hsmkms.hsm.serials import serial_of
from hsmkms.hsm.session.identity import Candidate, Identity, Listener
from hsmkms.hsm.session.last_member import LastMember
from hsmkms.hsm.session.login import LoginGate, StaleModuleError, has_usable_pin, log_in
from hsmkms.hsm.session.replicas import Replica, Replicas
from hsmkms.hsm.session.token_choice import candidates, choose, tokens
from hsmkms.hsm.session.token_login import DRAIN_SECONDS, TokenLogin
from hsmkms.hsm.session.unreplicated import Unreplicated

log = logging.getLogger("hsmkms.hsm")

SELF_TEST_PAUSE_SECONDS: Final = 5.0
"""Pause between two probes of a member that answers while calls fail on it, so that they do not slow it down."""

BUSY_CALLS: Final = "calls to the member that is in use have not ended: try again"

FOLLOW_PAUSE_SECONDS: Final = 5.0
"""Pause after the member that another process uses could not be reached."""


class MemberState(Struct, frozen=True, kw_only=True):
    """A member of an HA group: whether the module lists it now, and whether it is the one in use (or was last)."""

    serial: str
    present: bool
    in_use: bool


class GroupLogin(TokenLogin):
    """The login with a token, or with one member of an HA group. Thread-safe; raises in a forked child."""

    member: str | None = None
    """Serial of the member of the HA group that is in use; None without a group."""

    takeovers: int = 0
    """How often another member has taken over: what was made before may not be on the one in use."""

    messages: Messages
    """Set by ``_prepare``, after the first login."""

    _last_before: str | None = None
    """Serial of the member that was recorded when this process chose its first one."""
    _wanted: str | None = None
    """Serial of the member that another process uses, while this one follows it."""
    _failing: str | None = None
    """Serial of the member that failed the probe while it was in use: it is tried last."""
    _doubted: bool = False
    """True if a call has failed since the member in use was probed."""
    _next_probe = _next_follow = 0.0
    """When the member in use may be probed again, and when another process may be followed again."""

    def member_states(self) -> list[MemberState]:
        """Return the state of each member of the HA group, in the order of the settings; none without a group."""
        if not self.settings.choice.is_group:
            return []
        with self.alone():
            present = {serial_of(each) for each in tokens(self.module)}
        return [
            MemberState(serial=each, present=each in present, in_use=each == self.member)
            for each in self.settings.choice.serials
        ]

    def require(self, identity: Identity, logged_in: Listener) -> None:
        """Require an identity, as ``TokenLogin.require``; once it is proven, the member counts as the one in use."""
        super().require(identity, logged_in)
        if self.settings.choice.is_group and self.member is not None and self._last.read() == self._last_before:
            self._last.write(self.member)

    # -- the member in use ---------------------------------------------------------------------------------------------

    def _log_in(self, *, accept_final_try: bool = False) -> None:
        """Log in to the token, or to the first member that answers, proves its identity, and works like the one before.

        A refused PIN ends the search: all members have the same one. A member to which no PIN is sent is passed over.
        Else raises the error of the first candidate.
        """
        group = self.settings.choice
        if not group.is_group:
            super()._log_in(accept_final_try=accept_final_try)
            return
        self._replicas.close()
        if self.member is None:
            self._last_before = self._last.read()
        first = self._wanted or self.member or self.settings.first_member or self._last_before
        present = candidates(self.module, group, first)
        usable = [each for each in present if has_usable_pin(each, accept_final_try=accept_final_try)]
        faults: list[HsmKmsError] = []
        for serial in self._by_preference(map(serial_of, usable or present[:1]), first):
            try:
                self._drain_calls_before(serial)
                self._log_in_to(replace(group, serial=serial), accept_final_try=accept_final_try)
                self._check_and_switch_to(serial)
            except (HsmKmsError, PKCS11Error) as exc:
                self._leave_member()
                if isinstance(exc, StaleModuleError | ClosedError | StoreError) or self._is_refusal(exc, serial):
                    raise  # not the fault of this member
                fault = exc if isinstance(exc, HsmKmsError) else translate(exc)
                log.warning("the HA member with serial %s is not used: %s", serial, fault)
                faults.append(fault)
            else:
                return
        raise faults[0]

    def _by_preference(self, serials: Iterable[str], first: str | None) -> list[str]:
        """Sort members: the first one stays it, then those that may lack the fewest keys; a failing one is the last."""
        recorded = self._recorded()
        return sorted(
            serials, key=lambda each: (each == self._failing, 0 if each == first else len(recorded.get(each, ())))
        )

    def _is_refusal(self, error: Exception, serial: str) -> bool:
        """Return True if a refused PIN counts for all members; False if this one alone is at fault."""
        mark = self.gate.mark(serial) if isinstance(error, PinError) else None
        return mark is not None and not mark.alone

    @cached_property
    def _unreplicated(self) -> Unreplicated:
        return Unreplicated(self.settings.state_dir, self.settings.choice.serials)

    def _recorded(self) -> dict[str, list[bytes]]:
        """Return what members may lack; nothing if the record cannot be read, which keeps nobody from logging in."""
        try:
            return self._unreplicated.read()
        except StoreError as exc:
            log.error("which keys the members of the HA group may lack is not known: %s", exc)  # noqa: TRY400 - no bug
            return {}

    @property
    def _last(self) -> LastMember:
        return LastMember(self.settings.state_dir, self.settings.choice.serials)

    def _drain_calls_before(self, serial: str) -> None:
        """Wait for calls in progress before another member is used; TokenUnavailableError if they do not end in time.

        A session of the one must never be used with an object handle of the other, which may be another key there.
        """
        if self.member not in (None, serial) and not self.pool.drain(DRAIN_SECONDS):
            self._doubted, self._next_probe = True, 0.0  # the next call that fails tries again
            raise TokenUnavailableError(BUSY_CALLS)

    def _check_and_switch_to(self, serial: str) -> None:
        """Use the member that is logged in; TokenUnfitError if it does not work, or in another way than the one before.

        The first one is probed here, so that another one can be tried if it fails the probe.
        """
        if self.member is None:
            self._prepare(self._login)
        elif serial != self.member:
            self._probe_successor()
            log.warning("the HA member with serial %s has taken over from %s", serial, self.member)
            if lacking := self._recorded().get(serial):
                log.error(
                    "%d objects were made while the HA member with serial %s, which is in use now, could not be asked "
                    "for them, and may be missing on it: `hsmkms doctor` names their keys",
                    len(lacking),
                    serial,
                )
            self.profile = replace(self.profile, label=self.token.label, serial=serial)
            self.takeovers += 1
            if self._identities:
                self._last.write(serial)
        self.member = serial

    def _prepare(self, session: Session) -> None:
        """Probe the token that is logged in, and adapt to what it can do."""
        self.profile = self._probe(session)
        functions = self.module.cryptoki.message_functions()
        self.messages = Messages(functions, find_generator(functions, session, self.profile.attributes))

    def _probe(self, session: Session) -> TokenProfile:
        return probe(self.token, session, self.module.description)

    def _probe_successor(self) -> None:
        """Probe the member that is to take over; TokenUnfitError if what was prepared for the other does not hold."""
        profile = self._probe(self._login)
        generator = find_generator(self.module.cryptoki.message_functions(), self._login, profile.attributes)
        if generator is not self.messages.generator or not profile.can_replace(self.profile):
            raise TokenUnfitError(
                f"the HA member with serial {profile.serial} works in another way than {self.member}, which it is to "
                "replace: give both the same firmware and policies, or restart hsmkms to use the other one alone"
            )

    def _leave_member(self) -> None:
        if self.login_handle:
            self.module.cryptoki.close_session(self.login_handle)
            self._set_login(0)
        self.handles.forget_all()

    def _fail_over(self, fault: TokenUnavailableError) -> None:
        """Log in to another member if the login with the one in use is lost; else suspect it, and raise ``fault``.

        A member that keeps its login is not left at once: the reconnect thread (``_suspect``) probes it first.
        """
        if not self.settings.choice.is_group or self.is_away or self.module.cryptoki.logged_in(self.login_handle):
            self._suspect()
            raise fault
        self._recover()

    def _suspect(self) -> None:
        self._doubted = self.settings.choice.is_group
        super()._suspect()

    def _answers(self) -> bool:
        return super()._answers() and self._works()

    def _works(self) -> bool:
        """Return False if calls have failed on the member in use, and it fails the probe that it passed at the start.

        A call alone proves nothing: some tokens answer CKR_GENERAL_ERROR to data that a client has sent. If no other
        member can take over, this one stays in use, and is probed again after a pause.
        """
        if not self._doubted or time.monotonic() < self._next_probe:
            return True
        self._doubted, self._next_probe = False, time.monotonic() + SELF_TEST_PAUSE_SECONDS
        try:
            self._probe(self._login)
        except (HsmKmsError, PKCS11Error) as exc:
            log.warning("the HA member with serial %s answers, but fails the probe: %s", self.member, exc)
            self._failing = self.member
            return False
        return True

    def _recover(self) -> None:
        self.guard.check()
        self._follow()
        super()._recover()

    def _follow(self) -> None:
        """Log in to the member that another process has failed over to: what that has made may not be on this one yet.

        This member stays in use if that one cannot be reached from here.
        """
        if not self.settings.choice.is_group or not self._identities or self.is_away:
            return
        last = self._last.read()
        if last in (None, self.member) or time.monotonic() < self._next_follow:
            return
        with self.alone(), self._suspected():
            if last != self.member:
                self._next_follow = time.monotonic() + FOLLOW_PAUSE_SECONDS
                self._wanted = last
                try:
                    with self.pool.held(), self._else_away():
                        self._log_in_again()
                finally:
                    self._wanted = None

    # -- the other members ---------------------------------------------------------------------------------------------

    @cached_property
    def _replicas(self) -> Replicas:
        folder, serials = self.settings.state_dir, self.settings.choice.serials
        shared = self.settings.shared_marks
        gates = {each: LoginGate(folder, serials, standby=True, shared=shared) for each in serials}
        return Replicas({each: Replica(each, self.module, gates[each], self._log_in_beside) for each in serials})

    def _log_in_beside(self, serial: str, gate: LoginGate) -> Session:
        """Log in to a member that is not in use; WrongTokenError unless it proves its identity."""
        choice = replace(self.settings.choice, serial=serial)
        session = log_in(lambda: choose(self.module, choice), self._read_pin, gate, loaded_at=self.module.loaded_at)
        try:
            profile = replace(self.profile, label=session.token.label, serial=serial)
            self._identities.check(Candidate(session, profile, self.members))
        except BaseException:
            self.module.cryptoki.close_session(session_handle(session))  # no logout: it may have taken over meanwhile
            raise
        return session

    def require_no_takeover(self, takeovers: int) -> None:
        """Raise TokenUnavailableError if another member has taken over since that count of ``takeovers``."""
        if self.takeovers != takeovers:
            raise TokenUnavailableError(
                f"the HA member with serial {self.member} took over while the object was being created: try again; "
                "`hsmkms reconcile` shows what is left of this attempt"
            )

    def login_died(self) -> None:
        """Record that the module was renewed, which closed all sessions."""
        super().login_died()
        self._replicas.forget()

    def close_sessions(self) -> None:
        """Log out, and close all that is open."""
        if not self.guard.foreign:
            self._replicas.close(self.settings.session_wait_seconds)
        super().close_sessions()

    def _missing(self, cka_id: bytes) -> ObjectLostError:
        """Return the error for an object that is not on the token, though that has proven its identity."""
        if self.member is None:
            return ObjectLostError(OBJECT_LOST)
        return ObjectLostError(
            f"the backing key with CKA_ID {cka_id.hex()} is not on the HA member with serial {self.member}: it may not "
            "have been replicated yet, so try again later; `hsmkms doctor` names the keys that a member lacks"
        )
