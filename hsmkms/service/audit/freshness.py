"""Detect a token that is an older copy of itself: a snapshot of a SoftHSM folder, or an HSM restored from a backup.

It has the installation's own key, so it proves its identity; but it lacks the keys created since. It still serves the
keys it has, but no key is created on it, since the newer token may be put back. Each seal of the audit log leaves a
note on the token, and a file beside the log records the newest note written to each token. A token whose note is older
than that is an older copy. If a process is killed between a seal and its note, it has not written that file, so this
raises no false alarm.

A token is checked when it is opened, after each login, after each key created on it, and by each seal.
"""

import logging
import threading
from contextlib import suppress
from typing import Final

from hsmkms.errors import HsmKmsError, StoreError, TokenUnavailableError
from hsmkms.process import exclusive
from hsmkms.service.audit.seal_notes import SealNotes, forget_noted, noted_on
from hsmkms.service.runtime import binding
from hsmkms.service.runtime.core import Core
from hsmkms.store import audit_files

log = logging.getLogger("hsmkms.service")

_LOCK_SECONDS: Final = 5.0


class Freshness:
    """Checks the notes on the tokens of an open installation. Thread-safe."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._notes = SealNotes(core)
        self._folder = core.audit.folder
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Check every open token now, and each again after a login."""
        self._core.tokens.listen(self.look)
        for row in self._core.tokens.rows():
            try:
                self.look(row.id)
            except TokenUnavailableError:  # it is checked when it is back
                pass
            except StoreError as exc:  # it is checked again before a key is created on it
                log.error("%s", exc)  # noqa: TRY400 - the sentence suffices
                self._core.tokens.of(row.id).connection.announce()

    def look(self, token_id: str, shown: frozenset[bytes] = frozenset()) -> None:
        """Compare the newest note on a token with the newest one written to it; record a fault in ``core.older``.

        ``shown``: CKA_IDs of keys that the token has just shown to hold.
        """
        with self._lock:
            fault = self._fault(token_id, shown)
            # A concurrent seal can cause a fault: check again under the seal lock. Without a folder nothing seals.
            if fault is not None and self._folder.is_dir():
                with exclusive(self._folder / audit_files.SEAL_LOCK, _LOCK_SECONDS):
                    fault = self._fault(token_id)
            settle(self._core, token_id, fault)

    def unsealed(self) -> HsmKmsError | None:
        """Return why no row seal can be verified, if the home lacks the sealing key; makes no call to the token."""
        reason = self._core.older.get(self._core.tokens.home_id, "")
        return TokenUnavailableError(reason) if binding.BEFORE_ROTATION in reason else None

    def look_again(self) -> None:
        """Check the faulty tokens again: the right token may have been put back, or this one accepted."""
        for token_id in list(self._core.older):
            with suppress(HsmKmsError):
                self.look(token_id)

    def accept(self) -> None:
        """Accept the tokens as they are; the next seal leaves its note on them."""
        with self._lock:
            for token_id in list(self._core.older):
                forget_noted(self._folder, token_id)  # so that there is no alarm before that seal
                settle(self._core, token_id, None)

    def take(self, token_id: str) -> None:
        """Accept one token as it is, whatever its notes: the operator has accepted it in the place of another one."""
        with self._lock:
            forget_noted(self._folder, token_id)
            settle(self._core, token_id, None)

    def _fault(self, token_id: str, shown: frozenset[bytes] = frozenset()) -> str | None:
        before = binding.from_before_rotation(self._core.store, self._core.tokens.of(token_id), token_id, shown)
        if before is not None:
            return before
        # Read the file first: a note that it lists is on the token already.
        wanted = noted_on(self._folder, token_id)
        return self._notes.older(token_id, wanted) if wanted else None


def settle(core: Core, token_id: str, fault: str | None) -> None:
    """Forbid creating keys on a token that is an older copy of itself, and log it; None: it is not an older copy."""
    known = core.older.pop(token_id, None)
    core.tokens.of(token_id).connection.make_nothing(TokenUnavailableError(fault) if fault is not None else None)
    if fault is not None:
        core.older[token_id] = fault
        if known is None:
            log.error("%s", fault)
    elif known is not None:
        log.warning("the token is no older copy of itself any more")
