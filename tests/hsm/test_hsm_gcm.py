"""AES-GCM on the token: NIST's test vectors, and refusal of everything that was changed."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from devices import new_key, permit, require_gcm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import GeneralError, PKCS11Error
from pkcs11.mechanisms import KeyType
from pkcs11.types import Session

from hsmkms.errors import ObjectLostError, RejectedDataError
from hsmkms.hsm.crypto.decrypt_faults import explain_refusal
from hsmkms.hsm.crypto.gcm import open_sealed, seal
from hsmkms.hsm.crypto.gcm_from_blocks import expected_gcm
from hsmkms.hsm.crypto.token_iv import IvOrigin
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.objects import handle_of
from hsmkms.model.cipher_format import LAYOUTS
from hsmkms.model.enums import Operation

VECTORS = Path(cryptography_vectors.__file__).parent / "ciphers" / "AES" / "GCM"
"""NIST CAVP, gcmtestvectors.zip of 2012 (GCMVS), as cryptography_vectors ships it."""

Vector = dict[str, bytes]


def vectors(name: str) -> dict[tuple[int, int], list[Vector]]:
    """Return the vectors of a file with 96-bit IV and 128-bit tag, by bits of plaintext and of AAD.

    Numbers are bytes here; FAIL, which stands instead of a plaintext, leaves PT out.
    """
    sizes: dict[str, int] = {}
    found: dict[tuple[int, int], list[Vector]] = defaultdict(list)
    for line in (VECTORS / name).read_text().splitlines():
        member, _, value = (part.strip() for part in line.strip("[]").partition("="))
        wanted = (sizes.get("IVlen"), sizes.get("Taglen")) == (96, 128)
        if line.startswith("["):
            sizes[member] = int(value)
        elif member == "Count" and wanted:
            found[sizes["PTlen"], sizes["AADlen"]].append({})
        elif member in {"Key", "IV", "PT", "AAD", "CT", "Tag"} and wanted:
            found[sizes["PTlen"], sizes["AADlen"]][-1][member] = bytes.fromhex(value)
    return found


ENCRYPTIONS = vectors("gcmEncryptExtIV256.rsp")
DECRYPTIONS = vectors("gcmDecrypt256.rsp")


def load(session: Session, key: bytes) -> int:
    """Load a known key as a session object of this test; return its handle."""
    made = session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.TOKEN: False,
            Attribute.ENCRYPT: True,
            Attribute.DECRYPT: True,
            Attribute.VALUE: key,
        }
    )
    return handle_of(made)


@pytest.fixture
def gcm(device: TokenDevice) -> None:
    """Skip tests that call AES-GCM directly on modules without it."""
    require_gcm(device)


def test_vectors_are_all_there() -> None:
    """The files hold five sizes of plaintext times five of AAD, fifteen vectors each; some decryptions must fail."""
    for file in (ENCRYPTIONS, DECRYPTIONS):
        assert [len(each) for each in file.values()] == [15] * 25
    refused = [each for group in DECRYPTIONS.values() for each in group if "PT" not in each]
    assert 100 < len(refused) < 275


@pytest.mark.usefixtures("gcm")
@pytest.mark.parametrize("sizes", ENCRYPTIONS, ids=str)
def test_nist_encryptions(session: Session, sizes: tuple[int, int]) -> None:
    """The token's ciphertext and tag equal NIST's, and decrypt to NIST's plaintext."""
    for vector in ENCRYPTIONS[sizes]:
        handle = load(session, vector["Key"])
        sealed = seal(session, handle, vector["IV"], vector["PT"], vector["AAD"])
        assert sealed == vector["CT"] + vector["Tag"]
        assert open_sealed(session, handle, vector["IV"], sealed, vector["AAD"]) == vector["PT"]


@pytest.mark.usefixtures("gcm")
@pytest.mark.parametrize("sizes", DECRYPTIONS, ids=str)
def test_nist_decryptions(session: Session, sizes: tuple[int, int]) -> None:
    """Vectors that must fail are refused as bad data; the others decrypt."""
    for vector in DECRYPTIONS[sizes]:
        handle = load(session, vector["Key"])
        body = vector["CT"] + vector["Tag"]
        if "PT" in vector:
            assert open_sealed(session, handle, vector["IV"], body, vector["AAD"]) == vector["PT"]
            continue
        with pytest.raises(PKCS11Error) as caught:
            open_sealed(session, handle, vector["IV"], body, vector["AAD"])
        assert isinstance(explain_refusal(caught.value, session, handle, IvOrigin.CALLER), RejectedDataError)


