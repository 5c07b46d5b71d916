"""Cache of object handles by CKA_ID, one for the whole process.

C_FindObjects walks the whole token on SoftHSM (15 µs per object), while an operation by handle costs the same however
many objects there are. So a key is searched for once per process; after a few searches, all keys are loaded by one
enumeration.
"""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Final

from pkcs11.constants import Attribute
from pkcs11.types import Object, Session

from hsmkms.errors import ObjectLostError, TokenUnavailableError
from hsmkms.hsm.faults import AWAY, OBJECT_LOST
from hsmkms.hsm.objects.objects import find, handle_of, list_keys, tell

ENUMERATE_AFTER: Final = 4
"""Single searches before the whole token is enumerated once: a command needs one key, a server all."""

SEARCH_SECONDS: Final = 10.0
"""Timeout for another thread's search, which may hang in the token."""


class HandleIndex:
    """Handle cache for secret keys and private halves."""

    lookup: Callable[[bytes], int | None]
    """Return the cached handle of a CKA_ID, or None: one dictionary access."""

    def __init__(self) -> None:
        self._handles: dict[bytes, int] = {}
        self.lookup = self._handles.get
        self._labels: dict[bytes, str | None] = {}
        self._searching = threading.Lock()
        self._searches = 0

    def label(self, cka_id: bytes) -> str | None:
        """Return the label of a key that was found by a single search, if it could be read then."""
        return self._labels.get(cka_id)

    def remember(self, cka_id: bytes, handle: int) -> None:
        """Cache the handle of an object that was just created."""
        self._handles[cka_id] = handle

    def forget(self, cka_id: bytes, handle: int | None = None) -> None:
        """Drop a handle that the token reported invalid; with ``handle``, only if it is still the cached one."""
        if handle is None or self._handles.get(cka_id) == handle:
            self._handles.pop(cka_id, None)
            self._labels.pop(cka_id, None)

    def forget_all(self) -> None:
        """Drop every handle: the sessions or the token changed. A search in progress fills the old dictionary."""
        self._handles = {}
        self.lookup = self._handles.get
        self._labels = {}
        self._searches = 0

    def search(self, session: Session, cka_id: bytes) -> int:
        """Find a key on the token; raises ObjectLostError if it is not there."""
        if not self._searching.acquire(timeout=SEARCH_SECONDS):
            raise TokenUnavailableError(AWAY)
        try:
            handles = self._handles
            handle = handles.get(cka_id)
            if handle is not None:
                return handle
            self._searches += 1
            if self._searches == ENUMERATE_AFTER:
                _enumerate(session, handles)
            if cka_id not in handles:
                found = _find(session, cka_id)
                self._labels[cka_id] = tell(found, (Attribute.LABEL,))[Attribute.LABEL]
                handles[cka_id] = handle_of(found)
            return handles[cka_id]
        finally:
            self._searching.release()


def _find(session: Session, cka_id: bytes) -> Object:
    found = find(session, None, cka_id)
    if found is None:
        raise ObjectLostError(OBJECT_LOST)
    return found


def _enumerate(session: Session, handles: dict[bytes, int]) -> None:
    secrets = [each for each in list_keys(session) if each.is_key]
    count = Counter(each.cka_id for each in secrets)
    # A duplicate CKA_ID is left to find(), whose error names it.
    handles.update((each.cka_id, each.handle) for each in secrets if count[each.cka_id] == 1)
