"""Store notes on the token: small data objects that restoring an old copy of the disk does not bring back.

The value of a data object cannot be changed (SoftHSM refuses, others may), so a newer note is created and read back
before the older ones are destroyed: after a crash there are two, never none. Some tokens have no data objects at all.

A reader that races with another process's replacement may see an older note that is destroyed before its value is read,
or neither note (SoftHSM reads the files one after another): such a search is retried.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from pkcs11 import exceptions as ckr
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.types import Object, Session

from hsmkms.errors import TokenError, UnsupportedOperationException
from hsmkms.hsm.faults import translated
from hsmkms.hsm.objects.handle_keys import HandleObject, create_object
from hsmkms.hsm.objects.objects import handle_of, search, tell

Result = TypeVar("Result")

APPLICATION: Final = "hsmkms"
NO_NOTES: Final = "this token keeps no data objects: name audit.seal_file in the configuration"
_ATTEMPTS: Final = 20
_REFUSALS: Final = (ckr.AttributeTypeInvalid, ckr.AttributeValueInvalid, ckr.TemplateInconsistent)


class StoredNote(NamedTuple):
    """A note on the token, and the handle under which it was read."""

    label: str
    value: bytes
    handle: int


def read_notes(session: Session, prefix: str) -> dict[str, StoredNote]:
    """Return the notes whose label begins with ``prefix``, keyed by label."""
    with translated():
        return _settled(lambda: _stored(session, prefix)) or _settled(lambda: _stored(session, prefix))


def is_note_at(session: Session, handle: int, label: str, value: bytes) -> bool:
    """Return True if the handle is that of a note with this label and value. One call; False proves nothing.

    A note is a private object, so True also shows that the login is valid.
    """
    wanted = _template(label, value)
    return tell(HandleObject(session, handle), tuple(wanted)) == wanted


def keep_note(session: Session, prefix: str, label: str, value: bytes) -> None:
    """Create a note, read it back, and destroy all others with that prefix.

    UnsupportedOperationException for a token that has no data objects.
    """
    template = _template(label, value) | {Attribute.MODIFIABLE: False}
    with translated():
        others = [note for note_label, _, note in _settled(lambda: _find(session, prefix)) if note_label != label]
        try:
            create_object(session, template)
        except _REFUSALS as exc:
            raise UnsupportedOperationException(NO_NOTES) from exc
    kept = read_notes(session, prefix).get(label)
    if kept is None or kept.value != value:
        raise TokenError("the token does not give a data object back as it was made")
    with translated():
        for note in others:
            note.destroy()


def remove_notes(session: Session, prefix: str) -> None:
    """Destroy all notes with that prefix."""
    with translated():
        for _, _, note in _settled(lambda: _find(session, prefix)):
            note.destroy()


def _settled(look: Callable[[], Result]) -> Result:
    """Call ``look``, and retry if another process has destroyed one of the objects meanwhile."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(ckr.ObjectHandleInvalid):
            return look()
    return look()


def _template(label: str, value: bytes) -> dict[Attribute, Any]:
    return {
        Attribute.CLASS: ObjectClass.DATA,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.APPLICATION: APPLICATION,
        Attribute.LABEL: label,
        Attribute.VALUE: value,
    }


def _stored(session: Session, prefix: str) -> dict[str, StoredNote]:
    return {label: StoredNote(label, value, handle_of(note)) for label, value, note in _find(session, prefix)}


def _find(session: Session, prefix: str) -> list[tuple[str, bytes, Object]]:
    """Return label, value and object of each note. ObjectHandleInvalid if one of them is destroyed meanwhile."""
    wanted = {Attribute.CLASS: ObjectClass.DATA, Attribute.APPLICATION: APPLICATION, Attribute.TOKEN: True}
    found: list[tuple[str, bytes, Object]] = []
    for note in search(session, wanted):
        reported = tell(note, (Attribute.LABEL, Attribute.VALUE))
        label, value = reported[Attribute.LABEL], reported[Attribute.VALUE]
        if label is None or value is None:
            label, value = note[Attribute.LABEL], note[Attribute.VALUE]  # for the token's own error
        if label.startswith(prefix):
            found.append((label, value, note))
    return found
