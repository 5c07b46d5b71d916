"""Key pairs and HMAC keys on the token, each algorithm against an independent implementation, in both directions."""

import hashlib
import hmac
import os
from collections.abc import Iterator

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from devices import NewToken, permit
from pkcs11.constants import Attribute, MechanismFlag, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object

from hsmkms.errors import ObjectLostError, RejectedDataError, TokenError, UnsupportedOperationException
from hsmkms.hsm import faults
from hsmkms.hsm.crypto import oaep, signing
from hsmkms.hsm.crypto.agreement import agree
from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256
from hsmkms.hsm.crypto.prehash import signs_prehashed
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects import mac_mechanisms
from hsmkms.hsm.objects.backing_keys import SYMMETRIC, Kind, kinds
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.hsm.objects.objects import find, handle_of
from hsmkms.hsm.session.connection import Connection
from hsmkms.model.cipher_format import new_cka_id
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, KeyUsage, MacAlgorithm, Operation, SigningAlgorithm
from hsmkms.model.permit import OperatorAct

MESSAGE = b"The engine is yours."
S = SigningAlgorithm
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}

SIGNERS: list[tuple[KeySpec, SigningAlgorithm]] = [
    *((KeySpec.RSA_2048, each) for each in S if each.startswith("RSASSA")),
    (KeySpec.RSA_4096, S.RSASSA_PKCS1_V1_5_SHA_512),
    (KeySpec.ECC_NIST_P256, S.ECDSA_SHA_256),
    (KeySpec.ECC_NIST_P384, S.ECDSA_SHA_384),
    (KeySpec.ECC_NIST_P521, S.ECDSA_SHA_512),
    (KeySpec.ECC_SECG_P256K1, S.ECDSA_SHA_256),
    (KeySpec.ECC_NIST_EDWARDS25519, S.ED25519_SHA_512),
]
MACS = {
    MacAlgorithm.HMAC_SHA_224: (KeySpec.HMAC_224, 28),
    MacAlgorithm.HMAC_SHA_256: (KeySpec.HMAC_256, 32),
    MacAlgorithm.HMAC_SHA_384: (KeySpec.HMAC_384, 48),
    MacAlgorithm.HMAC_SHA_512: (KeySpec.HMAC_512, 64),
}
CURVES = [KeySpec.ECC_NIST_P256, KeySpec.ECC_NIST_P384, KeySpec.ECC_NIST_P521]
RSA = (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT)


class Bench:
    """A token with one key of each kind, created when it is first needed: RSA keys take long."""

    def __init__(self, device: TokenDevice) -> None:
        self.device = device
        self._keys: dict[Kind, bytes] = {}

    def key(self, spec: KeySpec, usage: KeyUsage = KeyUsage.SIGN_VERIFY) -> bytes:
        """Return the CKA_ID of the key of that kind."""
        kind = (spec, usage)
        if kind not in self._keys:
            self._keys[kind] = self.new(spec, usage)
        return self._keys[kind]

    def new(self, spec: KeySpec, usage: KeyUsage = KeyUsage.SIGN_VERIFY) -> bytes:
        """Create a key of that kind; return its CKA_ID."""
        self.device.keys.check_kind((spec, usage))
        symmetric = (spec, usage) == SYMMETRIC
        cka_id = new_cka_id(self.device.profile.cipher_format) if symmetric else os.urandom(16)
        self.device.keys.generate_backing_key(permit(Operation.CREATE_KEY, cka_id), cka_id, "a key", (spec, usage))
        return cka_id

    def public(self, spec: KeySpec, usage: KeyUsage = KeyUsage.SIGN_VERIFY) -> object:
        """Return the public key, parsed by another library."""
        cka_id = self.key(spec, usage)
        info = self.device.pairs.public_key(permit(Operation.GET_PUBLIC_KEY, cka_id), cka_id, (spec, usage))
        return load_der_public_key(info)

    def sign(self, spec: KeySpec, algorithm: SigningAlgorithm, data: bytes) -> bytes:
        """Sign with the key of that spec."""
        cka_id = self.key(spec)
        return self.device.pairs.sign(permit(Operation.SIGN, cka_id), cka_id, algorithm, data)

    def verify(self, spec: KeySpec, algorithm: SigningAlgorithm, data: bytes, signature: bytes) -> bool:
        """Verify with the key of that spec."""
        cka_id, kind = self.key(spec), (spec, KeyUsage.SIGN_VERIFY)
        return self.device.pairs.verify(permit(Operation.VERIFY, cka_id), cka_id, kind, algorithm, data, signature)

    def open(self, block: bytes, algorithm: EncryptionAlgorithm, spec: KeySpec = KeySpec.RSA_2048) -> bytes:
        """Decrypt with the RSA key of that spec."""
        cka_id = self.key(spec, KeyUsage.ENCRYPT_DECRYPT)
        return self.device.pairs.decrypt_oaep(permit(Operation.DECRYPT, cka_id), cka_id, spec, algorithm, block)

    def object(self, object_class: ObjectClass | None, cka_id: bytes) -> Object | None:
        """Return an object, found without the device."""
        with self.device.connection.pool.session() as session:
            return find(session, object_class, cka_id)


