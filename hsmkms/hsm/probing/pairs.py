"""Try whether a token generates key pairs of a spec, and by which encoding it names the curve.

Tokens list CKM_EC_KEY_PAIR_GEN and generate some curves only, likewise ML-DSA and ML-KEM with some parameter sets only,
and Ed25519 is named by an object identifier on some of
them and by a PrintableString on others. The trial generates a pair as session objects, once for each encoding until one
is accepted, and proves that its halves belong together; it leaves nothing behind.
"""

from typing import Final

from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType
from pkcs11.types import Session

from hsmkms.errors import HsmKmsError, TokenUnavailableError
from hsmkms.hsm.ckr_names import ckr_name
from hsmkms.hsm.crypto.pairs import disproof, make_pair, read_public
from hsmkms.hsm.faults import is_loss, is_trouble, translate, translated
from hsmkms.hsm.objects.attributes import INSTALLATION_MAC_KEY
from hsmkms.hsm.objects.backing_keys import CAPABILITIES, PairTemplate
from hsmkms.hsm.objects.key_specs import KeyFacts
from hsmkms.hsm.objects.objects import discard, generate
from hsmkms.hsm.objects.support import AttributeSupport
from hsmkms.model.enums import KeyUsage

_PROBE_ID: Final = b"hsmkms probe 004"
_PROBE_LABEL: Final = "hsmkms probe (a session object)"

_USAGE: Final = {KeyType.ML_KEM: KeyUsage.ENCAPSULATE_DECAPSULATE}
"""The usage with which pairs of a type are tried, where it is not signing."""

Outcome = KeyFacts | str
"""The facts with the encoding that the token accepts, or a phrase that says why it generates no such pairs."""


def try_pair(session: Session, facts: KeyFacts, support: AttributeSupport) -> Outcome:
    """Generate a session pair with each encoding in turn. Raises the device's error if the device is in trouble."""
    refusals: list[str] = []
    ambiguous = False
    for variant in facts.variants():
        try:
            wrong = _contradiction(session, variant, support)
        except PKCS11Error as exc:
            if is_loss(exc):
                raise translate(exc) from exc
            ambiguous |= is_trouble(exc)
            wrong = ckr_name(exc)
        if wrong is None:
            return variant
        refusals.append(wrong)
    if ambiguous:  # the code may mean the curve or the device: this operation must work on every token
        with translated():
            generate(session, INSTALLATION_MAC_KEY, _PROBE_ID, _PROBE_LABEL, support, store=False).destroy()
    return "it answers " + ", ".join(dict.fromkeys(refusals))


def _contradiction(session: Session, facts: KeyFacts, support: AttributeSupport) -> str | None:
    """Generate a session pair and prove its halves; return what contradicts them, or None."""
    template = PairTemplate(facts, CAPABILITIES[_USAGE.get(facts.key_type, KeyUsage.SIGN_VERIFY)])
    public, private = make_pair(session, template, _PROBE_ID, _PROBE_LABEL, support, store=False)
    try:
        wrong = disproof(session, template, private, read_public(public, facts))
    except HsmKmsError as exc:
        if isinstance(exc, TokenUnavailableError):
            raise
        wrong = [str(exc)]
    finally:
        discard(public)
        discard(private)
    return "; ".join(wrong) or None
