"""Open and close the tokens of an installation: its home, where keys are created, and those with older keys.

Each backing key is on one token, which its record names. The home is the token that was bound last: it changes when an
operator migrates, which other processes notice at their next call. While a token cannot be reached, only calls that
need it fail, and at once; every few seconds one thread tries to open it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Final

from hsmkms.errors import HsmKmsError, StoreError, TokenUnavailableError, WrongTokenError
from hsmkms.hsm.ports import Device
from hsmkms.hsm.session.identity import Identity, Listener
from hsmkms.service.runtime.open_processes import ProcessFile
from hsmkms.store import installation as stored
from hsmkms.store.engine import Store
from hsmkms.store.installation import TokenRow

log = logging.getLogger("hsmkms.service")

RETRY_SECONDS: Final = 3.0
"""Shortest pause between two attempts to open a token that could not be opened."""

Seek = Callable[[TokenRow], Device]
"""Opens a token of the database and proves its identity; raises the error if it cannot."""

Identify = Callable[[str], Identity]
"""Returns the identity that a token of the database, given by its id, must prove after each login."""

LoggedIn = Callable[[str, frozenset[bytes]], None]
"""Called with a token's id after it was attached and after each later login; may raise an error to keep it unused.

The other argument: CKA_IDs of keys that the token has just shown to hold.
"""


class Tokens:
    """The open tokens of this process. Thread-safe; of no use in a forked child."""

    def __init__(self, store: Store, home_id: str, home: Device, seek: Seek) -> None:
        self._store = store
        self._seek = seek
        self._home_id = home_id
        self._open: dict[str, Device] = {home_id: home}
        self._spare: list[Device] = []
        self._process_file: ProcessFile | None = None
        self._away: dict[str, HsmKmsError] = {}
        self._next_look: dict[str, float] = {}
        self._identify: Identify | None = None
        self._listeners: list[LoggedIn] = []
        self._required: list[tuple[Device, Identity, Listener]] = []
        self._lock = threading.Lock()
        self._following = threading.Lock()
        self._signals = self._followed = 0
        self._closed = False

    # -- the home ---------------------------------------------------------------------------------------------------

    @property
    def home_id(self) -> str:
        """Id of the token on which keys are created."""
        if self._signals != self._followed:
            self._follow()
        return self._home_id

    @property
    def home_id_so_far(self) -> str:
        """The same without following a migration: no token is opened."""
        return self._home_id

    @property
    def home(self) -> Device:
        """The token on which keys are created."""
        return self._open[self.home_id]

    def may_have_moved(self) -> None:
        """Have the home read from the database again before its next use."""
        self._signals += 1

    def _follow(self) -> None:
        while (row := self._move()) is not None:
            self.of(row.id)  # not under the lock: opening one takes long
        known = {each.id for each in self.rows()}
        for token_id in [each for each in (*self._open, *self._away) if each not in known]:
            self.drop(token_id)

    def _move(self) -> TokenRow | None:
        """Switch to the home that the database names; return its row instead if it is not open."""
        with self._following:
            signals = self._signals  # later ones are processed the next time
            with self._store.reading() as conn:
                row = stored.home(conn)
            if row is not None and row.id != self._home_id:
                if row.id not in self._open:
                    return row
                log.warning("keys are created on the token %r from now on", row.label)
                self._home_id = row.id
            self._followed = signals
            return None

    # -- any of them --------------------------------------------------------------------------------------------------

    def of(self, token_id: str) -> Device:
        """Return the token of that id. TokenUnavailableError, without waiting, if it could not be opened before."""
        device = self._open.get(token_id)
        return device if device is not None else self._attach(token_id)

    def rows(self) -> list[TokenRow]:
        """Return the rows of all tokens that the installation has keys on, oldest first."""
        with self._store.reading() as conn:
            return [each for each in stored.tokens(conn) if each.response is not None]

    def free(self) -> bool:
        """Return True if a call to any of them that begins now would not wait for a session."""
        for each in list(self._open.values()):  # noqa: SIM110 - asked for each request: a generator costs more
            if not each.connection.free():
                return False
        return True

    def opened(self) -> list[Device]:
        """Return the tokens that are open in this process; the installation may have keys on more."""
        return list(self._open.values())

    def attach_all(self, spare: Iterable[Device] = ()) -> None:
        """Open every token that is not open yet; a failure is logged, and retried when the token is needed.

        ``spare``: opened tokens that the installation may come to use; they are closed with the others. From here on
        other processes see which tokens this one has open.
        """
        self._process_file = ProcessFile(self._store.folder)
        for row in self.rows():
            if row.id not in self._open:
                self._look(row)
        self._spare = list(spare)
        self._publish()

    def require(self, identify: Identify) -> None:
        """Require that each token proves its identity, now and after each login; also those that are attached later.

        WrongTokenError if an open one is another token.
        """
        self._identify = identify
        for token_id, device in list(self._open.items()):
            self._require(token_id, device)

    def listen(self, logged_in: LoggedIn) -> None:
        """Call ``logged_in`` after each later login of a token, and after one is attached; see ``Device.require``."""
        self._listeners.append(logged_in)

    def _require(self, token_id: str, device: Device) -> None:
        if self._identify is not None:
            identity = self._identify(token_id)

            def logged_in(shown: frozenset[bytes]) -> None:
                for each in self._listeners:
                    each(token_id, shown)

            device.connection.require(identity, logged_in)
            self._required.append((device, identity, logged_in))

    def _release(self, device: Device) -> None:
        """Stop requiring the identity of a token that is about to be closed."""
        for required in [each for each in self._required if each[0] is device]:
            self._required.remove(required)
            device.connection.release_identity(*required[1:])

    def stop_proving(self, token_id: str) -> None:
        """Stop requiring the identity of a token whose identity key is about to be destroyed: its loss is no outage."""
        self._release(self._open[token_id])

    def others_without(self, device: Device) -> list[int]:
        """Return the ids of other processes that have the installation open, but not that token."""
        return (
            self._process_file.others_without(device.profile.label, device.connection.members)
            if self._process_file is not None
            else []
        )

    def names(self) -> list[tuple[str, str]]:
        """Return (label, serial) of every open token."""
        return [(each.profile.label, each.profile.serial) for each in (*self._open.values(), *self._spare)]

    def _publish(self) -> None:
        if self._process_file is not None:
            self._process_file.publish(each.profile for each in (*self._open.values(), *self._spare))

    def away(self) -> dict[str, HsmKmsError]:
        """Return the errors of the tokens that this process could not open, by token id."""
        return {token_id: fault for token_id, fault in self._away.copy().items() if token_id not in self._open}

    def add(self, token_id: str, device: Device) -> None:
        """Take over a token that was opened and proven elsewhere. It is closed with the others."""
        if token_id in self._open:
            device.close()  # shares the login of the one that is open
        else:
            self._require(token_id, device)
            self._open[token_id] = device
            self._publish()

    def drop(self, token_id: str) -> None:
        """Close a token that the installation has forgotten."""
        with self._lock:
            device = self._open.pop(token_id, None)
            self._away.pop(token_id, None)
        if device is not None:
            self._release(device)
            device.close()
        self._publish()

    def settle(self, token_id: str, device: Device) -> None:
        """Use a token that was opened elsewhere and just bound as the home."""
        self.add(token_id, device)
        self._home_id = token_id

    def close(self) -> None:
        """Close all tokens."""
        with self._lock, ExitStack() as rest:
            self._closed = True
            if self._process_file is not None:
                rest.callback(self._process_file.close)
            for each in (*self._open.values(), *self._spare):
                rest.callback(each.close)
            for each in self.opened():
                self._release(each)

    def _attach(self, token_id: str) -> Device:
        fault = self._away.get(token_id)
        if fault is None:
            self._look(self._row(token_id))
        elif time.monotonic() >= self._next_look.get(token_id, 0.0):
            self._next_look[token_id] = time.monotonic() + RETRY_SECONDS
            threading.Thread(target=self._look, args=(self._row(token_id),), name="hsmkms attach", daemon=True).start()
        device = self._open.get(token_id)
        if device is None:
            fault = self._away.get(token_id, fault)
            kind = type(fault) if isinstance(fault, WrongTokenError) else TokenUnavailableError
            raise kind(str(fault or "the installation was closed"))
        return device

    def _row(self, token_id: str) -> TokenRow:
        found = next((each for each in self.rows() if each.id == token_id), None)
        if found is None:
            raise TokenUnavailableError(f"the database knows no token {token_id}")
        return found

    def _look(self, row: TokenRow) -> None:
        """Try to open a token; one thread at a time does so."""
        with self._lock:
            if row.id in self._open or self._closed:
                return
            try:
                device = self._open[row.id] = self._attached(row)
            except HsmKmsError as exc:
                if type(self._away.get(row.id)) is not type(exc):
                    log.error("the token %r is away, and its keys with it: %s", row.label, exc)  # noqa: TRY400 - no bug
                self._away[row.id] = exc
                self._next_look[row.id] = time.monotonic() + RETRY_SECONDS
                return
            with suppress(StoreError):  # a migration waits for processes that have not published
                self._publish()
            if self._away.pop(row.id, None) is not None:
                log.warning("the token %r is back", row.label)
        device.connection.announce()

    def _attached(self, row: TokenRow) -> Device:
        device = self._seek(row)
        try:
            self._require(row.id, device)
        except BaseException:
            device.close()
            raise
        return device
