"""Unwrapping of imported key material on the token, and every fault that it may have."""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import wrapped
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from devices import MakeToken, Token, new_key, permit
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pkcs11.types import Session

from hsmkms.errors import (
    HsmKmsError,
    ObjectLostError,
    RejectedDataError,
    RejectedMaterialError,
    SessionLostError,
    TokenError,
    TokenUnavailableError,
    UnsupportedOperationException,
)
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.imports import unwrapping, wrapping
from hsmkms.hsm.imports.unwrapping import CANNOT_OPEN, WRONG_LENGTH, WrappedMaterial
from hsmkms.model.enums import Operation, WrappingAlgorithm
from hsmkms.model.permit import OperatorAct, Permit

pytestmark = pytest.mark.usefixtures("one_trial_of_imports")

OAEP_1, KEY_WRAP_1 = WrappingAlgorithm.RSAES_OAEP_SHA_1, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1
OAEP_256, KEY_WRAP_256 = WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256
ON_DEVICE = (OAEP_1, KEY_WRAP_1)
EVERY_ALGORITHM = (OAEP_1, KEY_WRAP_1, OAEP_256, KEY_WRAP_256)
WRONG_LENGTHS = (0, 1, 5, 16, 24, 31, 33, 40, 48, 64)
MAX_BYTES = 6144
"""The most that EncryptedKeyMaterial may have."""

IMPORTED_KEY = {
    "CKA_CLASS": "CKO_SECRET_KEY",
    "CKA_KEY_TYPE": "CKK_AES",
    "CKA_VALUE_LEN": 0,
    "CKA_TOKEN": True,
    "CKA_PRIVATE": True,
    "CKA_SENSITIVE": True,
    "CKA_ALWAYS_SENSITIVE": False,
    "CKA_EXTRACTABLE": False,
    "CKA_NEVER_EXTRACTABLE": False,
    "CKA_MODIFIABLE": False,
    "CKA_COPYABLE": False,
    "CKA_DESTROYABLE": True,
    "CKA_LOCAL": False,
    "CKA_KEY_GEN_MECHANISM": None,
    "CKA_ENCRYPT": True,
    "CKA_DECRYPT": True,
    "CKA_SIGN": False,
    "CKA_VERIFY": False,
    "CKA_WRAP": False,
    "CKA_UNWRAP": False,
    "CKA_DERIVE": False,
}
"""Typed by hand from design decision 4 and PKCS #11 2.40, section 5.13; SoftHSM reports no length."""


class Bench:
    """A device with a wrapping key, and helpers to import with it."""

    def __init__(self, device: TokenDevice, bits: int = 2048) -> None:
        self.device = device
        self.witness = new_key(device)
        self.key, self.public_key = self.new_wrapping_key(bits)

    def new_wrapping_key(self, bits: int = 2048) -> tuple[bytes, bytes]:
        """Create another wrapping key; return its CKA_ID and its public half."""
        key = os.urandom(16)
        shown = permit(Operation.GET_PARAMETERS_FOR_IMPORT, key)
        return key, self.device.imports.generate_wrapping_key(shown, key, "a wrapping key", bits)

    def material(self, algorithm: WrappingAlgorithm, ciphertext: bytes) -> WrappedMaterial:
        """Return wrapped material to import."""
        return WrappedMaterial(self.key, algorithm, ciphertext)

    def wrap(self, algorithm: WrappingAlgorithm, secret: bytes, **settings: int) -> WrappedMaterial:
        """Return the same for correctly wrapped material."""
        return self.material(algorithm, wrapped.wrap(self.public_key, algorithm, secret, **settings))

    def may(self, *cka_ids: bytes) -> Permit:
        """Return a permit for an import that creates these objects."""
        return permit(Operation.IMPORT_KEY_MATERIAL, self.key, *cka_ids)

    def fingerprints(self, material: WrappedMaterial, key_id: str = "key id") -> dict[str, bytes]:
        """Return the fingerprints of material."""
        return self.device.imports.fingerprints(self.may(material.wrapping_key), material, key_id)

    def bring(self, material: WrappedMaterial, label: str = "imported") -> bytes:
        """Import material; return the CKA_ID of the backing key."""
        new = os.urandom(16)
        self.device.imports.unwrap_backing_key(self.may(new, material.wrapping_key), material, new, label)
        return new

    def objects(self) -> int:
        """Count the objects that a session sees, of the token and of sessions."""
        with self.device.connection.pool.session() as session:
            return len(list(session.get_objects({})))

    def assert_refused(self, material: WrappedMaterial, kind: type[HsmKmsError], sentence: str) -> None:
        """Assert that both procedures refuse the material with this error, and that neither leaves an object behind."""
        before = self.objects()
        for act in (self.fingerprints, self.bring):
            with pytest.raises(kind) as caught:
                act(material)
            assert type(caught.value) is kind
            assert str(caught.value) == sentence
        assert self.objects() == before


