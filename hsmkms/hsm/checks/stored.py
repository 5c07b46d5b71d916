"""Checks of objects that are stored on the token, and their removal, also after a run that crashed.

Two runs may check one token at the same time. So what a run stores has a mark, with the run and the time, as its CKA_ID
or CKA_VALUE, and a run leaves alone what another one has stored within the last ten minutes: longer than a check lasts.
"""

import time
from typing import Final

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.hsm.checks.bench import CHECK_LABEL, Bench, Finding
from hsmkms.hsm.ckr_names import ckr_name
from hsmkms.hsm.objects.attributes import INSTALLATION_MAC_KEY
from hsmkms.hsm.objects.data_objects import APPLICATION, keep_note, remove_notes
from hsmkms.hsm.objects.handle_keys import HandleKey
from hsmkms.hsm.objects.objects import find, generate, handle_of, search, tell
from hsmkms.model.token_check import Outcome

_LABELS: Final = (CHECK_LABEL, "hsmkms probe (a session object)")
"""Labels of what checks and probes make: a token may store what was ordered for a session only."""

_MARK: Final = b"chk:"
_MARKED: Final = (Attribute.ID, Attribute.VALUE)
_NAMES: Final = (Attribute.LABEL,)
_OTHERS_SECONDS: Final = 600.0


def stored_key(bench: Bench) -> Finding:
    """Store a key on the token, use it in another session, destroy it, and search for it again."""
    cka_id = _mark(bench.run)
    made = generate(bench.session, INSTALLATION_MAC_KEY, cka_id, CHECK_LABEL, bench.support)
    try:
        with bench.another_session() as other:
            found = find(other, ObjectClass.SECRET_KEY, cka_id)
            if found is None:
                return Finding(Outcome.FAILED, "another session with the same login does not find it by its CKA_ID")
            key = HandleKey(other, handle_of(found), KeyType.GENERIC_SECRET)
            key.sign(b"message", mechanism=Mechanism.SHA256_HMAC)
    finally:
        made.destroy()
    if find(bench.session, ObjectClass.SECRET_KEY, cka_id) is not None:
        return Finding(Outcome.FAILED, "it is still found after C_DestroyObject")
    return Finding(Outcome.WORKS, "stored, found by its CKA_ID and used in another session, destroyed")


def data_objects(bench: Bench) -> Finding:
    """Store a data object, read it back and destroy it."""
    label = f"{CHECK_LABEL} {bench.run}"
    keep_note(bench.session, label, label, _mark(bench.run))
    remove_notes(bench.session, label)
    return Finding(Outcome.WORKS, "stored, read back, destroyed")


def clean_up(bench: Bench) -> Finding:
    """Remove what checks have left on the token."""
    removed, kept = remove_leftovers(bench.session, bench.run)
    if kept:
        return Finding(
            Outcome.LIMITED,
            f"{len(kept)} objects of this program stay on the token ({', '.join(sorted(set(kept)))})",
            f"remove the objects labelled {CHECK_LABEL!r} with the token's own tool",
            kept[0],
        )
    return Finding(Outcome.WORKS, f"{removed} objects removed" if removed else "nothing is left on the token")


def remove_leftovers(session: Session, run: str = "00000000") -> tuple[int, list[str]]:
    """Destroy the objects of checks on the token; return how many, and the return codes of those that stay.

    What another run has stored just now is left out.
    """
    removed, kept = 0, list[str]()
    for label in _LABELS:
        for each in _stored(session, label):
            if _is_of_another_run(each, run):
                continue
            try:
                each.destroy()
                removed += 1
            except PKCS11Error as exc:
                kept.append(ckr_name(exc))
    return removed, kept


def _stored(session: Session, label: str) -> list[Object]:
    notes = search(session, {Attribute.CLASS: ObjectClass.DATA, Attribute.APPLICATION: APPLICATION})
    named = [each for each in notes if (tell(each, _NAMES)[Attribute.LABEL] or "").startswith(f"{label} ")]
    return [*search(session, {Attribute.LABEL: label, Attribute.TOKEN: True}), *named]


def _mark(run: str) -> bytes:
    """Return the 16 bytes that mark what a run stores."""
    return _MARK + bytes.fromhex(run) + int(time.time()).to_bytes(8)


def _is_of_another_run(found: Object, run: str) -> bool:
    marks = [each for each in tell(found, _MARKED).values() if each is not None and each.startswith(_MARK)]
    return any(
        each[len(_MARK) : -8] != bytes.fromhex(run) and abs(time.time() - int.from_bytes(each[-8:])) < _OTHERS_SECONDS
        for each in marks
    )
