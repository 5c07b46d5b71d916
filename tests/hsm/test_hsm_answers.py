"""Responses of a failing or faulty token: none becomes a result, and a device fault is not reported as bad data."""

import os
from pathlib import Path

import pytest
from devices import MakeToken, SoftHsm, new_key, permit
from pkcs11.constants import MechanismFlag
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session
from shims import Played
from test_hsm_unwrapping import OAEP_1, Bench

from hsmkms.errors import ObjectLostError, RejectedDataError, TokenError, TokenUnavailableError
from hsmkms.hsm.calls import operations
from hsmkms.hsm.calls.declarations import ffi
from hsmkms.hsm.calls.mechanisms import mechanism
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.objects import handle_of
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, KeyUsage, MacAlgorithm, Operation, SigningAlgorithm

TROUBLE = ("0x5", "0x6", "0x30")
"""CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED and CKR_DEVICE_ERROR: of the data on some tokens, of the device on all."""


@pytest.fixture
def played(make_token: MakeToken, shim_path: Path) -> Played:
    """Return a fresh token behind the shim, which has no orders yet."""
    return Played.of(make_token(), shim_path)


@pytest.fixture
def token(played: Played) -> SoftHsm:
    """Return the same token."""
    return played.token


def new_object(device: TokenDevice, spec: KeySpec, usage: KeyUsage) -> bytes:
    """Create a backing key of a kind; return its CKA_ID."""
    cka_id = os.urandom(16)
    device.keys.generate_backing_key(permit(Operation.CREATE_KEY, cka_id), cka_id, "answers", (spec, usage))
    return cka_id


@pytest.mark.parametrize("code", TROUBLE)
def test_trouble_is_not_bad_data(device: TokenDevice, played: Played, code: str) -> None:
    """A valid ciphertext decrypts although the token fails once; a changed one is still refused."""
    key = new_key(device)
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"plaintext", b"aad")
    played.order(f"fault C_Decrypt 1 return {code} after")
    assert device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, b"aad") == b"plaintext"
    played.order(f"fault C_Decrypt 1 return {code} after", "# again")
    with pytest.raises(RejectedDataError):
        device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, b"others")


def test_trouble_is_not_a_bad_block(device: TokenDevice, played: Played) -> None:
    """The same for RSAES-OAEP."""
    key = new_object(device, KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT)
    algorithm, shown = EncryptionAlgorithm.RSAES_OAEP_SHA_1, permit(Operation.DECRYPT, key)
    block = device.pairs.encrypt_oaep(permit(Operation.ENCRYPT, key), key, KeySpec.RSA_2048, algorithm, b"plaintext")
    assert device.pairs.decrypt_oaep(shown, key, KeySpec.RSA_2048, algorithm, block) == b"plaintext"
    played.order("fault C_Decrypt 1 return 0x30 after")
    assert device.pairs.decrypt_oaep(shown, key, KeySpec.RSA_2048, algorithm, block) == b"plaintext"
    with pytest.raises(RejectedDataError):
        device.pairs.decrypt_oaep(shown, key, KeySpec.RSA_2048, algorithm, bytes(256))


def test_trouble_is_not_a_bad_signature(device: TokenDevice, played: Played) -> None:
    """A signature that the token verifies is valid although one call fails, and invalid if both attempts fail."""
    kind = (KeySpec.ECC_NIST_EDWARDS25519, KeyUsage.SIGN_VERIFY)
    key = new_object(device, *kind)
    algorithm, shown = SigningAlgorithm.ED25519_PH_SHA_512, permit(Operation.VERIFY, key)
    signature = device.pairs.sign(permit(Operation.SIGN, key), key, algorithm, bytes(64))
    played.order("fault C_Verify 1 return 0x30 after")
    assert device.pairs.verify(shown, key, kind, algorithm, bytes(64), signature)
    assert not device.pairs.verify(shown, key, kind, algorithm, bytes(64), bytes(64))
    played.order("fault C_Verify * return 0x30 after")
    assert not device.pairs.verify(shown, key, kind, algorithm, bytes(64), signature)


def test_short_plaintext_is_discarded(device: TokenDevice, played: Played) -> None:
    """A plaintext that is shorter than its ciphertext is not returned."""
    key = new_key(device)
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"plaintext", b"aad")
    played.order("fault C_Decrypt * truncate 3")
    with pytest.raises(TokenError, match="thrown away"):
        device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, b"aad")


def test_short_mac_is_discarded(device: TokenDevice, played: Played) -> None:
    """A truncated MAC is neither returned nor compared with an equally short one."""
    key = new_object(device, KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC)
    played.order("fault C_Sign * truncate 31")
    with pytest.raises(TokenError, match="wrong length"):
        device.pairs.generate_mac(permit(Operation.VERIFY_MAC, key), key, MacAlgorithm.HMAC_SHA_256, b"message")


def test_unwritten_signature_is_discarded(device: TokenDevice, played: Played) -> None:
    """If a token returns CKR_OK without writing a signature, the buffer is not returned as one."""
    key = new_object(device, KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
    played.order("silent")
    with pytest.raises(TokenUnavailableError):
        device.pairs.sign(permit(Operation.SIGN, key), key, SigningAlgorithm.ECDSA_SHA_256, bytes(32))


def test_first_buffer_is_overwritten(session: Session, played: Played) -> None:
    """A buffer that a token found too small only after writing into it is overwritten with zeros."""
    made = session.generate_key(KeyType.GENERIC_SECRET, 256, capabilities=MechanismFlag.SIGN, store=False)
    ffi.memmove(operations.SCRATCH.out, b"written before it was found too small", 37)
    played.order(f"room {operations.ROOM + 1}")
    assert operations.sign(session, handle_of(made), mechanism(Mechanism.SHA256_HMAC), b"message")
    assert not any(bytes(ffi.buffer(operations.SCRATCH.out)))


@pytest.mark.parametrize("code", ["0x60", "0x82", "0xF0"])
def test_wrapping_key_that_is_gone(played: Played, code: str) -> None:
    """C_UnwrapKey with an invalid handle is reported as a missing wrapping key, for each of three return codes."""
    bench = Bench(played.token.open())
    material = bench.wrap(OAEP_1, os.urandom(32))
    bench.fingerprints(material)
    played.order(f"fault C_UnwrapKey * return {code}")
    with pytest.raises(ObjectLostError, match="the wrapping key is not on the token now: get new parameters"):
        bench.fingerprints(material)
