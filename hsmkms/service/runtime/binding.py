"""Bind a database to its token by a challenge that only the token's installation key can answer.

Labels repeat and serials can be chosen, so neither proves anything. At ``init`` the token makes an HMAC key; the
database stores a random challenge and the token's response. A token with another response, or without that key, does
not belong to this database. One that responds rightly under another serial is a clone: a key created on the one is not
on the other, so it is refused until the operator has accepted it. Members of an HA group share their
objects; the configuration lists their serials, and any of them is the token. A token that had no serial when it was
recorded is recognised by the challenge alone. The steps of ``init`` can be repeated after an interruption at any point.
"""

import hmac
import uuid
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from hsmkms.errors import BindingError, CloneError, HiddenObjectsError, HsmKmsError, ObjectLostError, WrongTokenError
from hsmkms.hsm.ports import Device
from hsmkms.hsm.session.identity import Candidate, Proof
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.service.runtime.permits import own_permit
from hsmkms.service.runtime.ports import Checkpoint, Clock, no_checkpoint
from hsmkms.store import installation as stored
from hsmkms.store.engine import Connection, Store
from hsmkms.store.installation import InstallationKeyRow, InstallationRow, TokenRow

FIRST_VERSION: Final = 1
CHALLENGE_BYTES: Final = 32
BEFORE_ROTATION: Final = "from before the rotation"
"""Part of the message about an older copy: it lacks the key of the present challenge, which also seals the rows."""
INTERRUPTED: Final = "`hsmkms init` was interrupted here: run it again with the same --data-dir"


def initialise(
    store: Store, device: Device, account: str, clock: Clock, reached: Checkpoint = no_checkpoint
) -> InstallationRow:
    """Bind an empty database to a token; repeatable, and without effect if it is bound already."""
    # 1. The installation and the name of its key, before the key exists.
    with store.atomic() as tx:
        row = stored.fetch(tx) or stored.insert(tx, uuid.uuid4().hex, account, clock())
        token = stored.home(tx) or next(iter(stored.tokens(tx)), None) or insert_token(tx, device, clock)
        _check_begun(row, token, account, device)
        versions = stored.versions(tx, KeyPurpose.MAC, token.id)
        cka_id = versions[-1].cka_id if versions else uuid.uuid4().bytes
        if not versions:
            stored.insert_installation_key(tx, KeyPurpose.MAC, FIRST_VERSION, token.id, cka_id, clock())
    reached("init 1: intent")
    if token.response is not None:
        return row

    # 2. The key on the token, unless an interrupted attempt has made it.
    if not device.keys.holds(cka_id):
        label = f"hsmkms/{row.id[:8]}/{KeyPurpose.MAC}/{FIRST_VERSION}"
        device.own.generate_mac_key(
            own_permit(OperatorAct.INITIALISE, cka_id), cka_id, label[: device.profile.label_bytes]
        )
    reached("init 2: device")

    # 3. The challenge and its answer: from here on database and token belong together.
    bind(store, device, token.id, cka_id, clock())
    reached("init 3: result")
    return row


def _check_begun(row: InstallationRow, token: TokenRow, account: str, device: Device) -> None:
    """Raise BindingError if an interrupted attempt was begun with another account or token."""
    compared = {account: row.account, device.profile.serial: token.serial} if token.response is None else {}
    for now, begun in compared.items():
        if now != begun:
            raise BindingError(
                f"`hsmkms init` was interrupted here after it had begun with {begun}, and the configuration says {now} "
                "now: correct it, or choose another --data-dir"
            )


def begun_with(store: Store) -> tuple[str | None, str | None]:
    """Return the account and the token's serial with which an interrupted ``init`` was begun; None if unknown."""
    with store.reading() as conn:
        row = stored.fetch(conn)
        token = next(iter(stored.tokens(conn)), None)
    return row.account if row is not None else None, token.serial if token is not None else None


def bind(store: Store, device: Device, token_id: str, cka_id: bytes, now: datetime) -> None:
    """Recognise the token by this version of its key from now on; the key is on it.

    The previous version's challenge and response are stored with that version: an older copy is recognised by them.
    """
    permit = own_permit(OperatorAct.INITIALISE, cka_id)
    challenge = device.ciphers.random(permit, CHALLENGE_BYTES)
    response = device.own.mac(permit, cka_id, challenge)
    with store.reading() as conn:
        row, token, known = (
            stored.fetch(conn),
            stored.token(conn, token_id),
            stored.versions(conn, KeyPurpose.MAC, token_id),
        )
    answered = [] if row is None or token is None else [each for each in known if _answers(device, row, token, each)]
    with store.atomic() as tx:
        stored.bind_token(tx, token_id, challenge, response)
        for each in answered:
            if token is not None and token.challenge is not None and token.response is not None:
                stored.note_answer(tx, each, token.challenge, token.response)
        for each in known:
            if each.cka_id == cka_id:
                stored.note_answer(tx, each, challenge, response)
                stored.note_made(tx, each, now)


