"""Private keys in files, as import-key and wrap-key-material read them: strictly, since no token is asked."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key

from hsmkms.cli.files.private_keys import pkcs8
from hsmkms.errors import ValidationException

NAMED = ("-pkeyopt", "ec_paramgen_curve:P-256")
EXPLICIT = (*NAMED, "-pkeyopt", "ec_param_enc:explicit")


def made(folder: Path, form: str, options: tuple[str, ...] = NAMED) -> bytearray:
    """A new EC key as OpenSSL writes it."""
    file = folder / f"key.{form}"
    command = ["openssl", "genpkey", "-algorithm", "EC", *options, "-outform", form, "-out", file]
    subprocess.run(command, check=True, capture_output=True)
    return bytearray(file.read_bytes())


@pytest.mark.parametrize("form", ["DER", "PEM"])
def test_named_curves_are_read(scratch: Path, form: str) -> None:
    """A key on a named curve comes out as PKCS #8 in DER."""
    with pkcs8("key", made(scratch, form)) as der:
        assert load_der_private_key(der, None).key_size == 256  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["DER", "PEM"])
def test_explicit_parameters_are_named(scratch: Path, form: str) -> None:
    """Explicit curve parameters are refused as such, with the command that writes the curve's name instead."""
    with pytest.raises(ValidationException) as caught, pkcs8("my key", made(scratch, form, EXPLICIT)):
        pass
    assert str(caught.value) == (
        "my key describes its curve by explicit parameters: name the curve instead "
        "(`openssl pkey -in 'my key' -ec_param_enc named_curve -out NAMED` writes it so)."
    )


def test_nothing_may_follow(scratch: Path) -> None:
    """Bytes behind the structure are refused and counted, not passed over."""
    with (
        pytest.raises(ValidationException, match="key has 3 bytes after the end"),
        pkcs8("key", made(scratch, "DER") + b"abc"),
    ):
        pass


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 60])
def test_cut_off(scratch: Path, cut: int) -> None:
    """What ends too early is no private key, wherever it ends."""
    with (
        pytest.raises(ValidationException, match="cannot be read as a private key"),
        pkcs8("key", made(scratch, "DER")[:cut]),
    ):
        pass
