"""Generate, find, read back, list and destroy objects on the token."""

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple

from msgspec import Struct
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import ObjectLostError, SessionLostError, TokenError, TokenUnavailableError, TokenUnfitError
from hsmkms.hsm.calls.attributes import read_several
from hsmkms.hsm.calls.search import find_objects
from hsmkms.hsm.faults import AWAY, SESSION_LOST, translated
from hsmkms.hsm.objects.attributes import HARDENED, MAPPER, SecretTemplate, packed
from hsmkms.hsm.objects.handle_keys import HandleObject, generate_key
from hsmkms.hsm.objects.support import MAY_BE_SILENT, STANDARD, AttributeSupport, Observer, Tolerated, unobserved

_UNAVAILABLE: Final = 2 ** (8 * struct.calcsize("L")) - 1
"""CK_UNAVAILABLE_INFORMATION: the value of a number that the token does not have."""


class _Words(NamedTuple):
    prefix: str
    words: type[IntEnum]


_NAMES: Final = {
    Attribute.CLASS: _Words("O", ObjectClass),
    Attribute.KEY_TYPE: _Words("K", KeyType),
    Attribute.KEY_GEN_MECHANISM: _Words("M", Mechanism),
}

ANOTHER_OBJECT: Final = (
    "the object under the handle of a new key has another CKA_ID, so it was left as it is: the token was replaced "
    "meanwhile, or does not keep CKA_ID (`hsmkms token-check`). `hsmkms reconcile` shows what is left"
)
_SECRETS: Final = (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY)
_KEY_CLASSES: Final = (*_SECRETS, ObjectClass.PUBLIC_KEY)


class TokenObject(Struct, frozen=True, kw_only=True):
    """A key object as the token lists it, including foreign ones. ``handle`` is valid in this process only.

    ``is_part``: it belongs to a key of several objects that another one stands for, or that is not complete.
    """

    object_class: ObjectClass
    cka_id: bytes
    label: str
    handle: int
    is_part: bool = False

    @property
    def is_key(self) -> bool:
        """True for a secret key or the private half of a pair: each CKA_ID has one such object."""
        return self.object_class in _SECRETS and not self.is_part

    @property
    def is_secret_key(self) -> bool:
        """True for a secret key object."""
        return self.object_class is ObjectClass.SECRET_KEY


def search(session: Session, wanted: Mapping[Attribute, Any]) -> list[HandleObject]:
    """Return all objects that have these attributes. PKCS11Error is not translated."""
    return [HandleObject(session, handle) for handle in find_objects(session, packed(wanted))]


def find(session: Session, object_class: ObjectClass | None, cka_id: bytes) -> Object | None:
    """Return the one token object of that CKA_ID and class, or None. Without a class: secret key or private half.

    Two such objects with one CKA_ID are a TokenError: nothing shows which of them holds the key. An object whose class
    cannot be read at the moment does not count as absent: SessionLostError, so that the search is retried.
    """
    wanted: dict[Attribute, Any] = {Attribute.ID: cka_id, Attribute.TOKEN: True}
    if object_class is not None:
        wanted[Attribute.CLASS] = object_class
    with translated():
        found = search(session, wanted)
        if object_class is None:
            classes = [tell(each, (Attribute.CLASS,))[Attribute.CLASS] for each in found]
            if None in classes:
                raise SessionLostError(SESSION_LOST)
            found = [each for each, its_class in zip(found, classes, strict=True) if its_class in _SECRETS]
    if len(found) > 1:
        raise TokenError(
            f"the token holds {len(found)} objects with CKA_ID {cka_id.hex()}: remove the one that is not its"
        )
    return found[0] if found else None


def is_at(session: Session, handle: int | None, cka_id: bytes) -> bool:
    """Return True if the handle is that of a private key object with this CKA_ID, which only a valid login shows.

    One call instead of the five of a search. False proves nothing.
    """
    if handle is None:
        return False
    reported = tell(HandleObject(session, handle), (Attribute.ID, Attribute.CLASS, Attribute.PRIVATE))
    return (
        reported[Attribute.ID] == cka_id
        and reported[Attribute.CLASS] in _SECRETS
        and reported[Attribute.PRIVATE] is True
    )


