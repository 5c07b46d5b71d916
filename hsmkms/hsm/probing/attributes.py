"""Try what a token makes of the attributes that hsmkms orders, and what C_CopyObject makes of a key.

Some tokens do not know CKA_COPYABLE: NSS accepts it of session objects, refuses it of token objects, and copies both.
So what a copy can become is tried with a session key. Nothing is left behind.
"""

from collections.abc import Mapping
from typing import Any, Final

from pkcs11.constants import Attribute
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Object, Session

from hsmkms.hsm.faults import is_loss, translated
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY, HARDENED
from hsmkms.hsm.objects.copies import copies_of
from hsmkms.hsm.objects.objects import discard, tell
from hsmkms.hsm.objects.support import AttributeSupport, Copying

_PROBE_ID: Final = b"hsmkms probe 005"
_PROBE_LABEL: Final = "hsmkms probe (a session object)"


def try_attributes(session: Session) -> AttributeSupport:
    """Order a session key like a backing key, read what may deviate, and try to copy it."""
    with translated():
        made = _ordered(session)
        orders_copyable = made is not None
        if made is None:  # CKA_COPYABLE is the only attribute here that PKCS #11 2.20 does not have
            made = _generate(session, {each: HARDENED[each] for each in HARDENED if each is not Attribute.COPYABLE})
    try:
        reported = tell(made, (Attribute.COPYABLE, Attribute.LOCAL))
        with translated():
            copies = copies_of(made)
    finally:
        discard(made)
    copyable, local = reported[Attribute.COPYABLE], reported[Attribute.LOCAL]
    without_effect = copyable is False and copies is not Copying.REFUSED
    return AttributeSupport(
        orders_copyable=orders_copyable and not without_effect,
        copyable=(None, True) if without_effect else () if copyable is False else (copyable,),
        copies=copies,
        local=() if local is True else (local,),
    )


def _ordered(session: Session) -> Object | None:
    """Generate a key with all attributes; None if the token refuses that twice, as once may be trouble of the device.

    What a moment's trouble leaves out here would be left out of every key until the next start.
    """
    for _ in range(2):
        try:
            return _generate(session, HARDENED)
        except PKCS11Error as exc:
            if is_loss(exc):
                raise
    return None


def _generate(session: Session, template: Mapping[Attribute, Any]) -> Object:
    backing_key = AES_256_BACKING_KEY
    made: Object = session.generate_key(
        backing_key.key_type,
        backing_key.bits,
        id=_PROBE_ID,
        label=_PROBE_LABEL,
        store=False,
        capabilities=backing_key.capabilities,
        mechanism=backing_key.mechanism,
        template=dict(template),
    )
    return made
