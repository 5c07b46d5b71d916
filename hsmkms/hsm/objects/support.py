"""What a token makes of the attributes that hsmkms orders: the two strengths of the read-back.

What must hold is never negotiable: a key is sensitive, not extractable, has exactly the ordered usages, and if it was
generated, always was sensitive and never extractable. What may deviate, because tokens do not know the attribute or
report it otherwise, is tolerated only as far as the trial at start (probing/attributes.py) has shown it of this token,
and is reported as a quirk: CKA_COPYABLE, CKA_LOCAL, CKA_PRIVATE of public halves, and silence about the past of
unwrapped keys.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace
from pkcs11.constants import Attribute

Tolerated = Mapping[Attribute, tuple[object, ...]]
"""Values that a token may report, besides the ordered one, without being refused; None: it reports nothing."""

MAY_BE_SILENT: Final[Tolerated] = {Attribute.VALUE_LEN: (None,), Attribute.SIGN_RECOVER: (None,)}
"""Attributes that any token may leave unreported."""

_SILENT_ABOUT_THE_PAST: Final[Tolerated] = {
    Attribute.LOCAL: (None,),
    Attribute.ALWAYS_SENSITIVE: (None,),
    Attribute.NEVER_EXTRACTABLE: (None,),
}


Observer = Callable[[Attribute, str], None]
"""Takes an attribute that deviates and is tolerated, and the phrase that describes the deviation."""


def unobserved(_attribute: Attribute, _phrase: str) -> None:
    """Note nothing."""


class Copying(StrEnum):
    """What C_CopyObject makes, on this token, of a key that was ordered not to be copyable."""

    REFUSED = "it makes none"
    SAME = "copies that can do no more than the key"
    OTHER_USAGES = "copies with usages that the key does not have: whoever has the PIN can have a key do other things"
    READABLE = "copies that are extractable or not sensitive: whoever has the PIN can take keys out of this token"


class AttributeSupport(Struct, frozen=True, kw_only=True):
    """Deviations of this token. The defaults are those of a token that does all that the standard says.

    ``orders_copyable``: False where CKA_COPYABLE is left out of templates, because it is refused there or has no
    effect. ``copyable`` and ``local``: values that generated keys may report for these attributes besides the ordered
    one. ``copies``: what C_CopyObject really makes. ``observed``: tolerated deviations that a read-back has shown since
    the token was opened.
    """

    orders_copyable: bool = True
    copyable: tuple[object, ...] = ()
    copies: Copying = Copying.REFUSED
    local: tuple[object, ...] = ()
    observed: set[str] = field(default_factory=set)

    def ordered(self, template: Mapping[Attribute, Any]) -> dict[Attribute, Any]:
        """Return the template without what is left out for this token."""
        return {
            attribute: value
            for attribute, value in template.items()
            if self.orders_copyable or attribute is not Attribute.COPYABLE
        }

    def has_same_deviations(self, other: "AttributeSupport") -> bool:
        """Return True if the trials at start had the same results; what read-backs have shown since does not count."""
        return replace(self, observed=other.observed) == other

    @property
    def generated(self) -> Tolerated:
        """What generated secrets may report."""
        return {**MAY_BE_SILENT, Attribute.COPYABLE: self.copyable, Attribute.LOCAL: self.local}

    @property
    def unwrapped(self) -> Tolerated:
        """What unwrapped secrets may report."""
        return {**MAY_BE_SILENT, **_SILENT_ABOUT_THE_PAST, Attribute.COPYABLE: self.copyable}

    @property
    def public(self) -> Tolerated:
        """What public halves may report: the private half proves them whenever a process reads one."""
        return {Attribute.COPYABLE: self.copyable, Attribute.PRIVATE: (False, None)}

    def observer(self, objects: str) -> Observer:
        """Return what notes the deviations of ``objects`` ("public halves", say) that no other sentence tells of."""

        def observe(attribute: Attribute, phrase: str) -> None:
            if attribute not in (*MAY_BE_SILENT, Attribute.COPYABLE, Attribute.LOCAL):
                self.observed.add(f"{objects}: {phrase}")

        return observe

    @property
    def quirks(self) -> tuple[str, ...]:
        """Return sentences for people about all deviations that are known by now."""
        known = []
        if not self.orders_copyable:
            known.append(f"CKA_COPYABLE is unknown or has no effect, so it is left out; C_CopyObject: {self.copies}")
        elif self.copyable:
            known.append(f"CKA_COPYABLE is reported as {_values(self.copyable)}; C_CopyObject: {self.copies}")
        if self.local:
            known.append(
                f"CKA_LOCAL of generated keys is reported as {_values(self.local)}: CKA_ALWAYS_SENSITIVE and "
                "CKA_NEVER_EXTRACTABLE say that a key was generated here, and no object is adopted"
            )
        return (*known, *sorted(self.observed))


def _values(values: tuple[object, ...]) -> str:
    return " or ".join("nothing" if value is None else str(value) for value in values)


STANDARD: Final = AttributeSupport()
"""No deviation."""