def handle_of(found: Object) -> int:
    """Return the object's handle, which is valid in every session of this process as long as the object exists."""
    handle = found.handle
    if handle is None:
        raise TokenError("the token returned an object without a handle")
    return handle


def required(found: Object | None, sentence: str) -> Object:
    """Return the object that was searched for, or raise ObjectLostError with the sentence if there is none."""
    if found is None:
        raise ObjectLostError(sentence)
    return found


def list_keys(session: Session) -> Iterator[TokenObject]:
    """List all readable key objects on the token; unreadable ones are left out."""
    for object_class in _KEY_CLASSES:
        with translated():
            found = search(session, {Attribute.CLASS: object_class, Attribute.TOKEN: True})
        for key in found:
            attributes = tell(key, (Attribute.ID, Attribute.LABEL))
            if attributes[Attribute.ID]:
                yield TokenObject(
                    object_class=object_class,
                    cka_id=attributes[Attribute.ID],
                    label=attributes[Attribute.LABEL] or "",
                    handle=handle_of(key),
                )


def generate(
    session: Session,
    template: SecretTemplate,
    cka_id: bytes,
    label: str,
    support: AttributeSupport = STANDARD,
    *,
    store: bool = True,
) -> Object:
    """Generate a secret key on the token, read its attributes back and compare; an object that differs is destroyed.

    Raises TokenUnfitError naming the attributes that the token ignored, but for what ``support`` tolerates.
    """
    made = make_secret(session, template, cka_id, label, support, store=store)
    return read_back_secret(made, template, cka_id, label, support, store=store)


def make_secret(
    session: Session,
    template: SecretTemplate,
    cka_id: bytes,
    label: str,
    support: AttributeSupport = STANDARD,
    *,
    store: bool = True,
) -> Object:
    """Call C_GenerateKey, the first half of ``generate``: nothing is known yet of what the token made of the order."""
    with translated():
        return generate_key(
            session,
            template.bits,
            mechanism=template.mechanism,
            cka_id=cka_id,
            label=label,
            store=store,
            capabilities=template.capabilities,
            template=support.ordered(HARDENED),
        )


def read_back_secret(
    made: Object,
    template: SecretTemplate,
    cka_id: bytes,
    label: str,
    support: AttributeSupport = STANDARD,
    *,
    store: bool = True,
) -> Object:
    """Compare a key that ``make_secret`` made with its order, the second half of ``generate``."""
    expected = template.expected(cka_id, label) | {Attribute.TOKEN: store}
    require_as_ordered(made, differences(made, expected, support.generated))
    return made


def require_there(made: Object, cka_id: bytes) -> Object:
    """Raise TokenUnavailableError if an object that was read back before is not on the token any more.

    TokenError if its handle is that of an object with another CKA_ID, as on a token that was swapped.
    """
    reported = tell(made, (Attribute.CLASS, Attribute.ID))
    if reported[Attribute.CLASS] is None:
        raise TokenUnavailableError(AWAY)
    if reported[Attribute.ID] not in (None, cka_id):
        raise TokenError(ANOTHER_OBJECT)
    return made


def require_as_ordered(made: Object, wrong: list[str]) -> None:
    """Destroy the object and raise TokenUnfitError if ``wrong`` lists differences from the template."""
    if wrong:
        _destroy_unfit(made, wrong)
        raise TokenUnfitError(f"the token made a key that is not as ordered ({'; '.join(wrong)}), so it was destroyed")


def _destroy_unfit(made: Object, wrong: list[str]) -> None:
    try:
        made.destroy()
    except PKCS11Error as exc:
        # Not the class of the original error, which may claim that nothing was created.
        raise TokenError(
            f"the token made a key that is not as ordered ({'; '.join(wrong)}) and keeps it: remove it by hand"
        ) from exc


