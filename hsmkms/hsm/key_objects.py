"""Generate, inspect and destroy the key objects on a token."""

from collections.abc import Mapping
from typing import Any, Final

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import ObjectLostError, SessionLostError, UnsupportedOperationException
from hsmkms.hsm.allowed_acts import MAY_DESTROY, MAY_GENERATE
from hsmkms.hsm.crypto import agreement, kem
from hsmkms.hsm.crypto.pairs import disproof, make_pair, read_back_pair, read_public
from hsmkms.hsm.faults import NO_PUBLIC_HALF, OBJECT_LOST, UNSUPPORTED
from hsmkms.hsm.import_profiles import ImportProfiles
from hsmkms.hsm.imports.unwrapping import tolerated
from hsmkms.hsm.objects.backing_keys import SYMMETRIC, Kind, PairTemplate, kinds, template_of
from hsmkms.hsm.objects.cbc_pairs import CBC_MAC_KEY, NO_MAC_KEY, Both, as_one, make_both, read_back_both
from hsmkms.hsm.objects.key_specs import KEY_FACTS, public_half
from hsmkms.hsm.objects.mac_mechanisms import MAC_OF
from hsmkms.hsm.objects.objects import (
    TokenObject,
    attest,
    differences,
    find,
    handle_of,
    is_at,
    list_keys,
    quirks_of,
    required,
)
from hsmkms.hsm.objects.support import AttributeSupport, Tolerated
from hsmkms.hsm.pair_trials import PairTrials
from hsmkms.hsm.session.connection import Connection
from hsmkms.model.cipher_format import format_of, mac_key_id
from hsmkms.model.enums import KeyUsage
from hsmkms.model.permit import Permit

_USES: Final[Mapping[tuple[KeyType, KeyUsage], tuple[Mechanism, ...]]] = {
    (KeyType.AES, KeyUsage.ENCRYPT_DECRYPT): (Mechanism.AES_GCM, Mechanism.AES_CBC),
    (KeyType.RSA, KeyUsage.SIGN_VERIFY): (Mechanism.RSA_PKCS_PSS, Mechanism.RSA_PKCS),
    (KeyType.RSA, KeyUsage.ENCRYPT_DECRYPT): (Mechanism.RSA_PKCS_OAEP, Mechanism.RSA_X_509),
    (KeyType.EC, KeyUsage.SIGN_VERIFY): (Mechanism.ECDSA,),
    (KeyType.EC, KeyUsage.KEY_AGREEMENT): (agreement.MECHANISM,),
    (KeyType.EC_EDWARDS, KeyUsage.SIGN_VERIFY): (Mechanism.EDDSA,),
    (KeyType.ML_DSA, KeyUsage.SIGN_VERIFY): (Mechanism.ML_DSA,),
    (KeyType.ML_KEM, KeyUsage.ENCAPSULATE_DECAPSULATE): (kem.MECHANISM,),
}


def uses(kind: Kind) -> tuple[Mechanism, ...]:
    """Return the mechanisms that use such keys; a token without any of them gets no key of that kind."""
    spec, usage = kind
    return (MAC_OF[spec],) if spec in MAC_OF else _USES[KEY_FACTS[spec].key_type, usage]