def prove(store: Store, device: Device, *, accepting: bool = False) -> tuple[InstallationRow, TokenRow, bytes]:
    """Return the rows of installation and home token, and the CKA_ID of its key; BindingError for another token.

    WrongTokenError if it has label and serial of the home token, but not its key. ``accepting``: a clone is no error,
    since the operator is about to accept it.
    """
    row, token = expected(store)
    witness = recognise(store, device, row, token, accepting=accepting)
    if witness is None:
        raise _wrong_pair(store, device, token)
    return row, token, witness


class TokenIdentity:
    """The identity of one token of an installation: the challenge in its row, and its serial.

    The expected response is read again each time, since another process may have rotated the installation's own key.
    ``accepting``: a clone is no error, since the operator is about to accept it.
    """

    def __init__(self, store: Store, token_id: str, *, accepting: bool = False) -> None:
        self._store = store
        self._token_id = token_id
        self._accepting = accepting
        self._serials: frozenset[str] = frozenset()

    def admit(self, serial: str) -> None:
        """Raise WrongTokenError for a serial other than those under which the token has proven its identity."""
        if self._serials and serial not in self._serials:
            raise WrongTokenError(
                f"the token with serial {serial} answers in the place of the one with serial "
                f"{', '.join(sorted(self._serials))}, so it is not sent the PIN: put the right one back, or restart "
                "hsmkms if it is meant to be the same"
            )

    def prove(self, candidate: Candidate) -> Proof:
        """Challenge a token; WrongTokenError if its response is not the recorded one, or if it is a clone."""
        with self._store.reading() as conn:
            row, token = stored.fetch(conn), stored.token(conn, self._token_id)
        if row is None or token is None:
            raise BindingError(INTERRUPTED)
        try:
            proof = _proof(self._store, candidate, row, token, accepting=self._accepting)
        except CloneError as exc:
            raise WrongTokenError(str(exc)) from exc
        if proof is None:
            raise wrong_token(candidate, token)
        self._serials |= candidate.members | {candidate.profile.serial}
        return proof


def recognise(
    store: Store, device: Device | Candidate, row: InstallationRow, token: TokenRow, *, accepting: bool = False
) -> bytes | None:
    """Return the CKA_ID of the key by which the device proves to be that token; None if it is another token.

    An older copy of the token, without the newest version, is recognised by an older version. Raises CloneError if it
    has that key under another serial, unless ``accepting``.
    """
    proof = _proof(store, device, row, token, accepting=accepting)
    return proof.cka_id if proof is not None else None


def _proof(
    store: Store, device: Device | Candidate, row: InstallationRow, token: TokenRow, *, accepting: bool
) -> Proof | None:
    with store.reading() as conn:
        versions = stored.versions(conn, KeyPurpose.MAC, token.id)
    if not versions or token.challenge is None:
        raise BindingError(INTERRUPTED)
    # The newest may be one whose rotation was interrupted: the one that answers as was noted is in use.
    asked = [(key, token) for key in reversed(versions)]
    asked += [
        (key, replace(token, challenge=key.challenge, response=key.response))
        for key in _older_than_lost(device, row, token, versions)
    ]
    found = next(((key, as_bound) for key, as_bound in asked if _answers(device, row, as_bound, key)), None)
    if found is None:
        return None
    if not accepting and is_clone(device, token):
        raise _clone(device, token)
    key, as_bound = found
    return Proof(key.cka_id, as_bound.challenge or b"", as_bound.response or b"")


def _older_than_lost(
    device: Device | Candidate, row: InstallationRow, token: TokenRow, versions: list[InstallationKeyRow]
) -> list[InstallationKeyRow]:
    """Return the older versions that may recognise a copy, newest first; none if the version in use is on the token."""
    bound = _bound(token, versions)
    if bound is None:
        return []
    try:
        device.keys.is_labelled(bound.cka_id, bound.label(row.id))
    except ObjectLostError:
        return [each for each in reversed(versions) if each.version < bound.version and each.response is not None]
    return []


def _bound(token: TokenRow, versions: list[InstallationKeyRow]) -> InstallationKeyRow | None:
    """Return the version by which the token is recognised, or None if no version has that challenge stored."""
    answer = (token.challenge, token.response)
    return next((each for each in versions if None not in answer and answer == (each.challenge, each.response)), None)


def from_before_rotation(
    store: Store, device: Device, token_id: str, shown: frozenset[bytes] = frozenset()
) -> str | None:
    """Return a message if a recognised token lacks the key of its present challenge: it is an older copy of itself.

    ``shown``: CKA_IDs of keys that the token has just shown to hold, which are not searched for again.
    """
    with store.reading() as conn:
        token, known = stored.token(conn, token_id), stored.versions(conn, KeyPurpose.MAC, token_id)
    bound = _bound(token, known) if token is not None else None
    if bound is None or bound.cka_id in shown or device.keys.holds(bound.cka_id):
        return None
    return (
        f"the token {device.profile.label!r} is an older copy of itself, {BEFORE_ROTATION} of the installation's MAC "
        f"key: it lacks version {bound.version}. What was made since then is not on it: put the newer token, or a "
        "newer backup of it, back. If there is none, `hsmkms renew-installation-keys` takes the token as it is, and "
        "tells first what is lost; where there is no database, restore a backup from before that rotation"
    )


