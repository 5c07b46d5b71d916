"""Published vectors: invalid signatures are refused, and the token's results are those of the standards.

Known private keys go onto the token of these tests as session objects. Source: cryptography_vectors, which ships NIST
CAVP's ECDSA SigVer of 2011 (FIPS 186-3) and ECC CDH (SP 800-56A), the Ed25519 vectors of its inventors, and RSA
Laboratories' RSAES-OAEP vectors, and those that were derived from them for SHA-256.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from devices import NewToken
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType
from pkcs11.types import Session

from hsmkms.errors import RejectedDataError
from hsmkms.hsm.crypto import signing
from hsmkms.hsm.crypto.agreement import agree
from hsmkms.hsm.crypto.oaep import Private
from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256, Oaep
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.objects import handle_of
from hsmkms.model.enums import KeySpec, KeyUsage, SigningAlgorithm

_LABELLED = re.compile(r"^# ([A-Z][a-z 0-9]+): *\n((?:[0-9a-f]+[0-9a-f ]*\n)+)", re.MULTILINE)
VECTORS = Path(cryptography_vectors.__file__).parent / "asymmetric"


@pytest.fixture(scope="module")
def device(new_token: NewToken) -> Iterator[TokenDevice]:
    """Return a token that the tests of this module share."""
    device = new_token("vectors").open()
    yield device
    device.close()


@pytest.fixture(scope="module")
def session(device: TokenDevice) -> Iterator[Session]:
    """Yield a session with it."""
    with device.connection.pool.session() as borrowed:
        yield borrowed


def load(session: Session, key_type: KeyType, usage: Attribute, numbers: dict[Attribute, Any]) -> int:
    """Load a known private key as a session object; its handle."""
    usual = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: key_type, Attribute.TOKEN: False}
    return handle_of(session.create_object({**usual, usage: True, **numbers}))


def sections(name: str, heading: str) -> list[dict[str, str]]:
    """Return the vectors below a heading of a CAVP file."""
    (section,) = [
        part
        for part in (VECTORS / name).read_text().split("\n[")
        if part.startswith(f"{heading}]") and "Result" in part
    ]
    blocks = (block for block in section.split("\n\n") if "Result" in block)
    return [dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line) for block in blocks]


@pytest.mark.parametrize(
    ("heading", "curve", "algorithm"),
    [
        ("P-256,SHA-256", ec.SECP256R1(), SigningAlgorithm.ECDSA_SHA_256),
        ("P-384,SHA-384", ec.SECP384R1(), SigningAlgorithm.ECDSA_SHA_384),
        ("P-521,SHA-512", ec.SECP521R1(), SigningAlgorithm.ECDSA_SHA_512),
    ],
)
def test_ecdsa(heading: str, curve: ec.EllipticCurve, algorithm: SigningAlgorithm) -> None:
    """NIST's valid signatures verify; those with another message, r, s or public key do not."""
    check = signing.SIGNINGS[algorithm].verify
    assert check is not None
    outcomes = set()
    for vector in sections("ECDSA/FIPS_186-3/SigVer.rsp", heading):
        x, y, r, s = (int(vector[name], 16) for name in ("Qx", "Qy", "R", "S"))
        public = ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
        digest = hashlib.new(f"sha{algorithm[-3:]}", bytes.fromhex(vector["Msg"])).digest()
        right = vector["Result"].startswith("P")
        assert signing.verify_here(check, public, encode_dss_signature(r, s), digest) == right
        outcomes.add(right)
    assert outcomes == {True, False}


def test_ed25519(device: TokenDevice, session: Session) -> None:
    """The token's Ed25519 signatures equal the published ones, and verify."""
    device.keys.check_kind((KeySpec.ECC_NIST_EDWARDS25519, KeyUsage.SIGN_VERIFY))
    facts = device.keys._trials.facts(KeySpec.ECC_NIST_EDWARDS25519)
    check = signing.SIGNINGS[SigningAlgorithm.ED25519_SHA_512].verify
    assert check is not None
    lines = (VECTORS / "Ed25519" / "sign.input").read_text().splitlines()
    for line in lines[1:1024:32]:  # not the empty message, which the API does not take
        secret, public, message, signed, _ = (bytes.fromhex(part) for part in line.split(":"))
        handle = load(session, facts.key_type, Attribute.SIGN, {Attribute.VALUE: secret[:32], **facts.parameters})
        signature = signed[:64]
        assert signing.sign(session, handle, SigningAlgorithm.ED25519_SHA_512, message) == signature
        assert signing.verify_here(check, Ed25519PublicKey.from_public_bytes(public), signature, message)