@given(key=st.binary(min_size=32, max_size=32), iv=st.binary(min_size=12, max_size=12), plaintext=st.binary(), aad=...)
def test_expected_answer(key: bytes, iv: bytes, plaintext: bytes, aad: bytes) -> None:
    """The computation that the probe compares with has the same results as another library."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update  # noqa: S305 - single blocks
    assert expected_gcm(block, iv, plaintext, aad) == AESGCM(key).encrypt(iv, plaintext, aad)


@pytest.fixture(scope="module")
def known_key() -> bytes:
    """Return the bytes of an AES key."""
    return os.urandom(32)


@pytest.mark.usefixtures("gcm")
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4095, 4096])
def test_sizes(session: Session, known_key: bytes, size: int) -> None:
    """From 0 to 4,096 bytes, with and without AAD, the token has the same results as another library."""
    handle = load(session, known_key)
    for aad in (b"", os.urandom(20), os.urandom(9000)):
        iv, plaintext = os.urandom(12), os.urandom(size)
        sealed = seal(session, handle, iv, plaintext, aad)
        assert sealed == AESGCM(known_key).encrypt(iv, plaintext, aad)
        assert open_sealed(session, handle, iv, sealed, aad) == plaintext


# -- through the device ---------------------------------------------------------------------------------------------


def flips(data: bytes) -> Iterator[bytes]:
    """Yield ``data`` with each of its bits changed in turn."""
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def assert_refused(device: TokenDevice, key: bytes, iv: bytes, body: bytes, aad: bytes) -> None:
    """Assert that Decrypt refuses this as bad data, with the same sentence for all faults."""
    with pytest.raises(RejectedDataError) as caught:
        device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, aad)
    assert str(caught.value) == "the token refused the data"


def test_every_bit_counts(device: TokenDevice) -> None:
    """A change of any one bit of IV, ciphertext, tag or AAD is refused."""
    key, aad = new_key(device), b"a=b"
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"abc", aad)
    layout = LAYOUTS[device.profile.cipher_format]
    assert (len(iv), len(body)) == (layout.iv, max(3, layout.block) + layout.tag)
    for changed in flips(iv):
        assert_refused(device, key, changed, body, aad)
    for changed in flips(body):
        assert_refused(device, key, iv, changed, aad)
    for changed in flips(aad):
        assert_refused(device, key, iv, body, changed)
    assert device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, aad) == b"abc"


def test_wrong_lengths(device: TokenDevice) -> None:
    """Bodies and AAD that were cut or lengthened are refused, down to nothing, and cost no session."""
    key, aad = new_key(device), b"context"
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"a plaintext of 24 bytes.", aad)
    opened = device.connection.pool._opened
    for length in range(len(body)):
        assert_refused(device, key, iv, body[:length], aad)
    for changed in (body + b"\0", body[1:], body[-16:], bytes(16), bytes(5000)):
        assert_refused(device, key, iv, changed, aad)
    for changed in (b"", aad[:-1], aad + b"\0", aad * 1000):
        assert_refused(device, key, iv, body, changed)
    assert device.connection.pool._opened == opened == 1


def test_another_key(device: TokenDevice) -> None:
    """A ciphertext is refused by another key."""
    first, second = new_key(device), new_key(device)
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, first), first, b"mine", b"")
    assert_refused(device, second, iv, body, b"")
    assert device.ciphers.decrypt(permit(Operation.DECRYPT, first), first, iv, body, b"") == b"mine"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plaintext=st.binary(min_size=1, max_size=4096), aad=st.binary(max_size=300))
def test_round_trip(device: TokenDevice, plaintext: bytes, aad: bytes) -> None:
    """Every plaintext decrypts with the same AAD, and two encryptions of one plaintext differ."""
    key = new_key(device)
    leave = permit(Operation.ENCRYPT, key)
    first, second = (device.ciphers.encrypt(leave, key, plaintext, aad) for _ in range(2))
    assert first[0] != second[0]
    assert first[1] != second[1]
    for iv, body in (first, second):
        assert device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, aad) == plaintext


def test_largest_plaintext(device: TokenDevice) -> None:
    """4,096 bytes, the limit of Encrypt, are encrypted and decrypted."""
    key, plaintext = new_key(device), os.urandom(4096)
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, plaintext, b"")
    layout = LAYOUTS[device.profile.cipher_format]
    assert len(body) == 4096 + (layout.block if layout.block > 1 else 0) + layout.tag
    assert device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, b"") == plaintext


@pytest.mark.usefixtures("gcm")
def test_trouble_of_the_token_is_no_bad_data(device: TokenDevice, session: Session) -> None:
    """CKR_GENERAL_ERROR counts as bad data only if the key still works; else it is a device fault."""
    good = load(session, os.urandom(32))
    assert isinstance(explain_refusal(GeneralError(), session, good, IvOrigin.CALLER), RejectedDataError)
    assert isinstance(explain_refusal(GeneralError(), session, 123456, IvOrigin.CALLER), ObjectLostError)
    assert device.keys.holds(new_key(device))
