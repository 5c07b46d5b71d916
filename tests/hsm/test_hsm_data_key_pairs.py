"""Data key pairs: generated on the token, read once, destroyed at once."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from devices import NewToken, permit

from hsmkms.errors import UnsupportedOperationException
from hsmkms.hsm.crypto.data_key_pairs import first_element
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.hsm.objects.objects import list_keys
from hsmkms.model.enums import DataKeyPairSpec, KeySpec, Operation

SPECS = [KeySpec(each) for each in DataKeyPairSpec if not each.startswith("ML_KEM")]
MAY = Operation.GENERATE_DATA_KEY_PAIR


@pytest.fixture(scope="module")
def device(new_token: NewToken) -> Iterator[TokenDevice]:
    """Return a token of this module's own: it must be empty at the end of each test."""
    device = new_token("data-key-pairs").open()
    yield device
    device.close()


@pytest.mark.parametrize("spec", SPECS)
def test_pairs_work_elsewhere(device: TokenDevice, spec: KeySpec, tmp_path: Path) -> None:
    """Other programs read the private key, it belongs to the public key, and no object stays on the token."""
    pair = device.pairs.data_key_pair(permit(MAY), spec)
    key = load_der_private_key(pair.private, None)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public == pair.public
    size = KEY_FACTS[spec].bits
    assert getattr(key, "key_size", size) == size
    file = tmp_path / "key.der"
    file.write_bytes(pair.private)
    command = ["openssl", "pkey", "-inform", "DER", "-in", str(file), "-pubout", "-outform", "DER"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == pair.public
    with device.connection.pool.session() as session:
        assert list(list_keys(session)) == []


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.ECC_NIST_P521])
def test_without_key_wrap(device: TokenDevice, spec: KeySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a token without AES-KWP the private key is read by attribute, and no object stays either."""
    monkeypatch.setattr(device.connection, "has", lambda mechanism: mechanism.name != "AES_KEY_WRAP_PAD")
    pair = device.pairs.data_key_pair(permit(MAY), spec)
    key = load_der_private_key(pair.private, None)
    assert key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == pair.public
    with device.connection.pool.session() as session:
        assert list(list_keys(session)) == []


def test_specs_that_the_token_lacks(device: TokenDevice) -> None:
    """A spec that the token cannot generate is refused with a list of those that it can."""
    for spec in SPECS:
        device.pairs.check_data_key_pair(spec)
    with pytest.raises(UnsupportedOperationException, match=r"no data key pairs of KeyPairSpec ML_KEM_768.*RSA_2048"):
        device.pairs.check_data_key_pair(KeySpec.ML_KEM_768)


def test_padding_is_removed() -> None:
    """Zeros after the private key are not part of it; anything else is refused, and so is a part of a key."""
    long = b"\x30\x81\x80" + bytes(range(128))
    assert first_element(b"\x30\x02\x05\x00" + bytes(4)) == b"\x30\x02\x05\x00"
    assert first_element(long + bytes(5)) == long
    for wrong in (b"", b"\x30", b"\x31\x00", long[:-1], b"\x30\x00\x01"):
        with pytest.raises(ValueError, match="SEQUENCE"):
            first_element(wrong)
