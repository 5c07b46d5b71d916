"""Try what C_CopyObject makes of a session key that was ordered not to be copied.

PKCS #11 allows a copy to be stricter than its original, never more readable (3.1, section 5.7.2), but not every module
obeys: NSS makes extractable copies of keys that are not.
"""

from collections.abc import Mapping
from typing import Any, Final

from pkcs11.constants import Attribute
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Object

from hsmkms.hsm.faults import is_loss
from hsmkms.hsm.objects.objects import discard, tell
from hsmkms.hsm.objects.support import Copying

_LOOSENED: Final[tuple[tuple[Copying, Mapping[Attribute, Any]], ...]] = (
    (Copying.READABLE, {Attribute.EXTRACTABLE: True}),
    (Copying.READABLE, {Attribute.SENSITIVE: False}),
    (Copying.OTHER_USAGES, {Attribute.WRAP: True}),
    (Copying.OTHER_USAGES, {Attribute.SIGN: True}),
    (Copying.OTHER_USAGES, {Attribute.DERIVE: True}),
)
"""What no copy of a backing key should become, the worst first."""


def copies_of(made: Object) -> Copying:
    """Try the harmless copy first, as a token that refuses it refuses all; leave nothing behind.

    Raises the PKCS11Error of a lost session.
    """
    if not _copied(made, {}):
        return Copying.REFUSED
    return next((copies for copies, changes in _LOOSENED if _copied(made, changes)), Copying.SAME)


def _copied(made: Object, changes: Mapping[Attribute, Any]) -> bool:
    """Return whether the token makes a session copy that has these changes, or does not say that it has not.

    Raises the PKCS11Error of a loss.
    """
    try:
        copy = made.copy(dict(changes))  # a session object, like its original
    except PKCS11Error as exc:
        if is_loss(exc):
            raise
        return False
    reported = tell(copy, tuple(changes))
    discard(copy)
    return all(reported[attribute] in (value, None) for attribute, value in changes.items())
