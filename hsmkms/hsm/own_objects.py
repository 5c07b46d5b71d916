"""The installation's own objects on a token: its MAC keys, and notes in data objects."""

from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session

from hsmkms.hsm.allowed_acts import MAY_AUTHENTICATE, MAY_INITIALISE, MAY_SEAL
from hsmkms.hsm.objects.attributes import INSTALLATION_MAC_KEY
from hsmkms.hsm.objects.data_objects import is_note_at, keep_note, read_notes, remove_notes
from hsmkms.hsm.objects.handle_keys import HandleKey
from hsmkms.hsm.session.connection import Connection
from hsmkms.model.permit import Permit


class OwnObjects:
    """HMAC by the installation's own keys, and its data objects. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._note_handles: dict[bytes, int] = {}
        """The handles of the notes that were read last, by their values."""
        connection.caches.append(self._note_handles)

    def generate_mac_key(self, permit: Permit, cka_id: bytes, label: str) -> None:
        """Generate an installation key (HMAC-SHA-256) on the token, verified by reading its attributes back."""
        permit.require(MAY_INITIALISE, cka_id)
        self._connection.keep_secret(INSTALLATION_MAC_KEY, cka_id, label)

    def mac(self, permit: Permit, cka_id: bytes, message: bytes) -> bytes:
        """Return the HMAC-SHA-256 of ``message`` under an installation key: 32 bytes."""
        permit.require(MAY_AUTHENTICATE, cka_id)

        def attempt(session: Session, handle: int) -> bytes:
            key = HandleKey(session, handle, KeyType.GENERIC_SECRET)
            done: bytes = key.sign(message, mechanism=Mechanism.SHA256_HMAC)
            return done

        return self._connection.use(cka_id, attempt, "mac")

    def notes(self, permit: Permit, prefix: str) -> dict[str, bytes]:
        """Return the installation's data objects whose label begins with ``prefix``, keyed by label."""
        permit.require(MAY_SEAL)

        def attempt(session: Session) -> dict[str, bytes]:
            found = read_notes(session, prefix)
            if not found:
                self._connection.require_identity(session)
            self._note_handles.clear()
            self._note_handles.update((note.value, note.handle) for note in found.values())
            return {label: note.value for label, note in found.items()}

        return self._connection.repeatable(attempt)

    def holds_note(self, permit: Permit, label: str, value: bytes) -> bool:
        """True if a note that was read before is on the token now, with that value. One call; False proves nothing."""
        permit.require(MAY_SEAL)

        def attempt(session: Session) -> bool:
            handle = self._note_handles.get(value)
            return handle is not None and is_note_at(session, handle, label, value)

        return self._connection.repeatable(attempt)

    def replace_note(self, permit: Permit, prefix: str, label: str, value: bytes) -> None:
        """Store ``value`` in place of all notes with that prefix; UnsupportedOperationException if the token cannot."""
        permit.require(MAY_SEAL)

        def attempt(session: Session) -> None:
            keep_note(session, prefix, label, value)
            self._connection.require_identity(session)

        with self._connection.write_lock():
            self._connection.repeatable(attempt)

    def remove_notes(self, permit: Permit, prefix: str) -> None:
        """Destroy all of the installation's data objects with that prefix."""
        permit.require(MAY_SEAL)
        with self._connection.write_lock():
            self._connection.repeatable(lambda session: remove_notes(session, prefix))
