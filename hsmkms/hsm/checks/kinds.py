"""Checks of key specs: each makes a session key of its spec, uses it, and compares with this process's own answer."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.checks.bench import CHECK_LABEL, Bench, Finding
from hsmkms.hsm.ckr_names import ckr_of
from hsmkms.hsm.crypto import kem, oaep
from hsmkms.hsm.crypto.data_key_pairs import WAYS, make_data_key_pair
from hsmkms.hsm.crypto.pairs import Public, generate_pair, read_public
from hsmkms.hsm.crypto.prehash import signs_prehashed
from hsmkms.hsm.crypto.signing import SIGNINGS, sign, verify_here, verify_on_token
from hsmkms.hsm.objects.backing_keys import CAPABILITIES, PairTemplate, template_of
from hsmkms.hsm.objects.handle_keys import HandleKey
from hsmkms.hsm.objects.key_specs import KEY_FACTS, KeyFacts
from hsmkms.hsm.objects.mac_mechanisms import MAC_OF
from hsmkms.hsm.objects.objects import generate, handle_of
from hsmkms.hsm.probing.pairs import try_pair
from hsmkms.key_wrapping import oaep_encrypt
from hsmkms.model.enums import KeySpec, KeyUsage, SigningAlgorithm
from hsmkms.model.token_check import Outcome

_CHECK_ID: Final = b"hsmkms check 002"
_MESSAGE: Final = b"hsmkms token-check: a message of no meaning that is longer than any digest is."
_LACKS: Final = "enable CKM_{} in the token's policy, or use another key spec"

_DO_WITHOUT: Final = "do without what does not work; if it should, send this report as a bug report"

_OF_SPECS: Final = {
    "CKR_HOST_MEMORY": "use another key spec: NSS answers so for parameter sets that it does not have; if others fail "
    "with it as well, free memory on this machine"
}
"""Advice on return codes that mean something else in the trial of a key spec."""

_SAMPLE_BYTES: Final = 32
_DIGESTS: Final = {"256": 32, "384": 48, "512": 64}
_OF_CURVES: Final = {
    KeySpec.ECC_NIST_P256: (SigningAlgorithm.ECDSA_SHA_256,),
    KeySpec.ECC_NIST_P384: (SigningAlgorithm.ECDSA_SHA_384,),
    KeySpec.ECC_NIST_P521: (SigningAlgorithm.ECDSA_SHA_512,),
    KeySpec.ECC_SECG_P256K1: (SigningAlgorithm.ECDSA_SHA_256,),
}
_OF_RSA: Final = tuple(each for each, row in SIGNINGS.items() if row.key_type is KeyType.RSA)
SIGNING_ALGORITHMS: Final = {
    **dict.fromkeys((KeySpec.RSA_2048, KeySpec.RSA_3072, KeySpec.RSA_4096), _OF_RSA),
    **_OF_CURVES,
    KeySpec.ECC_NIST_EDWARDS25519: (SigningAlgorithm.ED25519_SHA_512, SigningAlgorithm.ED25519_PH_SHA_512),
    **dict.fromkeys((KeySpec.ML_DSA_44, KeySpec.ML_DSA_65, KeySpec.ML_DSA_87), (SigningAlgorithm.ML_DSA_SHAKE_256,)),
}
"""What each spec signs with: AWS KMS Developer Guide, "Key spec reference"."""

AGREEING: Final = (KeySpec.ECC_NIST_P256, KeySpec.ECC_NIST_P384, KeySpec.ECC_NIST_P521)
OAEP_CHECKED: Final = KeySpec.RSA_2048
"""The spec with which RSA encryption is tried: the length of the modulus makes no difference to the padding."""

DATA_KEY_PAIRS: Final = (
    KeySpec.RSA_2048,
    KeySpec.ECC_NIST_P256,
    KeySpec.ECC_NIST_EDWARDS25519,
    KeySpec.ML_KEM_768,
)
"""One spec for each type of key."""


def pair(spec: KeySpec) -> Callable[[Bench], Finding]:
    """Return the check of a key spec of key pairs."""

    def check(bench: Bench) -> Finding:
        lacking = _lacking(bench, spec)
        if lacking is not None:
            return lacking
        works: list[str] = []
        faults: dict[str, str] = {}
        _signs(bench, spec, works, faults)
        if spec in AGREEING:
            with _noting("key agreement", works, faults), bench.another_session() as session:
                _generate(bench, session, spec, KeyUsage.KEY_AGREEMENT)
        if spec is OAEP_CHECKED:
            with bench.another_session() as session:
                _decrypts(bench, session, works, faults)
        return _summary(works, faults)

    return check


def encapsulation(spec: KeySpec) -> Callable[[Bench], Finding]:
    """Return the check of a key spec of ML-KEM."""

    def check(bench: Bench) -> Finding:
        missing = [each for each in (KEY_FACTS[spec].generation, kem.MECHANISM) if each not in bench.mechanisms()]
        if missing:
            return _lacks(missing)
        works: list[str] = []
        faults: dict[str, str] = {}
        with _noting("ML_KEM", works, faults), bench.another_session() as session:
            private, _public = _generate(bench, session, spec, KeyUsage.ENCAPSULATE_DECAPSULATE)  # proven by a secret
            ciphertext = os.urandom(KEY_FACTS[spec].ciphertext_bytes)
            rejected = {kem.decapsulate(session, handle_of(private), ciphertext) for _ in range(2)}
            if len(rejected) != 1:
                raise _WrongAnswerError("an altered ciphertext does not always give the same secret")
        return _summary(works, faults)

    return check


def mac(spec: KeySpec) -> Callable[[Bench], Finding]:
    """Return the check of a key spec of HMAC keys."""

    def check(bench: Bench) -> Finding:
        mechanism, facts = MAC_OF[spec], KEY_FACTS[spec]
        template = template_of(spec, KeyUsage.GENERATE_VERIFY_MAC)
        missing = [each for each in (facts.generation, mechanism) if each not in bench.mechanisms()]
        if missing or template is None or isinstance(template, PairTemplate):
            return _lacks(missing)
        with bench.another_session() as session:
            made = generate(session, template, _CHECK_ID, CHECK_LABEL, bench.support, store=False)
            key = HandleKey(session, handle_of(made), KeyType.GENERIC_SECRET)
            tag = key.sign(_MESSAGE, mechanism=mechanism)
            other = key.sign(_MESSAGE[1:], mechanism=mechanism)
            again = key.sign(_MESSAGE, mechanism=mechanism)
        if len(tag) != facts.bits // 8 or tag != again or tag == other:
            return Finding(Outcome.LIMITED, "its MAC has a wrong length, or is not that of the message")
        return Finding(Outcome.WORKS, f"{8 * len(tag)} bits, the same for the same message")

    return check


def data_key_pairs(bench: Bench) -> Finding:
    """Make data key pairs, one for each type of key, and compare their halves."""
    mechanisms, works, faults = bench.mechanisms(), list[str](), dict[str, str]()
    ways = tuple(each for each in WAYS if each.wrapping is None or each.wrapping in mechanisms)
    for spec in DATA_KEY_PAIRS:
        if KEY_FACTS[spec].generation not in mechanisms:
            continue
        with _noting(spec, works, faults), bench.another_session() as session:
            make_data_key_pair(session, _facts(bench, session, spec), ways)
    return _summary(works, faults)


# -- trials of one spec ---------------------------------------------------------------------------------------------


def _signs(bench: Bench, spec: KeySpec, works: list[str], faults: dict[str, str]) -> None:
    with bench.another_session() as session:
        made: list[tuple[Object, Public]] = []
        with _noting("key pair", [], faults):
            made.append(_generate(bench, session, spec, KeyUsage.SIGN_VERIFY))
        if not made:
            return
        ((private, public),) = made
        for algorithm in SIGNING_ALGORITHMS[spec]:
            if algorithm is SigningAlgorithm.ED25519_PH_SHA_512:
                if signs_prehashed(session):
                    works.append(algorithm)
                else:
                    faults[algorithm] = "not that of RFC 8032"
                continue
            with _noting(algorithm, works, faults):
                _sign_and_verify(session, private, public, algorithm)


def _sign_and_verify(session: Session, private: Object, public: Public, algorithm: SigningAlgorithm) -> None:
    row = SIGNINGS[algorithm]
    hashed = row.key_type in (KeyType.RSA, KeyType.EC)
    data = _MESSAGE[: _DIGESTS[algorithm[-3:]]] if hashed else _MESSAGE
    signature = sign(session, handle_of(private), algorithm, data)
    if row.verify is not None and public.key is not None:
        right = verify_here(row.verify, public.key, signature, data)
    else:
        right = verify_on_token(session, public.handle, algorithm, signature, data)
    if not right:
        raise _WrongAnswerError("its signature does not verify")


def _decrypts(bench: Bench, session: Session, works: list[str], faults: dict[str, str]) -> None:
    made: list[tuple[Object, Public]] = []
    with _noting("key pair for RSAES", [], faults):
        made.append(_generate(bench, session, OAEP_CHECKED, KeyUsage.ENCRYPT_DECRYPT))
    if not made or not isinstance(made[0][1].key, RSAPublicKey):
        return
    private, public = oaep.Private(session, handle_of(made[0][0]), made[0][1].key), made[0][1].key
    raw = Mechanism.RSA_X_509 in bench.mechanisms()
    for algorithm, row in oaep.OAEPS.items():
        if private.works(row):
            works.append(algorithm)
            continue
        with _noting(f"{algorithm} (padding removed by hsmkms)" if raw else algorithm, works, faults):
            if not raw:
                raise _WrongAnswerError("refused, and there is no CKM_RSA_X_509 to do without")
            sample = os.urandom(_SAMPLE_BYTES)
            if private.open_here(row, oaep_encrypt(public, row.algorithm, sample)) != sample:
                raise _WrongAnswerError("loses the plaintext")


def _generate(bench: Bench, session: Session, spec: KeySpec, usage: KeyUsage) -> tuple[Object, Public]:
    """Generate a session pair that is proven to belong together; return its private and public half."""
    template = PairTemplate(_facts(bench, session, spec), CAPABILITIES[usage])
    private = generate_pair(session, template, _CHECK_ID, CHECK_LABEL, bench.support, store=False)
    wanted = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: _CHECK_ID, Attribute.LABEL: CHECK_LABEL}
    halves = list(session.get_objects(wanted))
    if len(halves) != 1:
        raise _WrongAnswerError(f"{len(halves)} public halves are found instead of 1")
    return private, read_public(halves[0], template.facts)


def _facts(bench: Bench, session: Session, spec: KeySpec) -> KeyFacts:
    """Return how the token generates pairs of a spec: by which encoding of its curve, say."""
    facts = KEY_FACTS[spec]
    if facts.key_type is KeyType.RSA:
        return facts
    outcome = try_pair(session, facts, bench.support)
    if isinstance(outcome, str):
        raise _WrongAnswerError(outcome)
    return outcome


# -- what becomes of the answers ------------------------------------------------------------------------------------


class _WrongAnswerError(Exception):
    """The token answered without an error, and wrongly."""


@contextmanager
def _noting(name: str, works: list[str], faults: dict[str, str]) -> Iterator[None]:
    """Note under a name that the block works, or why it does not."""
    try:
        yield
    except (PKCS11Error, HsmKmsError, _WrongAnswerError) as exc:
        faults[name] = ckr_of(exc) or str(exc)
    else:
        works.append(name)


def _summary(works: list[str], faults: dict[str, str]) -> Finding:
    """Say what works; if anything does not, say why it does not."""
    if not faults:
        return Finding(Outcome.WORKS if works else Outcome.LIMITED, ", ".join(works) or "nothing to try")
    done = f"works: {', '.join(works)}; " if works else ""
    detail = f"{done}does not work: {', '.join(f'{name} ({reason})' for name, reason in faults.items())}"
    ckr = next(filter(None, map(_ckr_in, faults.values())), "")
    return Finding(Outcome.LIMITED, detail, _OF_SPECS.get(ckr, "") if ckr else _DO_WITHOUT, ckr)


def _ckr_in(reason: str) -> str:
    """Return the first return code that a reason names; empty if it names none."""
    found = re.search(r"CKR[_ ]\w+", reason)
    return found.group() if found else ""


def _lacking(bench: Bench, spec: KeySpec) -> Finding | None:
    generation = KEY_FACTS[spec].generation
    return None if generation in bench.mechanisms() else _lacks([generation])


def _lacks(missing: list[Mechanism]) -> Finding:
    names = [each.name for each in missing]
    detail = f"the token has no {', '.join(f'CKM_{each}' for each in names)}"
    return Finding(Outcome.LIMITED, detail, _LACKS.format(" and CKM_".join(names)))