@pytest.fixture
def bench(device: TokenDevice) -> Bench:
    """Return a fresh token with a wrapping key."""
    return Bench(device)


@pytest.fixture
def host_bench(token: Token) -> Iterator[Bench]:
    """Return the same with ``host_unwrap``."""
    device = token.open(host_unwrap=True)
    yield Bench(device)
    device.close()


def opens(bench: Bench, key: bytes, secret: bytes) -> bool:
    """Return True if the material decrypts, without a token, what the device encrypts under ``key``."""
    iv, body = bench.device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"plaintext", b"aad")
    return AESGCM(secret).decrypt(iv, body, b"aad") == b"plaintext"


# -- what is right --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_material_is_imported(device: TokenDevice, bits: int) -> None:
    """Material wrapped elsewhere becomes the key that encrypts on the token; no copy stays."""
    bench = Bench(device, bits)
    for algorithm in ON_DEVICE:
        secret, before = os.urandom(32), bench.objects()
        material = bench.wrap(algorithm, secret)
        assert bench.fingerprints(material) == wrapped.expected_fingerprints(secret, "key id")
        assert bench.objects() == before
        key = bench.bring(material)
        assert bench.objects() == before + 1
        assert opens(bench, key, secret)
        assert {each.cka_id for each in device.keys.inventory(bench.witness)} >= {key, bench.key, bench.witness}


def test_attributes_of_an_imported_key(bench: Bench) -> None:
    """An imported key reports the attributes of design decision 4, and that it was not generated on the token."""
    key = bench.bring(bench.wrap(OAEP_1, os.urandom(32)), "a label")
    attributes, deviations = bench.device.keys.attest(key, imported=True)
    assert attributes == IMPORTED_KEY | {"CKA_ID": key.hex(), "CKA_LABEL": "a label"}
    assert deviations == []


