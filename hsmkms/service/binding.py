"""What ties a database to its token: a challenge that only the token's own installation key can answer.

Labels repeat and serials can be chosen, so neither proves anything. At ``init`` the token makes an HMAC key; the
database keeps a random challenge and the token's answer. A token that answers otherwise, or that has no such key, is
not the one of this database. One that answers under another serial than the recorded one is a clone: what is made on
the one is not on the other, so it is refused until the operator has accepted it. Members of an HA group share their
objects; the configuration lists their serials, and any of them is the token. A token that had no serial when it was
recorded is known by the challenge alone. The steps of ``init`` can be repeated after an interruption at any point.
"""

import hmac
import uuid
from typing import Final

from hsmkms.errors import BindingError, CloneError, ObjectLostError
from hsmkms.hsm.device import Device
from hsmkms.model.permit import OperatorAct
from hsmkms.service.core import Checkpoint, Clock, no_checkpoint
from hsmkms.service.permits import own_permit
from hsmkms.store import installation as stored
from hsmkms.store.engine import Connection, Store
from hsmkms.store.installation import MAC_PURPOSE, InstallationKeyRow, InstallationRow, TokenRow

FIRST_VERSION: Final = 1
CHALLENGE_BYTES: Final = 32
INTERRUPTED: Final = "`hsmkms init` was interrupted here: run it again with the same --data-dir"


def initialise(
    store: Store, device: Device, account: str, clock: Clock, reached: Checkpoint = no_checkpoint
) -> InstallationRow:
    """Bind an empty database to a token; repeatable, and without effect where it is bound already."""
    # 1. The installation and the name of its key, before the key exists.
    with store.atomic() as tx:
        row = stored.fetch(tx) or stored.insert(tx, uuid.uuid4().hex, account, clock())
        token = stored.home(tx) or next(iter(stored.tokens(tx)), None) or insert_token(tx, device, clock)
        versions = stored.versions(tx, MAC_PURPOSE, token.id)
        cka_id = versions[-1].cka_id if versions else uuid.uuid4().bytes
        if not versions:
            stored.insert_installation_key(tx, MAC_PURPOSE, FIRST_VERSION, token.id, cka_id, clock())
    reached("init 1: intent")
    if token.response is not None:
        return row

    # 2. The key on the token, unless an interrupted attempt has made it.
    if not device.holds(cka_id):
        label = f"hsmkms/{row.id[:8]}/{MAC_PURPOSE}/{FIRST_VERSION}"
        device.generate_mac_key(own_permit(OperatorAct.INITIALISE, cka_id), cka_id, label[: device.profile.label_bytes])
    reached("init 2: device")

    # 3. The challenge and its answer: from here on database and token belong together.
    bind(store, device, token.id, cka_id)
    reached("init 3: result")
    return row


def bind(store: Store, device: Device, token_id: str, cka_id: bytes) -> None:
    """Let the token be recognised by a version of its key, which is on it."""
    permit = own_permit(OperatorAct.INITIALISE, cka_id)
    challenge = device.random(permit, CHALLENGE_BYTES)
    response = device.mac(permit, cka_id, challenge)
    with store.atomic() as tx:
        stored.bind_token(tx, token_id, challenge, response)


def prove(store: Store, device: Device, *, accepting: bool = False) -> tuple[InstallationRow, TokenRow, bytes]:
    """Return the installation, its home's row and that one's key's CKA_ID; raises BindingError for a wrong pair.

    ``accepting``: a clone is taken, since the operator is about to accept it.
    """
    row, token = told(store)
    witness = recognise(store, device, row, token, accepting=accepting)
    if witness is None:
        raise _wrong_pair(device, token)
    return row, token, witness


def recognise(
    store: Store, device: Device, row: InstallationRow, token: TokenRow, *, accepting: bool = False
) -> bytes | None:
    """The CKA_ID of the key by which the device shows that it is that token, or None if it is another one.

    Raises CloneError if it holds that key under another serial, unless ``accepting``.
    """
    with store.reading() as conn:
        versions = stored.versions(conn, MAC_PURPOSE, token.id)
    if not versions or token.challenge is None:
        raise BindingError(INTERRUPTED)
    # The newest may be one whose rotation was interrupted: the one that answers as was noted is in use.
    witness = next((key.cka_id for key in reversed(versions) if _answers(device, row, token, key)), None)
    if witness is not None and not accepting and is_clone(device, token):
        raise _clone(device, token)
    return witness


def is_clone(device: Device, token: TokenRow) -> bool:
    """True if a device that has answered as that token has another serial than the recorded one.

    Members of one HA group are one token; where no serial was recorded, none can differ.
    """
    serial = device.profile.serial
    return token.serial not in ("", serial) and not {token.serial, serial} <= device.members


def _answers(device: Device, row: InstallationRow, token: TokenRow, key: InstallationKeyRow) -> bool:
    """True if it is that key of the installation's, not one that users can use, and answers as it did."""
    try:
        answer = device.mac(own_permit(OperatorAct.OPEN, key.cka_id), key.cka_id, token.challenge or b"")
        if not device.is_labelled(key.cka_id, key.label(row.id)):
            return False
    except ObjectLostError:
        return False
    return hmac.compare_digest(answer, token.response or b"")


def told(store: Store) -> tuple[InstallationRow, TokenRow]:
    """The installation and its home as the database tells of them, which proves nothing."""
    with store.reading() as conn:
        row = stored.fetch(conn)
        token = stored.home(conn)
    if row is None or token is None:
        raise BindingError(INTERRUPTED)
    return row, token


def is_bound(store: Store) -> bool:
    """True if ``initialise`` has been completed."""
    with store.reading() as conn:
        return stored.home(conn) is not None


def _wrong_pair(device: Device, token: TokenRow) -> BindingError:
    return BindingError(
        f"this database belongs to the token {token.label!r} (serial {token.serial} when it was made), but the token "
        f"{device.profile.label!r} (serial {device.profile.serial}) does not hold its key: "
        "correct [token] in the configuration, or restore the database that belongs to this token"
    )


def _clone(device: Device, token: TokenRow) -> CloneError:
    profile = device.profile
    return CloneError(
        f"the token {profile.label!r} (serial {profile.serial}) is a clone of this installation's token "
        f"{token.label!r} (serial {token.serial}): what is made on the one is not on the other. If it has taken the "
        "place of that one for good, accept it with `hsmkms accept-clone` (`hsmkms restore --accept-clone` while "
        "restoring); if both are members of an HA group that shares its objects, list all their serials in the "
        "configuration; otherwise correct [token] there"
    )


def insert_token(tx: Connection, device: Device, clock: Clock) -> TokenRow:
    """Write a token that is not bound yet, as it describes itself."""
    profile = device.profile
    return stored.insert_token(
        tx, str(uuid.uuid4()), profile.label, profile.serial, profile.manufacturer, profile.model, clock()
    )