class KeyObjects:
    """Backing keys as objects. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection, imports: ImportProfiles, trials: PairTrials) -> None:
        self._connection = connection
        self._imports = imports
        self._trials = trials
        self._labels: dict[bytes, str] = {}
        connection.caches.append(self._labels)

    def generate_backing_key(self, permit: Permit, cka_id: bytes, label: str, kind: Kind = SYMMETRIC) -> None:
        """Generate a backing key on the token, verified by reading its attributes back. Never repeated.

        UnsupportedOperationException if the token makes none of that kind.
        """
        permit.require(MAY_GENERATE, cka_id)
        template = template_of(*kind)
        if template is None:
            raise UnsupportedOperationException(UNSUPPORTED)
        support = self._connection.profile.attributes
        if kind == SYMMETRIC:
            self._require_format(cka_id)
        if isinstance(template, PairTemplate):
            pair = PairTemplate(self._trials.facts(kind[0]), template.capabilities)
            self._connection.keep(
                cka_id,
                lambda session: make_pair(session, pair, cka_id, label, support),
                lambda session, made: read_back_pair(session, made, pair, cka_id, label, support),
            )
        elif (authenticating_id := mac_key_id(cka_id)) is not None:
            parts: dict[bytes, int] = {}

            def read_back(_: Session, made: Both) -> Object:
                parts[authenticating_id] = handle_of(made.authenticating)
                return read_back_both(made, cka_id, label, support)

            self._connection.keep(
                cka_id,
                lambda session: make_both(session, cka_id, label, support),
                read_back,
                (authenticating_id,),
                parts,
            )
        else:
            self._connection.keep_secret(template, cka_id, label)

    def _require_format(self, cka_id: bytes) -> None:
        """Refuse to make material in another format than the token's, which was chosen for another token."""
        wanted, possible = format_of(cka_id), self._connection.profile.cipher_format
        if wanted is not possible:
            raise UnsupportedOperationException(
                f"Key material of this token is for {possible}, and this one was to be for {wanted}: the token has "
                "changed meanwhile, so try again."
            )

    def destroy(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy a key on the token, with both halves; False if it was not there. danger: nothing brings it back."""
        permit.require(MAY_DESTROY, cka_id)
        was_there = self.destroy_secret(permit, cka_id)  # the half that decides goes first
        self._connection.forget(cka_id)
        self._connection.destroy_object(cka_id, ObjectClass.PUBLIC_KEY)
        return was_there

    def destroy_secret(self, permit: Permit, cka_id: bytes) -> bool:
        """Destroy a secret key or a private half alone; False if it was not there. danger: nothing brings it back.

        For the key by which the token is recognised: once that is gone, no search on it counts.
        """
        permit.require(MAY_DESTROY, cka_id)
        self._connection.forget(cka_id)
        was_there = self._connection.destroy_object(cka_id, None)
        authenticating_id = mac_key_id(cka_id)
        if authenticating_id is not None:  # last: a material whose encrypting key is there has both
            self._connection.forget(authenticating_id)
            self._connection.destroy_object(authenticating_id, None)
        return was_there

    def holds(self, cka_id: bytes) -> bool:
        """True if a secret key or a private half with this CKA_ID is on the token now, with its HMAC key if any."""
        connection, authenticating_id = self._connection, mac_key_id(cka_id)

        def is_there(session: Session, wanted: bytes) -> bool:
            known = connection.handles.lookup(wanted)
            return is_at(session, known, wanted) or connection.find(session, wanted) is not None

        def attempt(session: Session) -> bool:
            return is_there(session, cka_id) and (authenticating_id is None or is_there(session, authenticating_id))

        return connection.repeatable(attempt, "find")

    def is_in_parts(self, cka_id: bytes) -> bool:
        """True if only parts of a key with this CKA_ID are on the token: one of two secret keys, or a public half."""

        def attempt(session: Session) -> bool:
            find, authenticating_id = self._connection.find, mac_key_id(cka_id)
            secrets = [find(session, each) is not None for each in (cka_id, authenticating_id) if each is not None]
            return not all(secrets) and (any(secrets) or find(session, cka_id, ObjectClass.PUBLIC_KEY) is not None)

        return self._connection.repeatable(attempt, "find")

    def require_replicated(self, cka_id: bytes) -> None:
        """Wait until every member of an HA group that could take over has the key, with its HMAC key if any.

        TokenUnavailableError if one lacks it after the configured time; without a group nothing is asked.
        """
        authenticating_id = mac_key_id(cka_id)
        cka_ids = (cka_id,) if authenticating_id is None else (cka_id, authenticating_id)
        self._connection.require_replicated(cka_ids, self._connection.takeovers)

    def is_labelled(self, cka_id: bytes, label: str) -> bool:
        """Return True if the secret key has that label; ObjectLostError if it is not on the token.

        The label is read once, when the key is first used: labels of hsmkms's keys cannot be changed on the token.
        """

        def attempt(session: Session) -> str:
            self._connection.require_login(session)
            found = self._connection.find(session, cka_id)
            if found is None:
                raise ObjectLostError(OBJECT_LOST)
            label: str = found[Attribute.LABEL]
            return label

        kept = self._labels.get(cka_id)
        if kept is None:
            kept = self._labels[cka_id] = self._connection.handles.label(cka_id) or self._connection.repeatable(
                attempt, "find"
            )
        return kept == label[: self._connection.profile.label_bytes]

    def inventory(self, witness: bytes) -> list[TokenObject]:
        """List all key objects on the token, foreign ones too.

        ``witness`` is the CKA_ID of an object that must be among them: a lost login shows an empty token without
        any error, so an inventory without it proves nothing and raises TokenUnavailableError.
        """

        def attempt(session: Session) -> list[TokenObject]:
            self._connection.require_login(session)
            found = list(list_keys(session))
            if not any(each.cka_id == witness for each in found):
                self._connection.require_identity(session)
                raise SessionLostError("the token does not show the installation's own key: nothing is known about it")
            return as_one(found)

        return self._connection.repeatable(attempt)

    def attest(
        self, cka_id: bytes, kind: Kind = SYMMETRIC, *, imported: bool = False
    ) -> tuple[dict[str, Any], list[str]]:
        """Return a backing key's attributes as the token reports them now, and their differences from the template.

        Of a pair it is the private half; ``attest_public`` tells of the other. ``imported``: its material came from
        elsewhere. Raises ObjectLostError if the key is not there.
        """
        template = template_of(*kind, imported=imported)
        if template is None:
            raise UnsupportedOperationException(UNSUPPORTED)
        tolerance = self._tolerance(imported=imported)

        def attempt(session: Session) -> tuple[dict[str, Any], list[str]]:
            found = self._connection.find(session, cka_id)
            if found is None:
                raise ObjectLostError(OBJECT_LOST)
            reported, wrong = attest(found, template.expected(b"", ""), tolerance)
            return reported, wrong + [f"HMAC key: {each}" for each in self._attest_mac_key(session, cka_id)[1]]

        return self._connection.repeatable(attempt)

    def attest_mac_key(self, cka_id: bytes) -> dict[str, Any]:
        """Return the attributes of the HMAC key of a backing key for AES-CBC; empty for other backing keys."""
        return self._connection.repeatable(lambda session: self._attest_mac_key(session, cka_id))[0]

    def _attest_mac_key(self, session: Session, cka_id: bytes) -> tuple[dict[str, Any], list[str]]:
        authenticating_id = mac_key_id(cka_id)
        if authenticating_id is None:
            return {}, []
        found = self._connection.find(session, authenticating_id)
        if found is None:
            return {}, [NO_MAC_KEY]
        return attest(found, CBC_MAC_KEY.expected(b"", ""), self._connection.profile.attributes.generated)

    def tolerated(
        self, attributes: Mapping[str, Any], kind: Kind = SYMMETRIC, *, imported: bool = False, public: bool = False
    ) -> list[str]:
        """Describe the attributes read by ``attest`` that are not as ordered, but are a known quirk of the token.

        ``public``: they are those of a public half. Nothing is read from the token.
        """
        template = template_of(*kind, imported=imported)
        if template is None or not attributes:
            return []
        if public:
            expected = template.expected_public(b"", "") if isinstance(template, PairTemplate) else {}
            tolerance = self._connection.profile.attributes.public
        else:
            expected, tolerance = template.expected(b"", ""), self._tolerance(imported=imported)
        return quirks_of(attributes, expected, tolerance)

    def tolerated_of_mac_key(self, attributes: Mapping[str, Any]) -> list[str]:
        """Describe the same of the attributes read by ``attest_mac_key``."""
        tolerance = self._connection.profile.attributes.generated
        return quirks_of(attributes, CBC_MAC_KEY.expected(b"", ""), tolerance) if attributes else []

    def _tolerance(self, *, imported: bool) -> Tolerated:
        return tolerated(self._imports.symmetric()) if imported else self._connection.profile.attributes.generated

    def identify(self, cka_id: bytes) -> Kind | None:
        """Return spec and usage of a generated key, from its attributes; None if they fit no kind, or several.

        Raises ObjectLostError if there is no such object.
        """

        def attempt(session: Session) -> Kind | None:
            found = required(self._connection.find(session, cka_id), OBJECT_LOST)
            public = find(session, ObjectClass.PUBLIC_KEY, cka_id)
            support = self._connection.profile.attributes
            fitting = [kind for kind in kinds() if _fits(kind, found, public, support)]
            return fitting[0] if len(fitting) == 1 else None

        return self._connection.repeatable(attempt)

    def attest_public(self, cka_id: bytes, kind: Kind) -> tuple[dict[str, Any], list[str]]:
        """Return a public half's attributes as the token reports them now, and its faults; empty for a secret key."""
        template = template_of(*kind)
        if not isinstance(template, PairTemplate):
            return {}, []

        def attempt(session: Session) -> tuple[dict[str, Any], list[str]]:
            public, private = find(session, ObjectClass.PUBLIC_KEY, cka_id), self._connection.find(session, cka_id)
            if public is None or private is None:
                return {}, [NO_PUBLIC_HALF]
            support = self._connection.profile.attributes
            reported, wrong = attest(public, template.expected_public(b"", ""), support.public)
            return reported, wrong + disproof(session, template, private, read_public(public, template.facts))

        return self._connection.repeatable(attempt)

    def check_kind(self, kind: Kind) -> None:
        """Raise UnsupportedOperationException, naming what can be had, if the token cannot make and use such keys."""
        reason = self._refusal(kind)
        if reason is not None:
            spec, usage = kind
            fitting = (each for each in kinds() if each != kind and self._refusal(each) is None)
            possible = ", ".join(dict.fromkeys(each for each, _ in fitting))
            raise UnsupportedOperationException(
                f"This token has no keys of KeySpec {spec} for {usage}{reason}: it has keys of {possible}."
            )

    def _refusal(self, kind: Kind) -> str | None:
        """Return why the token has no keys of that kind, to append to a sentence; None if it has."""
        facts, has = KEY_FACTS.get(kind[0]), self._connection.has
        if facts is None or not has(facts.generation) or not any(map(has, uses(kind))):
            return ""
        outcome = self._trials.outcome(kind[0])
        return f" ({outcome})" if isinstance(outcome, str) else None


def _fits(kind: Kind, found: Object, public: Object | None, support: AttributeSupport) -> bool:
    """Return whether an object, and the public half beside it, look like a generated key of that kind."""
    template = template_of(*kind)
    if template is None:
        return False
    decisive = template.expected(b"", "")
    del decisive[Attribute.ID], decisive[Attribute.LABEL]
    if differences(found, decisive, support.generated):
        return False
    if not isinstance(template, PairTemplate):
        return public is None
    if public is None:
        return False
    expected = {**template.expected_public(b"", ""), **template.facts.parameters}
    tolerance = {**support.public, Attribute.EC_PARAMS: template.facts.encodings}
    # NSS reports no CKA_MODULUS_BITS.
    if template.key_type is KeyType.RSA and public_half(public).key_size != template.facts.bits:
        return False
    del expected[Attribute.ID], expected[Attribute.LABEL]
    return not differences(public, expected, tolerance)