def test_imported_and_generated_are_not_confused(bench: Bench) -> None:
    """Attesting an imported key as a generated one names each attribute that differs, and the other way round."""
    key = bench.bring(bench.wrap(OAEP_1, os.urandom(32)))
    _, deviations = bench.device.keys.attest(key)
    honest = ["LOCAL", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE"]
    assert deviations == [
        "CKA_VALUE_LEN is 0 instead of 32",
        *(f"CKA_{name} is False instead of True" for name in honest),
    ]
    _, deviations = bench.device.keys.attest(bench.witness, imported=True)
    assert deviations == [f"CKA_{name} is True instead of False" for name in honest]


def test_fingerprints(bench: Bench, make_token: MakeToken) -> None:
    """Fingerprints depend on material and key id alone: not on wrapping key, algorithm, encryption or token."""
    secret = os.urandom(32)
    fingerprints = bench.fingerprints(bench.wrap(OAEP_1, secret))
    assert list(fingerprints) == ["AES_CMAC", "SHA256_HMAC"]
    assert bench.fingerprints(bench.wrap(KEY_WRAP_1, secret)) == fingerprints
    assert bench.fingerprints(bench.wrap(OAEP_1, os.urandom(32))) != fingerprints
    assert bench.fingerprints(bench.wrap(OAEP_1, secret), "another") != fingerprints
    bench.device.close()
    other = Bench(make_token().open())
    assert other.fingerprints(other.wrap(OAEP_1, secret)) == fingerprints


def test_fingerprints_reveal_nothing(bench: Bench) -> None:
    """No fingerprint is AES of a zero block, which is what authenticates AES-GCM, nor of any other single block."""
    secret = bytes(32)
    fingerprints = bench.fingerprints(bench.wrap(OAEP_1, secret), "")
    zero = wrapped.key_wrap(secret, b"")  # AES of one block, of RFC 5649
    assert fingerprints["AES_CMAC"] not in {bytes.fromhex("dc95c078a2408989ad48a21492842087"), zero}
    assert len(unwrapping.FINGERPRINT_LABEL) > 16


def test_import_again(bench: Bench) -> None:
    """The same material can be imported again, with the same ciphertext and with another, into objects of their own."""
    secret = os.urandom(32)
    material = bench.wrap(OAEP_1, secret)
    keys = [bench.bring(material), bench.bring(material), bench.bring(bench.wrap(KEY_WRAP_1, secret))]
    assert all(opens(bench, key, secret) for key in keys)
    assert bench.device.keys.destroy(permit(OperatorAct.MAINTAIN, keys[0]), keys[0])
    assert opens(bench, keys[1], secret)


def test_imported_key_is_found_again(bench: Bench, token: Token) -> None:
    """After the wrapping key was destroyed and the device closed, the imported key still works."""
    secret = os.urandom(32)
    key = bench.bring(bench.wrap(KEY_WRAP_1, secret))
    bench.device.imports.destroy_wrapping_key(permit(OperatorAct.MAINTAIN, bench.key), bench.key)
    bench.device.close()
    bench.device = token.open()
    assert opens(bench, key, secret)


# -- what is wrong --------------------------------------------------------------------------------------------------


def test_wrong_lengths(bench: Bench) -> None:
    """Material of any length other than 32 bytes is refused as such, with every algorithm."""
    assert WRONG_LENGTH == "the key material must have exactly 32 bytes"
    for length, algorithm in itertools.product(WRONG_LENGTHS, ON_DEVICE):
        if length == 0 and algorithm is KEY_WRAP_1:
            continue  # AES-KWP of nothing is not defined: see test_key_wrap_of_nothing
        bench.assert_refused(bench.wrap(algorithm, os.urandom(length)), RejectedMaterialError, WRONG_LENGTH)


def test_lengths_by_the_thousand(bench: Bench) -> None:
    """AES-KWP can wrap any length; lengths far from 32 are refused as wrong lengths as well."""
    for length in (100, 128, 1000, 4096, MAX_BYTES - 256 - 8):
        bench.assert_refused(bench.wrap(KEY_WRAP_1, os.urandom(length)), RejectedMaterialError, WRONG_LENGTH)


def test_key_wrap_of_nothing(bench: Bench) -> None:
    """AES-KWP of no bytes is refused as damaged."""
    bench.assert_refused(bench.wrap(KEY_WRAP_1, b""), RejectedDataError, CANNOT_OPEN)


def test_wrapping_aes_key_of_another_length(bench: Bench) -> None:
    """The AES key of RSA_AES_KEY_WRAP must have 256 bits; any other length counts as damaged data."""
    for length in (0, 16, 24, 31, 33, 48):
        key = os.urandom(32)
        block = wrapped.oaep(bench.public_key, KEY_WRAP_1, key[:length].ljust(length, b"\0"))
        aes_key = key[:length] if length in {16, 24} else key
        ciphertext = block + wrapped.key_wrap(aes_key, os.urandom(32))
        bench.assert_refused(bench.material(KEY_WRAP_1, ciphertext), RejectedDataError, CANNOT_OPEN)


def malformed(bench: Bench, algorithm: WrappingAlgorithm, foreign: bytes) -> dict[str, bytes]:
    """Return invalid ciphertexts by their fault. ``foreign``: public half of another key."""
    good = wrapped.wrap(bench.public_key, algorithm, os.urandom(32))
    block, rest = good[:256], good[256:]
    modulus = wrapped.load(bench.public_key).public_numbers().n
    ciphertexts = {
        "nothing": b"",
        "one byte": b"\0",
        "one byte less": good[:-1],
        "one byte more": good + b"\0",
        "eight bytes more": good + bytes(8),
        "the first byte missing": good[1:],
        "a zero before it": b"\0" + good,
        "twice": good + good,
        "zeros": bytes(len(good)),
        "ones": b"\xff" * len(good),
        "the modulus": modulus.to_bytes(256) + rest,
        "the modulus less one": (modulus - 1).to_bytes(256) + rest,
        "the number one": (1).to_bytes(256) + rest,
        "random": os.urandom(len(good)),
        "random block": os.urandom(256) + rest,
        "a foreign wrapping key": wrapped.wrap(foreign, algorithm, os.urandom(32)),
        "the most that there may be": os.urandom(MAX_BYTES),
    }
    ciphertexts |= {f"bit flipped in byte {at}": flipped(good, at) for at in (0, 1, 128, 254, 255, len(good) - 1)}
    if rest:
        ciphertexts |= {
            "no second part": block,
            "random second part": block + os.urandom(len(rest)),
            "second part of another": block + wrapped.wrap(bench.public_key, algorithm, os.urandom(32))[256:],
        }
        ciphertexts |= {
            f"second part of {length} bytes": block + os.urandom(length) for length in (1, 7, 8, 15, 16, 24, 41)
        }
        ciphertexts |= {
            f"bit flipped in second part, byte {at}": flipped(good, 256 + at) for at in range(0, len(rest), 5)
        }
    return ciphertexts


def flipped(data: bytes, at: int) -> bytes:
    """Return the data with one bit changed."""
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def test_malformed(bench: Bench) -> None:
    """Every fault of a ciphertext has the same error, and leaves no object on the token."""
    _, foreign = bench.new_wrapping_key()
    for algorithm in ON_DEVICE:
        for ciphertext in malformed(bench, algorithm, foreign).values():
            bench.assert_refused(bench.material(algorithm, ciphertext), RejectedDataError, CANNOT_OPEN)
        assert opens(bench, bench.bring(bench.wrap(algorithm, bytes(32))), bytes(32))


def test_malformed_through_the_host(host_bench: Bench) -> None:
    """The same with ``host_unwrap``."""
    _, foreign = host_bench.new_wrapping_key()
    for algorithm in EVERY_ALGORITHM:
        for ciphertext in malformed(host_bench, algorithm, foreign).values():
            host_bench.assert_refused(host_bench.material(algorithm, ciphertext), RejectedDataError, CANNOT_OPEN)


def test_algorithms_are_not_confused(host_bench: Bench) -> None:
    """Material that is wrapped by one algorithm cannot be unwrapped by another."""
    for right in EVERY_ALGORITHM:
        ciphertext = host_bench.wrap(right, os.urandom(32)).ciphertext
        for wrong in set(EVERY_ALGORITHM) - {right}:
            host_bench.assert_refused(host_bench.material(wrong, ciphertext), RejectedDataError, CANNOT_OPEN)


def test_oaep_with_a_label(bench: Bench) -> None:
    """OAEP with a label, or with another hash in MGF1, cannot be unwrapped."""
    hashes = {each: wrapped.HASHES[each] for each in (OAEP_1, OAEP_256)}
    public = wrapped.load(bench.public_key)
    for padding in (
        OAEP(MGF1(hashes[OAEP_1]), hashes[OAEP_1], b"label"),
        OAEP(MGF1(hashes[OAEP_256]), hashes[OAEP_1], None),
        OAEP(MGF1(hashes[OAEP_1]), hashes[OAEP_256], None),
    ):
        bench.assert_refused(bench.material(OAEP_1, public.encrypt(bytes(32), padding)), RejectedDataError, CANNOT_OPEN)


def test_algorithm_that_is_not_done(bench: Bench) -> None:
    """An algorithm that this token, or any token, does not support is refused with a list of those that it supports."""
    can = "it can do RSAES_OAEP_SHA_1, RSA_AES_KEY_WRAP_SHA_1"
    for algorithm in (WrappingAlgorithm.RSAES_PKCS1_V1_5, OAEP_256, KEY_WRAP_256):
        sentence = f"this token cannot unwrap {algorithm}: {can}"
        bench.assert_refused(bench.material(algorithm, bytes(256)), UnsupportedOperationException, sentence)


def test_wrapping_key_that_is_gone(bench: Bench) -> None:
    """Without its wrapping key nothing is unwrapped; a secret key is no wrapping key."""
    material = bench.wrap(OAEP_1, os.urandom(32))
    sentence = "the wrapping key is not on the token now: get new parameters with GetParametersForImport"
    secret_key = WrappedMaterial(bench.witness, OAEP_1, material.ciphertext)
    bench.assert_refused(secret_key, ObjectLostError, sentence)
    bench.device.imports.destroy_wrapping_key(permit(OperatorAct.MAINTAIN, bench.key), bench.key)
    bench.assert_refused(material, ObjectLostError, sentence)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    algorithm=st.sampled_from(EVERY_ALGORITHM),
    ciphertext=st.binary(max_size=600) | st.integers(0, MAX_BYTES).map(os.urandom),
    behind_a_good_block=st.booleans(),
)
@example(algorithm=KEY_WRAP_1, ciphertext=b"", behind_a_good_block=True)
@example(algorithm=OAEP_1, ciphertext=bytes(MAX_BYTES), behind_a_good_block=False)
def test_garbage(
    host_bench: Bench,
    algorithm: WrappingAlgorithm,
    ciphertext: bytes,
    behind_a_good_block: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    """Random data causes only the two errors, and the device works afterwards."""
    if behind_a_good_block and algorithm in wrapped.KEY_WRAP:
        ciphertext = wrapped.oaep(host_bench.public_key, algorithm, os.urandom(32)) + ciphertext
    with pytest.raises((RejectedDataError, RejectedMaterialError)):
        host_bench.fingerprints(host_bench.material(algorithm, ciphertext))


def test_refusals_leave_nothing(host_bench: Bench) -> None:
    """After hundreds of refusals there are as many objects as before, in every session."""
    before = host_bench.objects()
    for algorithm in EVERY_ALGORITHM:
        materials = [host_bench.wrap(algorithm, os.urandom(31)), host_bench.material(algorithm, os.urandom(296))]
        for material in materials * 25:
            with pytest.raises((RejectedDataError, RejectedMaterialError)):
                host_bench.bring(material)
    assert host_bench.objects() == before
    assert host_bench.device.connection.pool._opened == 1


# -- a device in trouble --------------------------------------------------------------------------------------------


def test_trouble_is_not_bad_data(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a valid sample cannot be unwrapped either, the error is a device fault, not bad data."""
    monkeypatch.setattr(unwrapping, "wrap", lambda *_: os.urandom(256))
    before = bench.objects()
    with pytest.raises(TokenUnavailableError):
        bench.fingerprints(bench.material(OAEP_1, os.urandom(256)))
    monkeypatch.setattr(unwrapping, "wrap", lambda *_: wrapped.wrap(bench.public_key, OAEP_1, bytes(31)))
    with pytest.raises(TokenError, match="refuses to unwrap what is right"):
        bench.fingerprints(bench.material(OAEP_1, os.urandom(256)))
    assert bench.objects() == before


def test_key_that_dies_in_between(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapping key destroyed during its use is reported as missing, not as a lost session: the login is kept."""
    shown = permit(OperatorAct.MAINTAIN, bench.key)
    original = wrapping.public_half

    def destroyed(half: Any) -> rsa.RSAPublicKey:  # noqa: ANN401 - python-pkcs11's objects
        public_key = original(half)
        half.destroy()
        return public_key

    monkeypatch.setattr(unwrapping, "public_half", destroyed)
    with pytest.raises(ObjectLostError, match="the wrapping key is not on the token now"):
        bench.fingerprints(bench.wrap(OAEP_1, os.urandom(32)))
    assert not bench.device.imports.destroy_wrapping_key(shown, bench.key)


def test_loss_between_two_steps(
    bench: Bench, lose: Callable[[TokenDevice], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fingerprints are repeated if the login is lost meanwhile; an import is not, and leaves no object."""
    losses: list[object] = []
    proven = unwrapping.Copies.sign

    def lost_once(*arguments: Any) -> bytes:  # noqa: ANN401 - what sign takes
        if not losses:
            losses.append(arguments)
            lose(bench.device)
        return proven(*arguments)

    secret = os.urandom(32)
    material, before = bench.wrap(KEY_WRAP_1, secret), bench.objects()
    monkeypatch.setattr(unwrapping.Copies, "sign", lost_once)
    assert bench.fingerprints(material) == wrapped.expected_fingerprints(secret, "key id")
    assert len(losses) == 1
    prove_length = unwrapping.Unwrapping.proven

    def lost(*arguments: Any) -> Any:  # noqa: ANN401 - what the proof of a length takes and returns
        lose(bench.device)
        return prove_length(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(unwrapping.Unwrapping, "proven", lost)
        with pytest.raises(SessionLostError):
            bench.bring(material)
    bench.device.connection.ready()
    assert bench.objects() == before
    assert opens(bench, bench.bring(material), secret)


def test_copy_that_cannot_be_destroyed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a session copy cannot be destroyed its session is closed, and the copy with it."""
    given_up: list[Session] = []
    discard = bench.device.connection.pool.discard

    def give_up(session: Session) -> None:
        given_up.append(session)
        discard(session)

    def twice(made: Any) -> None:  # noqa: ANN401 - python-pkcs11's objects
        if not given_up:
            made.destroy()
        original(made)

    original = unwrapping.discard
    monkeypatch.setattr(bench.device.connection.pool, "discard", give_up)
    monkeypatch.setattr(unwrapping, "discard", twice)
    assert bench.fingerprints(bench.wrap(OAEP_1, bytes(32)))
    assert len(given_up) == 1


# -- host_unwrap ----------------------------------------------------------------------------------------------------


def test_host_unwrap_gives_the_same(host_bench: Bench) -> None:
    """With ``host_unwrap`` material, fingerprints and attributes are the same as on the device."""
    secret = os.urandom(32)
    for algorithm in EVERY_ALGORITHM:
        material = host_bench.wrap(algorithm, secret)
        assert host_bench.fingerprints(material) == wrapped.expected_fingerprints(secret, "key id")
        before = host_bench.objects()
        key = host_bench.bring(material)
        assert host_bench.objects() == before + 1
        assert opens(host_bench, key, secret)
        assert host_bench.device.keys.attest(key, imported=True)[1] == []


def test_wrong_lengths_through_the_host(host_bench: Bench) -> None:
    """Lengths are proven on the device with ``host_unwrap`` as well."""
    for length in WRONG_LENGTHS:
        host_bench.assert_refused(host_bench.wrap(OAEP_256, os.urandom(length)), RejectedMaterialError, WRONG_LENGTH)
        if length:
            host_bench.assert_refused(
                host_bench.wrap(KEY_WRAP_256, os.urandom(length)), RejectedMaterialError, WRONG_LENGTH
            )
