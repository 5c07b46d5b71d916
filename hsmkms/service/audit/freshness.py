"""Whether a token is an older copy of itself: a snapshot of a SoftHSM folder, an HSM that was restored from a backup.

It has the installation's own key, so it proves its identity; and it lacks what was made since. It goes on with what it
has, but no key is made on it: the newer one may be put back. Each seal of the audit
log leaves a note on the token, and a file beside the log remembers the newest note that each token has taken. A note
that is older than that was put back. A process that was killed between a seal and its note has not written that file,
so it raises no alarm.

A token is looked at when it is opened, after each login, after each key that was made on it, and by each seal.
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
    """The look at the notes on the tokens of an open installation. Thread-safe."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._notes = SealNotes(core)
        self._folder = core.audit.folder
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Look at every open token now, and at each again after a login."""
        self._core.tokens.listen(self.look)
        for row in self._core.tokens.rows():
            try:
                self.look(row.id)
            except TokenUnavailableError:  # it is looked at when it is back
                pass
            except StoreError as exc:  # and before a key is made on it
                log.error("%s", exc)  # noqa: TRY400 - told in one sentence
                self._core.tokens.of(row.id).connection.announce()

    def look(self, token_id: str) -> None:
        """Compare the newest note on a token with the newest that it has taken; what is wrong is in ``core.older``."""
        with self._lock:
            found = self._fault(token_id)
            if found is not None:  # a seal may have been made meanwhile: look again when nobody makes one
                with exclusive(self._folder / audit_files.SEAL_LOCK, _LOCK_SECONDS):
                    found = self._fault(token_id)
            settle(self._core, token_id, found)

    def unsealed(self) -> HsmKmsError | None:
        """Why no seal of a row can be proven, where the home lacks the key of the seals; no call to the token."""
        found = self._core.older.get(self._core.tokens.home_id, "")
        return TokenUnavailableError(found) if binding.BEFORE_ROTATION in found else None

    def look_again(self) -> None:
        """Look whether what was wrong still is: somebody may have put the right token back, or accepted this one."""
        for token_id in list(self._core.older):
            with suppress(HsmKmsError):
                self.look(token_id)

    def accept(self) -> None:
        """Take the tokens as they are: what is sealed next leaves its note on them."""
        with self._lock:
            for token_id in list(self._core.older):
                forget_noted(self._folder, token_id)  # what is made until that seal is no alarm
                settle(self._core, token_id, None)

    def take(self, token_id: str) -> None:
        """Take one token as it is, whatever it remembers: the operator has accepted it in the place of another one."""
        with self._lock:
            forget_noted(self._folder, token_id)
            settle(self._core, token_id, None)

    def _fault(self, token_id: str) -> str | None:
        before = binding.from_before_rotation(self._core.store, self._core.tokens.of(token_id), token_id)
        if before is not None:
            return before
        # The file first: a note that it knows of is on the token.
        wanted = noted_on(self._folder, token_id)
        return self._notes.older(token_id, wanted) if wanted else None


def settle(core: Core, token_id: str, found: str | None) -> None:
    """Make no key on a token that was found to be an older copy of itself, and tell of it; None: it is none."""
    known = core.older.pop(token_id, None)
    core.tokens.of(token_id).connection.make_nothing(TokenUnavailableError(found) if found is not None else None)
    if found is not None:
        core.older[token_id] = found
        if known is None:
            log.error("%s", found)
    elif known is not None:
        log.warning("the token is no older copy of itself any more")
