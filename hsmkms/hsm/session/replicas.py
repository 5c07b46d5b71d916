"""Look for a new object on the other members of an HA group, so that no key is acknowledged that a failover would lose.

hsmkms does not replicate objects: the HSM or its client does, at once or after a while. After a creation every other
member that could take over, since it is present and proves the token's identity, is asked for the object until it has
it. For that there is a session with each of them, logged in by the same gate as that of the member in use.

Not thread-safe: its owner calls it under the login lock, so that the module is not finalised under a call.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from hsmkms.errors import HsmKmsError, TokenNotFoundError
from hsmkms.hsm.calls.function_list import session_handle
from hsmkms.hsm.faults import translate
from hsmkms.hsm.objects.objects import find
from hsmkms.hsm.session.cryptoki import Cryptoki

log = logging.getLogger("hsmkms.hsm")

RETRY_SECONDS: Final = 5.0
"""Pause before another login to a member that could not be used."""


class Replicas:
    """Sessions with the members of an HA group that are not in use. ``log_in`` opens one, proven, by the serial."""

    def __init__(self, cryptoki: Cryptoki, log_in: Callable[[str], Session]) -> None:
        self._cryptoki = cryptoki
        self._log_in = log_in
        self._sessions: dict[str, Session] = {}
        self._retry_at: dict[str, float] = {}

    def lacking(self, serials: Sequence[str], cka_ids: Sequence[bytes]) -> list[str]:
        """Return the serials of the members that could take over and lack one of the objects."""
        return [each for each in serials if self._lacks(each, cka_ids)]

    def forget(self) -> None:
        """Drop all sessions, which died with the module."""
        self._sessions.clear()

    def close(self) -> None:
        """Close all sessions: a member that takes over gets a login of its own."""
        for each in self._sessions.values():
            self._cryptoki.close_session(session_handle(each))  # no logout; it may be dead already
        self.forget()

    def _lacks(self, serial: str, cka_ids: Sequence[bytes]) -> bool:
        if time.monotonic() < self._retry_at.get(serial, 0.0):
            return False
        try:
            return self._lacks_now(serial, cka_ids)
        except (HsmKmsError, PKCS11Error) as exc:
            fault = exc if isinstance(exc, HsmKmsError) else translate(exc)
            log.warning(
                "the HA member with serial %s cannot take over now, so new keys are not sought there: %s", serial, fault
            )
            self._retry_at[serial] = time.monotonic() + RETRY_SECONDS
            return False

    def _lacks_now(self, serial: str, cka_ids: Sequence[bytes]) -> bool:
        """Ask the member; once more after another login if it fails in a session that was open before.

        A session may have died alone, and a single call may fail: neither shows that the member cannot take over.
        """
        for session in (self._open_session(serial), None):
            try:
                found = session or self._logged_in(serial)
                return found is not None and any(find(found, None, each) is None for each in cka_ids)
            except (HsmKmsError, PKCS11Error):
                if session is None:
                    raise
                self._close(serial)
        raise AssertionError("unreachable: the second attempt returns or raises")

    def _open_session(self, serial: str) -> Session | None:
        """Return the open session with the member if its login is valid."""
        session = self._sessions.get(serial)
        if session is not None and not self._cryptoki.logged_in(session_handle(session)):
            self._close(serial)
        return self._sessions.get(serial)

    def _logged_in(self, serial: str) -> Session | None:
        """Log in to the member and return the session; None if the member is not present."""
        with suppress(TokenNotFoundError):
            self._sessions[serial] = self._log_in(serial)
        return self._sessions.get(serial)

    def _close(self, serial: str) -> None:
        self._cryptoki.close_session(session_handle(self._sessions.pop(serial)))
