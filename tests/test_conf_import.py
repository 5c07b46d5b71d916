"""conf/import/wrap_on_token.py, for the HSM that a key comes from: both layers, and what it refuses, on SoftHSM."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from devices import SoftHsm
from msgspec import Struct

PROGRAM = Path(__file__).parent.parent / "conf/import/wrap_on_token.py"
OAEP_SHA_1 = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - all that SoftHSM does
WRAPPING_BYTES = 256
MAKE_KEYS = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType
_, module, label, pin = sys.argv
with pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=pin) as session:
    for name, extractable in (("transport", True), ("twice", True), ("twice", True), ("fixed", False)):
        template = {Attribute.EXTRACTABLE: extractable, Attribute.SENSITIVE: True}
        session.generate_key(KeyType.AES, 256, store=True, label=name, template=template)
"""


class Other(Struct, frozen=True, kw_only=True):
    """Another HSM with its keys, and the key pair of an import."""

    token: SoftHsm
    private: rsa.RSAPrivateKey
    folder: Path

    def wrap(self, key: str, algorithm: str, out: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run the program; ``more`` replaces its options."""
        options = {
            "module": str(self.token.module),
            "token-label": self.token.label,
            "pin-file": "pin",
            "public-key": "public.der",
            "key-label": key,
            "algorithm": algorithm,
            "out": out,
        } | {name.replace("_", "-"): value for name, value in more.items()}
        return subprocess.run(
            [sys.executable, PROGRAM, *(word for name, value in options.items() for word in (f"--{name}", value))],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=os.environ | self.token.environment,
        )

    def unwrap(self, file: str) -> bytes:
        """Unwrap an RSA layer, and the AES layer behind it if there is one."""
        wrapped = (self.folder / file).read_bytes()
        inner = self.private.decrypt(wrapped[:WRAPPING_BYTES], OAEP_SHA_1)
        rest = wrapped[WRAPPING_BYTES:]
        return keywrap.aes_key_unwrap_with_padding(inner, rest) if rest else inner


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Other:
    """Make both."""
    folder = tmp_path_factory.mktemp("other")
    token = SoftHsm.make(folder / "token", "other")
    command = [sys.executable, "-c", MAKE_KEYS, token.module, token.label, token.pin]
    subprocess.run(command, check=True, env=os.environ | token.environment)
    private = rsa.generate_private_key(65537, 2048)
    (folder / "public.der").write_bytes(_der(private))
    (folder / "pin").write_text(f"{token.pin}\n")
    return Other(token=token, private=private, folder=folder)


def _der(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_both_layers(other: Other) -> None:
    """A key comes out the same by RSA-OAEP alone and by an AES key under it, and nothing stays on the token."""
    one = other.wrap("transport", "RSAES_OAEP_SHA_1", "one")
    assert (one.returncode, one.stdout, one.stderr) == (0, "one: 256 bytes, RSAES_OAEP_SHA_1\n", "")
    two = other.wrap("transport", "RSA_AES_KEY_WRAP_SHA_1", "two")
    assert two.stdout == "two: 296 bytes, RSA_AES_KEY_WRAP_SHA_1\n"
    assert other.unwrap("one") == other.unwrap("two")
    assert len(other.unwrap("one")) == 32
    assert len([*other.token.folder.rglob("*.object")]) == 5  # four keys, and the token itself


def test_refusals(other: Other) -> None:
    """What cannot be done is said in one line: label, key, algorithm, PIN, public key, and a file that is there."""
    (other.folder / "ec.der").write_bytes(_der(ec.generate_private_key(ec.SECP256R1())))
    (other.folder / "wrong pin").write_text("no PIN of it")
    (other.folder / "there").write_text("precious")
    sha_1 = "RSAES_OAEP_SHA_1"
    for done, words in (
        (
            other.wrap("nothing", sha_1, "x"),
            "0 secret or private keys of the token have the label nothing: one is needed",
        ),
        (other.wrap("twice", sha_1, "x"), "2 secret or private keys of the token have the label twice: one is needed"),
        (other.wrap("fixed", sha_1, "x"), "the token does not let go of fixed, not even wrapped"),
        (
            other.wrap("transport", "RSAES_OAEP_SHA_256", "x"),
            "the token refuses it (ArgumentsBad): can it do RSAES_OAEP",
        ),
        (other.wrap("transport", sha_1, "x", pin_file="wrong pin"), "the token refuses it (PinIncorrect)"),
        (other.wrap("transport", sha_1, "x", module="/none.so"), "the token refuses it (PKCS11Error: "),
        (other.wrap("transport", sha_1, "x", public_key="ec.der"), "the public key is not an RSA key"),
        (other.wrap("transport", sha_1, "x", public_key="none.der"), "none.der: No such file or directory"),
        (other.wrap("transport", sha_1, "there"), "there: File exists"),
    ):
        assert done.returncode == 1, words
        assert done.stderr.startswith(words)
        assert done.stderr.count("\n") == 1
    assert not (other.folder / "x").exists()
    assert (other.folder / "there").read_text() == "precious"
