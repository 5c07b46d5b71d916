"""Wrapping key material in software: what is wrapped can be unwrapped by the book, and everything else is refused."""

import base64
import os
from functools import cache

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmkms import key_wrapping
from hsmkms.errors import ValidationException

HASHES: dict[str, hashes.HashAlgorithm] = {"SHA_1": hashes.SHA1(), "SHA_256": hashes.SHA256()}  # noqa: S303 - OAEP
ALGORITHMS = [f"{kind}_{name}" for kind in ("RSAES_OAEP", "RSA_AES_KEY_WRAP") for name in HASHES]
BITS = [2048, 3072, 4096]


@cache
def pair(bits: int = 2048) -> RSAPrivateKey:
    """A key pair."""
    return generate_private_key(65537, bits)


def der(public: PublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo."""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def unwrap(private: RSAPrivateKey, algorithm: str, wrapped: bytes) -> bytes:
    """What a token does."""
    used = next(each for name, each in HASHES.items() if algorithm.endswith(name))
    size = private.key_size // 8
    opened = private.decrypt(wrapped[:size], OAEP(MGF1(used), used, None))
    if algorithm.startswith("RSAES_OAEP"):
        assert len(wrapped) == size
        return opened
    assert len(opened) == 32
    return aes_key_unwrap_with_padding(opened, wrapped[size:])


def test_methods() -> None:
    """The four algorithms that are safe, and no other."""
    assert {str(method) for method in key_wrapping.METHODS} == set(ALGORITHMS)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_there_and_back(algorithm: str, bits: int) -> None:
    """Wrapped material unwraps to the same bytes, and no two wrappings of it are equal."""
    material = bytearray(os.urandom(32))
    first, second = (key_wrapping.wrap(pair(bits).public_key(), algorithm, material) for _ in range(2))
    assert first != second
    assert unwrap(pair(bits), algorithm, first) == unwrap(pair(bits), algorithm, second) == material


@pytest.mark.parametrize("length", [1, 31, 33, 1217, 4096])
def test_key_wrap_takes_any_length(length: int) -> None:
    """RSA_AES_KEY_WRAP wraps lengths that are no multiple of 8 bytes, and more than an RSA block."""
    material = os.urandom(length)
    wrapped = key_wrapping.wrap(pair().public_key(), "RSA_AES_KEY_WRAP_SHA_256", material)
    assert unwrap(pair(), "RSA_AES_KEY_WRAP_SHA_256", wrapped) == material


@pytest.mark.parametrize(("algorithm", "most"), [("RSAES_OAEP_SHA_1", 214), ("RSAES_OAEP_SHA_256", 190)])
def test_room(algorithm: str, most: int) -> None:
    """OAEP takes as much as RFC 8017 allows, and the error for a byte more names the alternative."""
    material = os.urandom(most)
    assert unwrap(pair(), algorithm, key_wrapping.wrap(pair().public_key(), algorithm, material)) == material
    with pytest.raises(ValidationException) as caught:
        key_wrapping.wrap(pair().public_key(), algorithm, material + b"?")
    assert f"takes {most} bytes, and the key material has {most + 1}: use RSA_AES_KEY_WRAP_SHA_256" in str(caught.value)


def test_too_long_for_the_api() -> None:
    """What ImportKeyMaterial would not take is not made."""
    with pytest.raises(ValidationException) as caught:
        key_wrapping.wrap(pair().public_key(), "RSA_AES_KEY_WRAP_SHA_1", bytes(6144))
    assert "6408 bytes: the API takes 6144" in str(caught.value)


@pytest.mark.parametrize("algorithm", ["RSAES_PKCS1_V1_5", "SM2PKE", "rsaes_oaep_sha_1", ""])
def test_other_algorithms(algorithm: str) -> None:
    """Any other algorithm is refused with the list of those that there are."""
    with pytest.raises(ValidationException) as caught:
        key_wrapping.wrap(pair().public_key(), algorithm, bytes(32))
    assert all(each in str(caught.value) for each in ALGORITHMS)


@pytest.mark.parametrize("bits", BITS)
def test_forms_of_public_keys(bits: int) -> None:
    """DER, PEM and base64 in all the ways in which they come about are the same key."""
    public = pair(bits).public_key()
    text = base64.b64encode(der(public))
    forms = [
        der(public),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        b"\n" + public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        text,
        text + b"\n",
        text + b"\r\n",
        b'"' + text + b'"\n',
        base64.encodebytes(der(public)),
    ]
    read = [key_wrapping.read_public_key(form) for form in forms]
    assert all(isinstance(each, RSAPublicKey) for each in read)
    assert {each.public_numbers() for each in read} == {public.public_numbers()}


def _private() -> bytes:
    return pair().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"nonsense", b'{"PublicKey": "aGVsbG8="}', b"aGVsbG8=", b"0\x82", b"-----BEGIN PUBLIC KEY-----\n"],
)
def test_no_public_key(data: bytes) -> None:
    """What is no public key is refused, with what would be one."""
    with pytest.raises(ValidationException) as caught:
        key_wrapping.read_public_key(data)
    assert "--query PublicKey --output text" in str(caught.value)


def test_private_key() -> None:
    """A private key is no public key, and nothing of it is repeated."""
    with pytest.raises(ValidationException) as caught:
        key_wrapping.read_public_key(_private())
    assert str(caught.value).startswith("The public key cannot be read")


def test_other_public_keys() -> None:
    """An elliptic curve key, and an RSA key of a size that is not issued, are refused as wrapping keys."""
    with pytest.raises(ValidationException) as caught:
        key_wrapping.read_public_key(der(ec.generate_private_key(ec.SECP256R1()).public_key()))
    assert "no RSA key" in str(caught.value)
    with pytest.raises(ValidationException) as caught:
        key_wrapping.read_public_key(der(generate_private_key(65537, 1024).public_key()))  # noqa: S505 - to be refused
    assert "has 1024 bits: wrapping keys have 2048, 3072 or 4096" in str(caught.value)