def differences(
    made: Object,
    expected: dict[Attribute, Any],
    tolerated: Tolerated = MAY_BE_SILENT,
    observe: Observer = unobserved,
) -> list[str]:
    """Compare the reported attributes with ``expected``; return one phrase for each difference.

    ``observe`` is called for each difference that is tolerated, if there are no others. TokenUnavailableError if the
    object, or the whole token, disappeared before it was read back; TokenError if the handle is that of an object with
    another CKA_ID, as on a token that was swapped: it must not be destroyed as unfit.
    """
    reported = tell(made, tuple(expected))
    wrong = [
        difference(attribute, reported[attribute], wanted)
        for attribute, wanted in expected.items()
        if reported[attribute] != wanted and reported[attribute] not in tolerated.get(attribute, ())
    ]
    if wrong and tell(made, (Attribute.CLASS,))[Attribute.CLASS] is None:
        raise TokenUnavailableError(AWAY)
    if Attribute.ID in expected and reported[Attribute.ID] not in (None, expected[Attribute.ID]):
        raise TokenError(ANOTHER_OBJECT)
    for attribute, wanted in expected.items() if not wrong else ():
        if reported[attribute] != wanted:
            observe(attribute, difference(attribute, reported[attribute], wanted))
    return wrong


def difference(attribute: Attribute, reported: object, wanted: object) -> str:
    """Describe one attribute that is not as ordered."""
    return f"CKA_{attribute.name} is {reported!r} instead of {wanted!r}"


def attest(
    found: Object, expected: Mapping[Attribute, Any], tolerated: Tolerated = MAY_BE_SILENT
) -> tuple[dict[str, Any], list[str]]:
    """Return the attributes as the token reports them now (None where it does not), and their ``differences``.

    CKA_ID and CKA_LABEL are reported but not compared.
    """
    names = (*expected, Attribute.DESTROYABLE, Attribute.KEY_GEN_MECHANISM)
    reported = {f"CKA_{name.name}": _readable(name, value) for name, value in tell(found, names).items()}
    decisive: dict[Attribute, Any] = {
        name: value for name, value in expected.items() if name not in (Attribute.ID, Attribute.LABEL)
    }
    return reported, differences(found, decisive, tolerated)


def quirks_of(attributes: Mapping[str, Any], expected: Mapping[Attribute, Any], tolerated: Tolerated) -> list[str]:
    """Describe what ``attest`` reported otherwise than ordered and tolerated, but for silence that any token may keep.

    ``attributes``: by name, as ``attest`` returns them.
    """
    return [
        difference(attribute, attributes[name], wanted)
        for attribute, wanted in expected.items()
        if attribute not in MAY_BE_SILENT
        and (name := f"CKA_{attribute.name}") in attributes
        and attributes[name] != wanted
        and attributes[name] in tolerated.get(attribute, ())
    ]


def _readable(name: Attribute, value: Any) -> Any:  # noqa: ANN401 - attributes have many types
    """Format for people: numbers of classes, key types and mechanisms by name, bytes in hex."""
    if isinstance(value, bytes):
        return value.hex()
    kind = _NAMES.get(name)
    if kind is None or value is None:
        return value
    if value == _UNAVAILABLE:
        return None
    try:
        return f"CK{kind.prefix}_{kind.words(value).name}"
    except ValueError:
        return f"0x{value:08x}"


def tell(found: Object, names: tuple[Attribute, ...]) -> dict[Attribute, Any]:
    """Read attributes, all with one call where the token can; None for one that it refuses or does not report."""
    read = read_several(found.session, handle_of(found), names)
    return {name: _unpacked(name, read[name]) for name in names}


def _unpacked(name: Attribute, value: bytes | None) -> Any:  # noqa: ANN401 - attributes have many types
    try:
        return None if value is None else MAPPER.unpack_attributes(name, value)
    except (ValueError, struct.error):
        return None


def discard(made: Object) -> None:
    """Destroy a session object; SessionLostError if that fails, so that closing the session destroys the object."""
    try:
        made.destroy()
    except PKCS11Error as exc:
        raise SessionLostError(SESSION_LOST) from exc
