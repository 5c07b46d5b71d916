"""Checks of objects that are stored on the token, and their removal, also after a run that crashed."""

import os
from typing import Final

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.hsm.checks.bench import CHECK_LABEL, Bench, Finding
from hsmkms.hsm.ckr_names import ckr_name
from hsmkms.hsm.objects.attributes import INSTALLATION_MAC_KEY
from hsmkms.hsm.objects.data_objects import keep_note, remove_notes
from hsmkms.hsm.objects.handle_keys import BorrowedKey
from hsmkms.hsm.objects.objects import find, generate, handle_of
from hsmkms.model.token_check import Outcome

_LABELS: Final = (CHECK_LABEL, "hsmkms probe (a session object)")
"""Labels of what checks and probes make: a token may store what was ordered for a session only."""


def stored_key(bench: Bench) -> Finding:
    """Store a key on the token, use it in another session, destroy it, and search for it again."""
    cka_id = os.urandom(16)
    made = generate(bench.session, INSTALLATION_MAC_KEY, cka_id, CHECK_LABEL, bench.support)
    try:
        with bench.another_session() as other:
            found = find(other, ObjectClass.SECRET_KEY, cka_id)
            if found is None:
                return Finding(Outcome.FAILED, "another session with the same login does not find it by its CKA_ID")
            key = BorrowedKey(other, handle_of(found), KeyType.GENERIC_SECRET)
            key.sign(b"message", mechanism=Mechanism.SHA256_HMAC)
    finally:
        made.destroy()
    if find(bench.session, ObjectClass.SECRET_KEY, cka_id) is not None:
        return Finding(Outcome.FAILED, "it is still found after C_DestroyObject")
    return Finding(Outcome.WORKS, "stored, found by its CKA_ID and used in another session, destroyed")


def data_objects(bench: Bench) -> Finding:
    """Store a data object, read it back and destroy it."""
    keep_note(bench.session, CHECK_LABEL, CHECK_LABEL, b"token-check")
    remove_notes(bench.session, CHECK_LABEL)
    return Finding(Outcome.WORKS, "stored, read back, destroyed")


def clean_up(bench: Bench) -> Finding:
    """Remove what checks have left on the token."""
    removed, kept = remove_leftovers(bench.session)
    if kept:
        return Finding(
            Outcome.LIMITED,
            f"{len(kept)} objects of this program stay on the token ({', '.join(sorted(set(kept)))})",
            f"remove the objects labelled {CHECK_LABEL!r} with the token's own tool",
            kept[0],
        )
    return Finding(Outcome.WORKS, f"{removed} objects removed" if removed else "nothing is left on the token")


def remove_leftovers(session: Session) -> tuple[int, list[str]]:
    """Destroy the objects of checks on the token; return how many, and the return codes of those that stay."""
    removed, kept = 0, list[str]()
    for label in _LABELS:
        for each in _stored(session, label):
            try:
                each.destroy()
                removed += 1
            except PKCS11Error as exc:
                kept.append(ckr_name(exc))
    return removed, kept


def _stored(session: Session, label: str) -> list[Object]:
    return list(session.get_objects({Attribute.LABEL: label, Attribute.TOKEN: True}))
