"""Log in to one member of an HA group, and to another one when it fails.

A configured token whose serial may be one of a list is an HA group: its members share their objects, and are different
tokens for PKCS#11 (slots, sessions, object handles, logins). One of them is in use, until it fails; then the others are
tried, each after the same checks as at the start. What was prepared for the one (its profile) must hold for the other.
"""

import logging

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
from hsmkms.hsm.calls.messages import Messages
from hsmkms.hsm.crypto.message_gcm import find_generator
from hsmkms.hsm.faults import AWAY, OBJECT_LOST, translate
from hsmkms.hsm.probing.profile import probe
from hsmkms.hsm.serials import serial_of
from hsmkms.hsm.session.last_member import LastMember
from hsmkms.hsm.session.login import StaleModuleError, has_usable_pin
from hsmkms.hsm.session.token_choice import candidates, tokens
from hsmkms.hsm.session.token_login import DRAIN_SECONDS, TokenLogin

log = logging.getLogger("hsmkms.hsm")


class MemberState(Struct, frozen=True, kw_only=True):
    """A member of an HA group: whether the module lists it now, and whether hsmkms is logged in to it."""

    serial: str
    present: bool
    in_use: bool


class GroupLogin(TokenLogin):
    """The login with a token, or with one member of an HA group. Thread-safe; raises in a forked child."""

    member: str | None = None
    """Serial of the member of the HA group that is in use; None without a group."""

    messages: Messages

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

    def _log_in(self, *, accept_final_try: bool = False) -> None:
        """Log in to the token, or to the first member that answers, proves its identity, and works like the one before.

        A refused PIN ends the search: all members have the same one. Else raises the error of the first candidate.
        """
        group = self.settings.choice
        if not group.is_group:
            super()._log_in(accept_final_try=accept_final_try)
            return
        present = candidates(self.module, group, self.member or self.settings.first_member or self._last.read())
        usable = [each for each in present if has_usable_pin(each, accept_final_try=accept_final_try)]
        faults: list[HsmKmsError] = []
        for serial in map(serial_of, usable or present[:1]):
            try:
                self._require_no_calls(serial)
                self._log_in_to(replace(group, serial=serial), accept_final_try=accept_final_try)
                self._use_member(serial)
            except (HsmKmsError, PKCS11Error) as exc:
                self._leave_member()
                if isinstance(exc, PinError | StaleModuleError | ClosedError | StoreError):
                    raise  # not the fault of this member
                fault = exc if isinstance(exc, HsmKmsError) else translate(exc)
                log.warning("the HA member with serial %s is not used: %s", serial, fault)
                faults.append(fault)
            else:
                return
        raise faults[0]

    @property
    def _last(self) -> LastMember:
        return LastMember(self.settings.state_dir, self.settings.choice.serials)

    def _prove(self, session: Session) -> frozenset[bytes]:
        proven = super()._prove(session)
        if self._identities and self.settings.choice.is_group:
            self._last.write(serial_of(self.token))
        return proven

    def _require_no_calls(self, serial: str) -> None:
        """Wait for calls in progress before another member is used; TokenUnavailableError if they do not end in time.

        A session of the one must never be used with an object handle of the other, which may be another key there.
        """
        if self.member not in (None, serial) and not self.pool.drain(DRAIN_SECONDS):
            raise TokenUnavailableError(AWAY)

    def _use_member(self, serial: str) -> None:
        """Use the member that is logged in; TokenUnfitError if it works in another way than the one before."""
        if self.member not in (None, serial):
            self._require_alike()
            log.warning("the HA member with serial %s has taken over from %s", serial, self.member)
            self.profile = replace(self.profile, label=self.token.label, serial=serial)
        self.member = serial

    def _require_alike(self) -> None:
        """Probe the member that is to take over; TokenUnfitError if what was prepared for the other does not hold."""
        profile = probe(self.token, self._login, self.module.description)
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
        """Log in to another member of the group if the login with the one in use is lost; else raise ``fault``."""
        if not self.settings.choice.is_group or self.is_away or self.module.cryptoki.logged_in(self.login_handle):
            self._comeback.begin()
            raise fault
        self._recover()

    def _missing(self, cka_id: bytes) -> ObjectLostError:
        """Return the error for an object that is not on the token, though that has proven its identity."""
        if self.member is None:
            return ObjectLostError(OBJECT_LOST)
        return ObjectLostError(
            f"the backing key with CKA_ID {cka_id.hex()} is not on the HA member with serial {self.member}: it may not "
            "have been replicated yet, so try again later; `hsmkms doctor` names the keys that a member lacks"
        )