@pytest.fixture(scope="module")
def bench(new_token: NewToken) -> Iterator[Bench]:
    """Return a token that the tests of this module share."""
    device = new_token("keypairs").open()
    yield Bench(device)
    device.close()


def to_sign(algorithm: SigningAlgorithm) -> bytes:
    """Return the device's input for MESSAGE: its digest, or the message itself."""
    name = algorithm.rsplit("_", 1)[1]
    return MESSAGE if algorithm is S.ED25519_SHA_512 else hashlib.new(f"sha{name}", MESSAGE).digest()


def check(public: object, algorithm: SigningAlgorithm, signature: bytes) -> None:
    """Verify a signature of MESSAGE with another library; InvalidSignature if it is wrong."""
    hashed = HASHES[algorithm.rsplit("_", 1)[1]]
    if isinstance(public, Ed25519PublicKey):
        public.verify(signature, MESSAGE)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, MESSAGE, ec.ECDSA(hashed))
    else:
        assert isinstance(public, RSAPublicKey)
        pss = padding.PSS(padding.MGF1(hashed), hashed.digest_size)
        public.verify(signature, MESSAGE, pss if "PSS" in algorithm else padding.PKCS1v15(), hashed)


# -- signatures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "algorithm"), SIGNERS)
def test_signatures(bench: Bench, spec: KeySpec, algorithm: SigningAlgorithm) -> None:
    """Another library verifies the token's signatures, and so does the device; changed ones are refused."""
    data = to_sign(algorithm)
    signature = bench.sign(spec, algorithm, data)
    check(bench.public(spec), algorithm, signature)
    assert bench.verify(spec, algorithm, data, signature)
    for at in (0, len(signature) // 2, len(signature) - 1):
        changed = signature[:at] + bytes((signature[at] ^ 1,)) + signature[at + 1 :]
        assert not bench.verify(spec, algorithm, data, changed)
        with pytest.raises(InvalidSignature):
            check(bench.public(spec), algorithm, changed)
    other = bytes((data[0] ^ 1,)) + data[1:]
    for wrong in (signature[:-1], signature + b"\x00", b"", b"\x30\x00", bytes(len(signature))):
        assert not bench.verify(spec, algorithm, data, wrong)
    assert not bench.verify(spec, algorithm, other, signature)


def test_salt_is_as_long_as_the_hash(bench: Bench) -> None:
    """RSASSA-PSS has a salt of the hash's length, as at AWS; no other length verifies."""
    public = bench.public(KeySpec.RSA_2048)
    assert isinstance(public, RSAPublicKey)
    for name, hashed in HASHES.items():
        algorithm = S[f"RSASSA_PSS_SHA_{name}"]
        signature = bench.sign(KeySpec.RSA_2048, algorithm, to_sign(algorithm))
        public.verify(signature, MESSAGE, padding.PSS(padding.MGF1(hashed), hashed.digest_size), hashed)
        with pytest.raises(InvalidSignature):
            public.verify(signature, MESSAGE, padding.PSS(padding.MGF1(hashed), 20), hashed)


@pytest.mark.parametrize("spec", [KeySpec.ECC_NIST_P256, KeySpec.ECC_NIST_P521])
def test_ecdsa_signatures_are_der(bench: Bench, spec: KeySpec) -> None:
    """ECDSA signatures are minimal DER, also where r or s is short or begins with a one bit."""
    algorithm = S.ECDSA_SHA_256 if spec is KeySpec.ECC_NIST_P256 else S.ECDSA_SHA_512
    lengths = set()
    for _ in range(60):
        signature = bench.sign(spec, algorithm, to_sign(algorithm))
        assert encode_dss_signature(*decode_dss_signature(signature)) == signature
        lengths.add(len(signature))
    assert len(lengths) > 1


@pytest.mark.parametrize(
    "raw", [bytes(31) + b"\x01" + bytes(31) + b"\x02", b"\xff" * 64, bytes(31) + b"\x80" + b"\x7f" * 32]
)
def test_der_of_short_numbers(raw: bytes) -> None:
    """The token's r and s of equal length are encoded as another library encodes them."""
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    assert signing._ecdsa_der(raw) == encode_dss_signature(r, s)


@pytest.mark.parametrize(
    ("spec", "algorithm"),
    [
        (KeySpec.RSA_2048, S.RSASSA_PSS_SHA_256),
        (KeySpec.RSA_2048, S.RSASSA_PKCS1_V1_5_SHA_512),
        (KeySpec.ECC_NIST_EDWARDS25519, S.ED25519_SHA_512),
    ],
)
def test_verification_on_the_token(
    bench: Bench, spec: KeySpec, algorithm: SigningAlgorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row without ``verify`` verifies on the token with the public half, with the same results."""
    row = signing.SIGNINGS[algorithm]
    bare = msgspec.structs.replace(row, verify=None)
    monkeypatch.setattr(signing, "SIGNINGS", {**signing.SIGNINGS, algorithm: bare})
    data = to_sign(algorithm)
    signature = bench.sign(spec, algorithm, data)
    assert bench.verify(spec, algorithm, data, signature)
    assert not bench.verify(spec, algorithm, data, signature[:-1] + bytes((signature[-1] ^ 1,)))
    assert not bench.verify(spec, algorithm, data, signature[:-1])
    assert not bench.verify(spec, algorithm, bytes((data[0] ^ 1,)) + data[1:], signature)


def test_prehashed_ed25519_is_refused(bench: Bench) -> None:
    """SoftHSM always signs pure Ed25519: the known answer test detects it, and the algorithm is refused."""
    with bench.device.connection.pool.session() as session:
        assert signs_prehashed(session) is False
    with pytest.raises(UnsupportedOperationException, match="Use ED25519_SHA_512 with the message itself"):
        bench.device.pairs.check_signing(S.ED25519_PH_SHA_512)
    bench.device.pairs.check_signing(S.ED25519_SHA_512)


def test_the_known_answer_can_be_met(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe's test key is loaded on the token, and its own signature as the expected one is accepted."""
    seed = bytes.fromhex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42")
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    assert public.hex() == "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf"  # RFC 8032, 7.3
    pure = Ed25519PrivateKey.from_private_bytes(seed).sign(b"abc")
    monkeypatch.setattr("hsmkms.hsm.crypto.prehash._SIGNATURE", pure)
    with bench.device.connection.pool.session() as session:
        assert signs_prehashed(session) is True


# -- RSAES-OAEP -----------------------------------------------------------------------------------------------------

OAEP_HASHES: dict[EncryptionAlgorithm, hashes.HashAlgorithm] = {
    EncryptionAlgorithm.RSAES_OAEP_SHA_1: hashes.SHA1(),  # noqa: S303 - OAEP needs no collision resistance
    EncryptionAlgorithm.RSAES_OAEP_SHA_256: hashes.SHA256(),
}


def seal(public: object, plaintext: bytes, hashed: hashes.HashAlgorithm, label: bytes | None = None) -> bytes:
    """Encrypt with another library."""
    assert isinstance(public, RSAPublicKey)
    return public.encrypt(plaintext, padding.OAEP(padding.MGF1(hashed), hashed, label))


def raw(public: object, encoded: bytes) -> bytes:
    """Return the RSA block of an encoded message, valid or not."""
    assert isinstance(public, RSAPublicKey)
    numbers = public.public_numbers()
    return pow(int.from_bytes(encoded), numbers.e, numbers.n).to_bytes(256)


@pytest.mark.parametrize("algorithm", OAEP_HASHES)
def test_oaep(bench: Bench, algorithm: EncryptionAlgorithm) -> None:
    """The private half decrypts messages of every length from another library or the device."""
    public, hashed = bench.public(*RSA), OAEP_HASHES[algorithm]
    cka_id = bench.key(*RSA)
    for length in (0, 1, 32, 256 - 2 * hashed.digest_size - 2):
        plaintext = os.urandom(length)
        assert bench.open(seal(public, plaintext, hashed), algorithm) == plaintext
        made = bench.device.pairs.encrypt_oaep(permit(Operation.ENCRYPT, cka_id), cka_id, RSA[0], algorithm, plaintext)
        assert bench.open(made, algorithm) == plaintext


@pytest.mark.parametrize("algorithm", OAEP_HASHES)
def test_oaep_refusals_are_all_alike(bench: Bench, algorithm: EncryptionAlgorithm) -> None:
    """Every fault of a block has the same error and text: the padding is no oracle."""
    public, hashed = bench.public(*RSA), OAEP_HASHES[algorithm]
    assert isinstance(public, RSAPublicKey)
    (other,) = (each for each in OAEP_HASHES.values() if each is not hashed)
    good = seal(public, b"secret", hashed)
    wrong = {
        "changed": bytes((good[0] ^ 1,)) + good[1:],
        "another hash": seal(public, b"secret", other),
        "a label": seal(public, b"secret", hashed, b"label"),
        "another padding": public.encrypt(b"secret", padding.PKCS1v15()),
        "a leading octet that is not zero (Manger)": raw(public, b"\x01" + os.urandom(255)),
        "nothing right": raw(public, b"\x00" + os.urandom(255)),
        "zero": bytes(256),
        "one": bytes(255) + b"\x01",
        "the modulus": public.public_numbers().n.to_bytes(256),
        "too large": b"\xff" * 256,
        "too short": good[:-1],
        "too long": good + b"\x00",
    }
    said = set()
    for name, block in wrong.items():
        with pytest.raises(RejectedDataError) as caught:
            bench.open(block, algorithm)
        said.add((type(caught.value), str(caught.value)))
        assert bench.open(good, algorithm) == b"secret", name
    assert len(said) == 1


def test_oaep_without_a_separator(bench: Bench) -> None:
    """Padding without 0x01, or with other bytes before it, is refused as well."""
    public = bench.public(*RSA)
    for data in (bytes(191), bytes(100) + b"\x02\x01" + bytes(89), b"\x02" + bytes(190)):
        encoded = oaep_encoded(data)
        with pytest.raises(RejectedDataError):
            bench.open(raw(public, encoded), EncryptionAlgorithm.RSAES_OAEP_SHA_256)
    fine = oaep_encoded(bytes(100) + b"\x01" + b"m" * 90)
    assert bench.open(raw(public, fine), EncryptionAlgorithm.RSAES_OAEP_SHA_256) == b"m" * 90


def oaep_encoded(data: bytes) -> bytes:
    """Return EME-OAEP with SHA-256 around any data block (RFC 8017, section 7.1.1, steps 2.d to 2.i)."""
    block, seed = hashlib.sha256(b"").digest() + data, os.urandom(32)
    masked = xor(block, mgf1(seed, len(block)))
    return b"\x00" + xor(seed, mgf1(masked, 32)) + masked


def mgf1(seed: bytes, length: int) -> bytes:
    """Return MGF1 with SHA-256."""
    blocks = (hashlib.sha256(seed + n.to_bytes(4)).digest() for n in range(length // 32 + 1))
    return b"".join(blocks)[:length]


def xor(left: bytes, right: bytes) -> bytes:
    """Return the bytewise XOR."""
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def test_where_padding_is_removed(bench: Bench) -> None:
    """SoftHSM's own OAEP has SHA-1 only; the probe detects it, and SHA-256 uses raw RSA decryption."""
    assert bench.device.pairs._oaep_refusals() == {OAEP_SHA_1: None, OAEP_SHA_256: "answers CKR_ARGUMENTS_BAD"}
    assert set(oaep.OAEPS.values()) == {OAEP_SHA_1, OAEP_SHA_256}


def test_a_token_without_raw_rsa(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a token with neither, the error names what it lacks."""
    has = Connection.has
    monkeypatch.setattr(Connection, "has", lambda self, each: each is not Mechanism.RSA_X_509 and has(self, each))
    with pytest.raises(UnsupportedOperationException, match=r"SHA-256 answers CKR_ARGUMENTS_BAD, .* lacks CKM_RSA_X_5"):
        bench.open(bytes(256), EncryptionAlgorithm.RSAES_OAEP_SHA_256)


# -- key agreement --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", CURVES)
def test_key_agreement(bench: Bench, spec: KeySpec) -> None:
    """Both sides derive the same secret: the token with its private half, another library with its own key."""
    public = bench.public(spec, KeyUsage.KEY_AGREEMENT)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    theirs = ec.generate_private_key(public.curve)
    info = theirs.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    cka_id = bench.key(spec, KeyUsage.KEY_AGREEMENT)
    peer = bench.device.pairs.peer_key(spec, info)
    secret = bench.device.pairs.agree(permit(Operation.DERIVE_SHARED_SECRET, cka_id), cka_id, spec, peer)
    assert secret == theirs.exchange(ec.ECDH(), public)
    assert len(secret) == KEY_FACTS[spec].size


def test_secrets_keep_their_leading_zeros(bench: Bench) -> None:
    """A secret with leading zero octets has its full length."""
    bench.device.keys.check_kind((KeySpec.ECC_NIST_P256, KeyUsage.KEY_AGREEMENT))
    facts = KEY_FACTS[KeySpec.ECC_NIST_P256]
    assert facts.curve is not None
    number = 0x1234567890ABCDEF
    known = ec.derive_private_key(number, facts.curve)
    peers = (ec.derive_private_key(each, facts.curve) for each in range(1, 100_000))
    peer = next(each for each in peers if each.exchange(ec.ECDH(), known.public_key())[0] == 0)
    with bench.device.connection.pool.session() as session:
        ours = session.create_object(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.EC,
                Attribute.TOKEN: False,
                Attribute.DERIVE: True,
                Attribute.VALUE: number.to_bytes(32),
                **facts.parameters,
            }
        )
        secret = agree(session, handle_of(ours), facts, peer.public_key())
    assert secret[0] == 0
    assert secret == known.exchange(ec.ECDH(), peer.public_key())


def spki(public: object) -> bytes:
    """Encode as DER SubjectPublicKeyInfo."""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]


def test_unusable_peers(bench: Bench) -> None:
    """A peer's key must be a point on the key's own curve, in DER SubjectPublicKeyInfo without trailing data."""
    right = spki(ec.generate_private_key(ec.SECP256R1()).public_key())
    off_the_curve = right[:-1] + bytes((right[-1] ^ 1,))
    unusable = [
        b"",
        b"x",
        right[:-1],
        off_the_curve,
        spki(ec.generate_private_key(ec.SECP384R1()).public_key()),
        spki(ec.generate_private_key(ec.SECP256K1()).public_key()),
        spki(ec.generate_private_key(ec.BrainpoolP256R1()).public_key()),
        spki(Ed25519PrivateKey.generate().public_key()),
        spki(bench.public(*RSA)),
    ]
    for info in unusable:
        with pytest.raises(RejectedDataError):
            bench.device.pairs.peer_key(KeySpec.ECC_NIST_P256, info)
    assert spki(bench.device.pairs.peer_key(KeySpec.ECC_NIST_P256, right)) == right


# -- HMAC -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", MACS)
def test_hmac(bench: Bench, algorithm: MacAlgorithm) -> None:
    """An HMAC has its full length, is the same each time, and differs from key to key."""
    spec, length = MACS[algorithm]
    first, second = (bench.new(spec, KeyUsage.GENERATE_VERIFY_MAC) for _ in range(2))

    def mac(cka_id: bytes) -> bytes:
        return bench.device.pairs.generate_mac(permit(Operation.GENERATE_MAC, cka_id), cka_id, algorithm, MESSAGE)

    assert mac(first) == mac(first) != mac(second)
    assert len(mac(first)) == length
    found = bench.object(None, first)
    assert found is not None
    assert found[Attribute.VALUE_LEN] == length


@pytest.mark.parametrize("algorithm", MACS)
def test_hmac_is_that_of_the_standard(bench: Bench, algorithm: MacAlgorithm) -> None:
    """With a known key the token's HMAC equals that of another library."""
    bench.device.keys.check_kind((MACS[algorithm][0], KeyUsage.GENERATE_VERIFY_MAC))
    secret = os.urandom(64)
    with bench.device.connection.pool.session() as session:
        known = session.create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
                Attribute.TOKEN: False,
                Attribute.SIGN: True,
                Attribute.VALUE: secret,
            }
        )
        made = known.sign(MESSAGE, mechanism=mac_mechanisms.MACS[algorithm])  # type: ignore[attr-defined]
    assert made == hmac.digest(secret, MESSAGE, f"sha{algorithm.rsplit('_', 1)[1]}")


# -- what objects tell ----------------------------------------------------------------------------------------------

CHEAP = [kind for kind in kinds() if KEY_FACTS[kind[0]].key_type not in (KeyType.RSA, KeyType.ML_DSA, KeyType.ML_KEM)]


@pytest.mark.parametrize("kind", [*CHEAP, RSA], ids="-".join)
def test_kind_is_derived_from_the_objects(bench: Bench, kind: Kind) -> None:
    """Spec and usage of a key are derived from its objects alone, and it is attested as it was created."""
    cka_id = bench.key(*kind)
    assert bench.device.keys.identify(cka_id) == kind
    attributes, deviations = bench.device.keys.attest(cka_id, kind)
    public, of_public = bench.device.keys.attest_public(cka_id, kind)
    assert (deviations, of_public) == ([], [])
    assert attributes["CKA_EXTRACTABLE"] is False
    assert bool(public) == (KEY_FACTS[kind[0]].public is not None)


def test_foreign_objects_have_no_kind(bench: Bench) -> None:
    """An object that hsmkms would not create fits no kind; a missing one is ObjectLostError."""
    cka_id = os.urandom(16)
    with bench.device.connection.pool.session() as session:
        session.generate_keypair(KeyType.RSA, 1024, id=cka_id, store=True, capabilities=MechanismFlag.SIGN)
    assert bench.device.keys.identify(cka_id) is None
    with pytest.raises(ObjectLostError):
        bench.device.keys.identify(os.urandom(16))


@pytest.mark.parametrize(
    "kind",
    [(KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY), (KeySpec.ECC_NIST_P384, KeyUsage.KEY_AGREEMENT), RSA],
    ids="-".join,
)
def test_a_replaced_public_half_is_noticed(bench: Bench, kind: Kind) -> None:
    """A public half that does not belong to the private half is not returned, verified with, or encrypted to."""
    device, attacker, victim = bench.device, bench.key(*kind), bench.new(*kind)
    shown = permit(Operation.GET_PUBLIC_KEY, victim)
    before = device.pairs.public_key(shown, victim, kind)
    original, other = (bench.object(ObjectClass.PUBLIC_KEY, each) for each in (victim, attacker))
    assert original is not None
    assert other is not None
    copied = [Attribute.EC_PARAMS, Attribute.EC_POINT]
    if kind is RSA:
        copied = [Attribute.MODULUS, Attribute.PUBLIC_EXPONENT]
    attributes = {name: other[name] for name in (Attribute.KEY_TYPE, *copied)}
    original.destroy()
    with device.connection.pool.session() as session:
        session.create_object(
            {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.TOKEN: True, Attribute.ID: victim, **attributes}
        )
    assert device.pairs.public_key(shown, victim, kind) == before  # what this process has seen proven stays
    device.pairs._publics.clear()
    with pytest.raises(TokenError, match="it was replaced"):
        device.pairs.public_key(shown, victim, kind)
    _, deviations = device.keys.attest_public(victim, kind)
    assert "its halves do not belong together" in deviations


def test_destruction_takes_both_halves(bench: Bench) -> None:
    """Destroying a pair destroys both halves and no other object; a second time nothing is found."""
    gone, stays = (bench.new(KeySpec.ECC_NIST_P256) for _ in range(2))
    assert bench.device.keys.destroy(permit(OperatorAct.MAINTAIN, gone), gone)
    assert not bench.device.keys.destroy(permit(OperatorAct.MAINTAIN, gone), gone)
    for object_class in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        assert bench.object(object_class, gone) is None
        assert bench.object(object_class, stays) is not None
    assert bench.device.keys.holds(stays)
    assert not bench.device.keys.holds(gone)


def test_a_public_half_alone_is_destroyed_too(bench: Bench) -> None:
    """After a destruction that was interrupted between the halves, a second one completes it."""
    cka_id = bench.new(KeySpec.ECC_NIST_P256)
    private = bench.object(ObjectClass.PRIVATE_KEY, cka_id)
    assert private is not None
    private.destroy()
    assert not bench.device.keys.holds(cka_id)
    assert not bench.device.keys.destroy(permit(OperatorAct.MAINTAIN, cka_id), cka_id)
    assert bench.object(ObjectClass.PUBLIC_KEY, cka_id) is None


def test_a_missing_public_half(bench: Bench) -> None:
    """Without its public half a key is attested as incomplete, and no public key is returned for it."""
    kind = (KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
    cka_id = bench.new(*kind)
    public = bench.object(ObjectClass.PUBLIC_KEY, cka_id)
    assert public is not None
    public.destroy()
    assert bench.device.keys.attest_public(cka_id, kind) == ({}, [faults.NO_PUBLIC_HALF])
    with pytest.raises(ObjectLostError, match="public half"):
        bench.device.pairs.public_key(permit(Operation.GET_PUBLIC_KEY, cka_id), cka_id, kind)
    assert bench.device.keys.identify(cka_id) is None


def test_specs_that_the_token_lacks(bench: Bench) -> None:
    """A spec that the token cannot create is refused with a list of those that it can."""
    for spec in (KeySpec.ML_DSA_44, KeySpec.ML_DSA_87, KeySpec.ML_KEM_768):
        with pytest.raises(UnsupportedOperationException, match=f"no keys of KeySpec {spec} for SIGN_VERIFY: it has"):
            bench.device.keys.check_kind((spec, KeyUsage.SIGN_VERIFY))
    for kind in kinds():
        if KEY_FACTS[kind[0]].key_type not in (KeyType.ML_DSA, KeyType.ML_KEM):
            bench.device.keys.check_kind(kind)


@pytest.mark.parametrize(
    ("lacking", "kind", "instead"),
    [
        (Mechanism.ECDH1_DERIVE, (KeySpec.ECC_NIST_P256, KeyUsage.KEY_AGREEMENT), "ECC_NIST_P256"),
        (Mechanism.SHA384_HMAC, (KeySpec.HMAC_384, KeyUsage.GENERATE_VERIFY_MAC), "HMAC_512"),
        (Mechanism.EDDSA, (KeySpec.ECC_NIST_EDWARDS25519, KeyUsage.SIGN_VERIFY), "ECC_SECG_P256K1"),
    ],
)
def test_keys_that_could_not_be_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lacking: Mechanism, kind: Kind, instead: str
) -> None:
    """A key that the token could create but not use is refused before it is created."""
    has = Connection.has
    monkeypatch.setattr(Connection, "has", lambda self, each: each is not lacking and has(self, each))
    with pytest.raises(UnsupportedOperationException, match=f"for {kind[1]}: it has keys of .*{instead}"):
        bench.device.keys.check_kind(kind)
