"""Look for a new object on the other members of an HA group, so that no key is acknowledged that a failover would lose.

hsmkms does not replicate objects: the HSM or its client does, at once or after a while. After a creation every other
member that could take over, since it is present and proves the token's identity, is asked for the object until it has
it. For that there is a session with each of them, logged in by the same gate as that of the member in use.

A member that hangs must not hang the one in use with it. So each is asked in a thread of its own, under no lock but its
own, and counts as unable to take over once it has not answered for a while. The module is not finalised meanwhile, and
if it is the login that hangs, others can log in.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from hsmkms.errors import HsmKmsError, TokenNotFoundError
from hsmkms.hsm.calls.function_list import session_handle
from hsmkms.hsm.faults import translate
from hsmkms.hsm.objects.objects import find
from hsmkms.hsm.session.login import LoginGate
from hsmkms.hsm.session.module import Module

log = logging.getLogger("hsmkms.hsm")

RETRY_SECONDS: Final = 5.0
"""Longest pause before a member that could not be used is asked again."""

WARN_SECONDS: Final = 60.0
"""Pause between two warnings about a member that keeps failing."""

RETRY_FACTOR: Final = 10
"""The pause is so many times as long as the failed attempt: creations are not slowed down much, and a member that fails
at once is missed for moments only after it has come back."""


class Replica:
    """A member of an HA group that is not in use, and the session with it. Thread-safe.

    ``log_in`` opens a session, proven, by the serial, through the ``gate``.
    """

    def __init__(
        self, serial: str, module: Module, gate: LoginGate, log_in: Callable[[str, LoginGate], Session]
    ) -> None:
        self._serial = serial
        self._module = module
        self._gate = gate
        self._log_in = log_in
        self._asking = threading.Lock()
        """Held while the member is asked, for as long as that takes."""
        self._asked_at = 0.0
        self._session: Session | None = None
        self._retry_at = 0.0
        self._warn_at = 0.0

    def lacks(self, cka_ids: Sequence[bytes], patience_seconds: float) -> bool:
        """Return True if the member could take over and lacks one of the objects.

        False for one that fails, or has not answered for ``patience_seconds``, to this call or an earlier one.
        """
        if time.monotonic() < self._retry_at:
            return False
        while not self._asking.acquire(timeout=max(self._asked_at + patience_seconds - time.monotonic(), 0)):
            if time.monotonic() >= self._asked_at + patience_seconds:  # else it has answered others meanwhile
                return False
        self._asked_at = time.monotonic()
        self._gate.expect_login()
        answer: Future[bool] = Future()
        threading.Thread(target=self._ask, args=(cka_ids, answer), name="hsmkms standby", daemon=True).start()
        try:
            return answer.result(patience_seconds)
        except TimeoutError:
            self._gate.let_others_in()
            log.warning(
                "the HA member with serial %s has not answered for %g s: until it does, it cannot take over, and new "
                "keys are not sought there",
                self._serial,
                patience_seconds,
            )
            return False

    def forget(self) -> None:
        """Drop the session, which died with the module."""
        self._session = None

    def close(self, wait_seconds: float = 0.0) -> None:
        """Close the session, unless the member is being asked and does not answer within ``wait_seconds``."""
        if self._asking.acquire(timeout=wait_seconds):
            try:
                self._close()
            finally:
                self._asking.release()

    def _ask(self, cka_ids: Sequence[bytes], answer: "Future[bool]") -> None:
        try:
            with self._module.kept():
                lacks = self._lacks(cka_ids)
        except Exception as exc:  # noqa: BLE001 - raised again by the thread that waits
            answer.set_exception(exc)
        else:
            answer.set_result(lacks)
        finally:
            self._asking.release()

    def _lacks(self, cka_ids: Sequence[bytes]) -> bool:
        begun = time.monotonic()
        try:
            lacks = self._lacks_now(cka_ids)
        except (HsmKmsError, PKCS11Error) as exc:
            now = time.monotonic()
            self._retry_at = now + min(RETRY_FACTOR * (now - begun), RETRY_SECONDS)
            self._note_fault(exc if isinstance(exc, HsmKmsError) else translate(exc))
            return False
        self._warn_at = 0.0
        return lacks

    def _note_fault(self, fault: HsmKmsError) -> None:
        """Log a failure; of several in a row one in a while."""
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + WARN_SECONDS
            log.warning(
                "the HA member with serial %s cannot take over now, so new keys are not sought there: %s",
                self._serial,
                fault,
            )

    def _lacks_now(self, cka_ids: Sequence[bytes]) -> bool:
        """Ask the member; once more after another login if it fails in a session that was open before.

        A session may have died alone, and a single call may fail: neither shows that the member cannot take over.
        """
        for session in (self._open_session(), None):
            try:
                found = session or self._logged_in()
                return found is not None and any(find(found, None, each) is None for each in cka_ids)
            except (HsmKmsError, PKCS11Error):
                if session is None:
                    raise
                self._close()
        raise AssertionError("unreachable: the second attempt returns or raises")

    def _open_session(self) -> Session | None:
        """Return the open session if its login is valid."""
        session = self._session
        if session is not None and not self._module.cryptoki.logged_in(session_handle(session)):
            self._close()
        return self._session

    def _logged_in(self) -> Session | None:
        """Log in and return the session; None if the member is not present."""
        with suppress(TokenNotFoundError):
            self._session = self._log_in(self._serial, self._gate)
        return self._session

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._module.cryptoki.close_session(session_handle(session))  # no logout; it may be dead already


class Replicas:
    """The members of an HA group, each to be asked while it is not in use."""

    def __init__(self, members: Mapping[str, Replica]) -> None:
        self._members = members

    def lacking(self, in_use: str | None, cka_ids: Sequence[bytes], patience_seconds: float) -> list[str]:
        """Return the serials of the members that are not in use, could take over, and lack one of the objects."""
        others = [(serial, member) for serial, member in self._members.items() if serial != in_use]
        return [serial for serial, member in others if member.lacks(cka_ids, patience_seconds)]

    def forget(self) -> None:
        """Drop all sessions, which died with the module."""
        for each in self._members.values():
            each.forget()

    def close(self, wait_seconds: float = 0.0) -> None:
        """Close all sessions: a member that takes over gets a login of its own. See ``Replica.close``."""
        for each in self._members.values():
            each.close(wait_seconds)