def is_clone(device: Device | Candidate, token: TokenRow) -> bool:
    """Return True if a device that has proven to be that token has a serial other than the recorded one.

    Members of one HA group count as one token; without a recorded serial there is nothing to compare.
    """
    serial = device.profile.serial
    return token.serial not in ("", serial) and not {token.serial, serial} <= device.connection.members


def _answers(device: Device | Candidate, row: InstallationRow, token: TokenRow, key: InstallationKeyRow) -> bool:
    """Return True if it is that installation key (by label, since users can make HMACs) and responds as recorded."""
    try:
        answer = device.own.mac(own_permit(OperatorAct.OPEN, key.cka_id), key.cka_id, token.challenge or b"")
        if not device.keys.is_labelled(key.cka_id, key.label(row.id)):
            return False
    except ObjectLostError:
        return False
    return hmac.compare_digest(answer, token.response or b"")


def expected(store: Store) -> tuple[InstallationRow, TokenRow]:
    """Return the rows of the installation and its home, which prove nothing about the token."""
    with store.reading() as conn:
        row = stored.fetch(conn)
        token = stored.home(conn)
    if row is None or token is None:
        raise BindingError(INTERRUPTED)
    return row, token


def is_bound(store: Store) -> bool:
    """Return True if ``initialise`` has been completed."""
    with store.reading() as conn:
        return stored.home(conn) is not None


def wrong_token(device: Device | Candidate, token: TokenRow) -> WrongTokenError:
    """Return the error for a token in the place of an installation's token that does not show its key.

    Under the recorded serial it is most likely the right one, whose objects are not visible.
    """
    if device.profile.serial == token.serial:
        return HiddenObjectsError(
            f"the objects of the token {token.label!r} (serial {token.serial}) cannot be seen: it does not show the "
            "installation's own key. Make them visible again (a folder or partition that is not mounted?), or put the "
            "right token back if this one was initialised again under the same serial"
        )
    return WrongTokenError(
        f"another token answers in the place of {token.label!r} (serial {token.serial} when it was added): "
        f"the one with serial {device.profile.serial} does not show the installation's own key. Put the right one back"
    )


def lacks_key(store: Store, device: Device, token: TokenRow) -> bool:
    """Return True if a device has label and serial of a token, but not its key, which may appear again by itself."""
    if (device.profile.label, device.profile.serial) != (token.label, token.serial):
        return False
    with store.reading() as conn:
        versions = stored.versions(conn, KeyPurpose.MAC, token.id)
    return not any(device.keys.holds(each.cka_id) for each in versions)


def _holds_older(store: Store, device: Device, token: TokenRow) -> bool:
    with store.reading() as conn:
        *older, newest = stored.versions(conn, KeyPurpose.MAC, token.id)
    return not device.keys.holds(newest.cka_id) and any(device.keys.holds(each.cka_id) for each in older)


def _wrong_pair(store: Store, device: Device, token: TokenRow) -> HsmKmsError:
    if lacks_key(store, device, token):
        return wrong_token(device, token)
    if _holds_older(store, device, token):
        return BindingError(
            f"the token {device.profile.label!r} (serial {device.profile.serial}) is an older copy of this "
            "installation's token, from before a rotation of the MAC key by an older version of hsmkms, and opens the "
            "installation no more: put the newer token, or a newer backup of it, back, or restore a backup of the "
            "installation from before that rotation"
        )
    return BindingError(
        f"this database belongs to the token {token.label!r} (serial {token.serial} when it was made), but the token "
        f"{device.profile.label!r} (serial {device.profile.serial}) does not hold its key: "
        "correct [token] in the configuration, or restore the database that belongs to this token"
    )


def _clone(device: Device | Candidate, token: TokenRow) -> CloneError:
    profile = device.profile
    members = device.connection.members
    if len(members) > 1:
        return CloneError(
            f"the HA group of the configuration ({', '.join(sorted(members))}) lacks the recorded serial of the token "
            f"{token.label!r}, {token.serial}, so its members count as clones: add that serial to the list, even "
            "while that member is away; or, if it is gone for good, stop the servers and accept a member in its place "
            f"with `hsmkms accept-clone --token {profile.serial}`"
        )
    return CloneError(
        f"the token {profile.label!r} (serial {profile.serial}) is a clone of this installation's token "
        f"{token.label!r} (serial {token.serial}): what is made on the one is not on the other. If it has taken the "
        "place of that one for good, accept it with `hsmkms accept-clone` (`hsmkms restore --accept-clone` while "
        "restoring); if both are members of an HA group that shares its objects, list all their serials in the "
        "configuration; otherwise correct [token] there"
    )


def insert_token(tx: Connection, device: Device, clock: Clock) -> TokenRow:
    """Insert the row of a token that is not bound yet, with the names that it reports."""
    profile = device.profile
    return stored.insert_token(
        tx, str(uuid.uuid4()), profile.label, profile.serial, profile.manufacturer, profile.model, clock()
    )