@pytest.mark.parametrize(
    ("heading", "spec"),
    [
        ("EC - SHA256", KeySpec.ECC_NIST_P256),
        ("ED - SHA384", KeySpec.ECC_NIST_P384),
        ("EE - SHA512", KeySpec.ECC_NIST_P521),
    ],
)
def test_ecdh(device: TokenDevice, session: Session, heading: str, spec: KeySpec) -> None:
    """The token's shared secrets equal NIST's, and a peer's key that is no point of the curve is refused."""
    device.keys.check_kind((spec, KeyUsage.KEY_AGREEMENT))
    facts = device.keys._trials.facts(spec)
    assert facts.curve is not None
    agreed = refused = 0
    for vector in sections("ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_resp.fax", heading):
        numbers = ec.EllipticCurvePublicNumbers(int(vector["QsCAVSx"], 16), int(vector["QsCAVSy"], 16), facts.curve)
        if vector["Result"].startswith("P"):
            secret = int(vector["dsIUT"], 16).to_bytes(facts.size)
            handle = load(session, facts.key_type, Attribute.DERIVE, {Attribute.VALUE: secret, **facts.parameters})
            assert agree(session, handle, facts, numbers.public_key()) == bytes.fromhex(vector["Z"]).rjust(
                facts.size, b"\0"
            )
            agreed += 1
        elif "fails PKV" in vector["Result"] and "CAVS's" in vector["Result"]:
            with pytest.raises(ValueError, match=r"."):
                numbers.public_key()
            refused += 1
    assert agreed
    assert refused


def oaep_keys(name: str) -> Iterator[tuple[dict[Attribute, bytes], list[tuple[bytes, bytes]]]]:
    """Return the keys of an OAEP file, each with its pairs of message and ciphertext."""
    members = {
        "Modulus": Attribute.MODULUS,
        "Public exponent": Attribute.PUBLIC_EXPONENT,
        "Exponent": Attribute.PRIVATE_EXPONENT,
        "Prime 1": Attribute.PRIME_1,
        "Prime 2": Attribute.PRIME_2,
        "Prime exponent 1": Attribute.EXPONENT_1,
        "Prime exponent 2": Attribute.EXPONENT_2,
        "Coefficient": Attribute.COEFFICIENT,
    }
    for block in (VECTORS / "RSA" / name).read_text().split("# Private key\n")[1:]:
        fields = [(label.strip(), "".join(value.split())) for label, value in _LABELLED.findall(block)]
        numbers = {members[label]: _number(value) for label, value in reversed(fields) if label in members}
        messages = [bytes.fromhex(value) for label, value in fields if label == "Message"]
        sealed = [bytes.fromhex(value) for label, value in fields if label == "Encryption"]
        yield numbers, list(zip(messages, sealed, strict=True))


def _number(value: str) -> bytes:
    return bytes.fromhex(value if len(value) % 2 == 0 else f"0{value}")


@pytest.mark.parametrize(
    ("name", "oaep", "foreign"),
    [
        ("pkcs-1v2-1d2-vec/oaep-vect.txt", OAEP_SHA_1, OAEP_SHA_256),
        ("oaep-custom/oaep-sha256-sha256.txt", OAEP_SHA_256, OAEP_SHA_1),
    ],
    ids=["SHA-1", "SHA-256"],
)
def test_oaep(session: Session, name: str, oaep: Oaep, foreign: Oaep) -> None:
    """Published ciphertexts decrypt, on the token if it can, and with the padding removed in this process."""
    opened = 0
    for numbers, pairs in oaep_keys(name):
        handle = load(session, KeyType.RSA, Attribute.DECRYPT, numbers)
        n, e = (int.from_bytes(numbers[each]) for each in (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT))
        private = Private(session, handle, RSAPublicNumbers(e, n).public_key())
        for message, block in pairs:
            assert private.open_here(oaep, block) == message
            if oaep is OAEP_SHA_1:
                assert private.open_on_token(oaep, block) == message
            with pytest.raises(RejectedDataError):
                private.open_here(foreign, block)
            opened += 1
    assert opened > 20
