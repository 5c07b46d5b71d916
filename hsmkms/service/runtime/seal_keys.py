"""Derive the keys of the row seals on the tokens: one for each version of the installation's own key."""

from collections.abc import Iterator

from hsmkms.errors import HsmKmsError, ObjectLostError, TokenUnavailableError
from hsmkms.hsm.ports import Device
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.rules import row_seals as rules
from hsmkms.service.runtime.permits import own_permit
from hsmkms.service.runtime.ports import Installation
from hsmkms.service.runtime.tokens import Tokens
from hsmkms.store import installation as stored
from hsmkms.store.engine import Connection


def keys_from(tokens: Tokens, installation: Installation, conn: Connection, label: bytes) -> Iterator[bytes]:
    """Yield the keys that rows may be sealed with, one for each version of the installation's own key, newest first.

    A row that names a user's key is ignored, since users can make its HMACs. After the keys that are present:
    ObjectLostError if there was none, TokenUnavailableError if there may be another one on a token that is away.
    """
    none = True
    lost: HsmKmsError = ObjectLostError("the token does not hold the installation's own key")
    away: TokenUnavailableError | None = None
    for each in reversed(stored.versions(conn, KeyPurpose.MAC)):
        try:
            device = tokens.of(each.token_id)
            if device.keys.is_labelled(each.cka_id, each.label(installation.id)):
                key = key_from(device, installation, each.cka_id, label)
                none = False
                yield key
        except ObjectLostError as exc:
            lost = exc
        except TokenUnavailableError as exc:
            away = exc
    if none or away is not None:
        raise away or lost


def key_from(device: Device, installation: Installation, own: bytes, label: bytes = rules.KEY_LABEL) -> bytes:
    """Derive the key of the seals: the HMAC of a label under a version of the installation's own key."""
    return device.own.mac(own_permit(OperatorAct.SEAL, own), own, label + installation.id.encode())
