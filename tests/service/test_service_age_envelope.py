"""Backups in the age format: the program age opens them, and a recipient that cannot be used is named."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from backups import back_up, contents_of, keys_of, pem_of, pkcs8, recipients_of
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from service_sites import PROGRAMS, Site

from hsmkms.errors import BindingError, ConfigurationError, StoreError
from hsmkms.service.backup import age_envelope, age_keys, bech32
from hsmkms.service.backup.age_keys import check_private, read_identities, read_recipient, read_recipients
from hsmkms.service.backup.restore import Order
from hsmkms.wiring import restore as restore_wiring

needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="the program age is not installed (package age)")
RSA = rsa.generate_private_key(65537, 2048)
IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT, SECRET = str(IDENTITY.to_public()), str(IDENTITY)


def age(*arguments: object, data: bytes = b"") -> bytes:
    """What the program prints."""
    return subprocess.run(["age", *map(str, arguments)], input=data, capture_output=True, check=True).stdout


def openssh(key: Ed25519PrivateKey | rsa.RSAPrivateKey) -> tuple[bytes, bytes]:
    """Both halves as ssh-keygen writes them."""
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" somebody@somewhere\n"


# -- the program ----------------------------------------------------------------------------------------------------


@needs_age
@pytest.mark.sqlite_alone("a backup is of files so far")
def test_age_opens_backups(site: Site, tmp_path: Path) -> None:
    """With age, tar and OpenSSL alone everything in a backup can be had and checked, as in a disaster."""
    key, signing_key = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    with site.open() as kms:
        recipients = [read_recipient(RECIPIENT), *recipients_of(key)]
        made = kms.operator.backup(tmp_path / "backup", recipients, b"[configuration]", signing_key)
    assert made.recipients == [RECIPIENT, recipients_of(key)[0].name]
    (tmp_path / "key.txt").write_text(f"# created\n{SECRET}\n")
    (tmp_path / "signing.pem").write_bytes(pem_of(signing_key))
    opened = age("--decrypt", "--identity", tmp_path / "key.txt", tmp_path / "backup")
    subprocess.run(["tar", "--extract", "--directory", tmp_path], input=opened, check=True)
    assert (tmp_path / "hsmkms.toml").read_bytes() == b"[configuration]"
    assert (tmp_path / "meta.db").read_bytes().startswith(b"SQLite format 3\0")
    assert {name: (tmp_path / name).read_bytes() for name in contents_of(tmp_path / "backup", key)} == contents_of(
        tmp_path / "backup", key
    )
    verify = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "signing.pem"]
    subprocess.run(
        [*verify, "-in", "manifest.json", "-sigfile", "manifest.sig"], cwd=tmp_path, check=True, capture_output=True
    )


@needs_age
@pytest.mark.sqlite_alone("a backup is of files so far")
def test_age_opens_with_a_key_in_pem(site: Site, tmp_path: Path) -> None:
    """A backup that is sealed to an RSA key in PEM is opened by age with that key's own file."""
    file = back_up(site, RSA)
    pem = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "key.pem").chmod(0o600)
    opened = age("--decrypt", "--identity", tmp_path / "key.pem", file)
    assert b"manifest.mac" in opened


@needs_age
@pytest.mark.sqlite_alone("a backup is of files so far")
def test_what_age_sealed_is_read(site: Site, tmp_path: Path) -> None:
    """The content of a backup that the operator has sealed to another key with age is restored."""
    private = X25519PrivateKey.generate()
    file = back_up(site, private)
    (tmp_path / "key.txt").write_text(f"{SECRET}\n")
    (tmp_path / "plain.txt").write_text(bech32.encode("age-secret-key-", private.private_bytes_raw()).upper())
    plain = age("--decrypt", "--identity", tmp_path / "plain.txt", file)
    again = tmp_path / "again"
    again.write_bytes(age("--encrypt", "--recipient", RECIPIENT, data=plain))
    for each in (*site.folder.glob("*.db*"), site.folder / "audit"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    keys = read_identities("key.txt", (tmp_path / "key.txt").read_bytes())
    assert restore_wiring.restore(site.settings, again, Order(keys=keys)).proof == "token"


# -- recipients and identities --------------------------------------------------------------------------------------


def test_recipients() -> None:
    """Files of age-keygen, ssh-keygen and OpenSSL are read, and each recipient has a name that people can compare."""
    ed25519 = Ed25519PrivateKey.generate()
    many = f"# operators\n{RECIPIENT}\n\n{openssh(ed25519)[1].decode()}{openssh(RSA)[1].decode()}"
    recipients_read = read_recipients("recipients.txt", many.encode())
    assert recipients_read[0].name == RECIPIENT
    assert [each.name.split(":")[0] for each in recipients_read[1:]] == ["ssh-ed25519 SHA256", "ssh-rsa SHA256"]
    assert read_recipients("operator.pem", pem_of(RSA))[0].name == recipients_read[2].name
    (of_pem,) = read_recipients("operator.pem", pem_of(X25519PrivateKey.generate()))
    assert of_pem.name.startswith("age1")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no public key: give PEM"),
        (b"# nothing\n", "holds no public key"),
        (b"\xff\xfe", "holds no public key"),
        (f"{RECIPIENT}\nsomething else\n".encode(), "holds no public key"),
        (f"{SECRET}\n".encode(), "holds a private key: give its public key instead"),
        (RECIPIENT.replace("1", "1b", 1).encode(), "is no recipient"),
        (b"ssh-rsa AAAA\n", "is no recipient"),
        (b"ssh-dss \n", "is no recipient"),
        (b"ssh-ed25519 \x1b[2J\n", r"'ssh-ed25519 \\x1b\[2J' is no recipient"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n", "holds no public key in PEM"),
        (pem_of(ec.generate_private_key(ec.SECP256R1())), "is neither an RSA nor an X25519 key"),
        (pem_of(Ed25519PrivateKey.generate()), "is neither an RSA nor an X25519 key"),
        (pem_of(rsa.generate_private_key(65537, 1024)), "has 1024 bits: it needs 2048"),  # noqa: S505 - to be refused
    ],
    ids=range(13),  # keys are drawn at random, and both workers must know the tests by one name
)
def test_no_recipients(data: bytes, words: str) -> None:
    """What nothing can be sealed to, a signing key among it, is named before anything is made."""
    with pytest.raises(ConfigurationError, match=words):
        read_recipients("operator.pub", data)


def test_identities() -> None:
    """Private keys of any of these programs decrypt what is encrypted to their public half."""
    ed25519, x25519 = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    pairs = [
        (read_identities("k", f"# a comment\n{SECRET}\n".encode()), [read_recipient(RECIPIENT)]),
        (read_identities("k", openssh(ed25519)[0]), [read_recipient(openssh(ed25519)[1].decode())]),
        (read_identities("k", openssh(RSA)[0]), [read_recipient(openssh(RSA)[1].decode())]),
        (age_keys.identity_of(pkcs8(ed25519)), [read_recipient(openssh(ed25519)[1].decode())]),
        (keys_of(x25519), recipients_of(x25519)),
        (keys_of(RSA), recipients_of(RSA)),
    ]
    for keys, recipients in pairs:
        assert opened(sealed(recipients, b"secret"), keys) == b"secret"
        with pytest.raises(BindingError, match="not sealed to that private key"):
            opened(sealed(recipients, b"secret"), keys_of(X25519PrivateKey.generate()))


@pytest.mark.parametrize(
    "data",
    [f"{SECRET}\n{SECRET[:-1]}B\n", f"{SECRET}\nand more\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"],
    ids=["checksum", "another line", "no key of SSH"],
)
def test_no_identities(data: str) -> None:
    """A file that cannot be read as private keys is refused, and nothing of it is in the error or behind it."""
    assert age_keys.is_identity_file(data.encode())
    with pytest.raises(ConfigurationError, match="cannot be read as private keys of age or SSH") as caught:
        read_identities("key.txt", data.encode())
    assert caught.value.__context__ is None
    assert SECRET[20:30] not in str(caught.value)


def test_keys_of_other_kinds() -> None:
    """A private key that nothing is sealed to is refused."""
    with pytest.raises(ConfigurationError, match="no backup is sealed to a key of that kind"):
        age_keys.identity_of(pkcs8(ec.generate_private_key(ec.SECP256R1())))


# -- plugins --------------------------------------------------------------------------------------------------------


class Person(age_keys.Nobody):
    """A dialogue that records the messages of plugins."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def display_message(self, message: str) -> None:
        """Remember it."""
        self.seen.append(message)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A plugin on the PATH; a recipient and an identity of it."""
    program = tmp_path / "age-plugin-fake"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAMS}/age_plugin_fake.py "$@"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return bech32.encode("age1fake", b"123"), bech32.encode("age-plugin-fake-", b"456").upper()


def test_plugins(plugin: tuple[str, str]) -> None:
    """A key that only a plugin can use seals and opens, and what the plugin says reaches the person."""
    recipient, identity = plugin
    person = Person()
    (recipient_read,) = read_recipients("recipients.txt", f"{recipient}\n".encode(), person)
    assert recipient_read.name == recipient
    data = sealed([recipient_read, read_recipient(RECIPIENT)], b"secret")
    assert age_keys.is_identity_file(identity.encode())
    assert opened(data, read_identities("key.txt", f"{SECRET}\n{identity}\n".encode(), person)) == b"secret"
    assert opened(data, read_identities("key.txt", identity.encode(), person)) == b"secret"
    assert set(person.seen) == {"touch \x1b[2Jthe key"}


def test_no_plugin(plugin: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that is not there is named before anything is made or opened."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="no program age-plugin-fake on the PATH"):
        read_recipient(plugin[0])
    with pytest.raises(ConfigurationError, match="no program age-plugin-fake on the PATH"):
        read_identities("key.txt", plugin[1].encode())


def test_tagged_recipients() -> None:
    """A recipient that age has for hardware is sealed to without a plugin."""
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    compressed = point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    recipient = bech32.encode("age1tag", compressed)
    assert sealed([read_recipient(recipient)], b"secret").startswith(b"age-encryption.org/v1\n-> p256tag ")


# -- the envelope ---------------------------------------------------------------------------------------------------


def sealed(recipients: list[age_keys.Recipient], *blocks: bytes) -> bytes:
    """A whole envelope."""
    file = io.BytesIO()
    age_envelope.seal(file, recipients, iter(blocks))
    return file.getvalue()


def opened(data: bytes, keys: age_keys.PrivateKeys) -> bytes:
    """What is in it."""
    target = io.BytesIO()
    age_envelope.unseal(io.BytesIO(data), keys, target)
    return target.getvalue()


@pytest.mark.parametrize("sizes", [[], [0], [1], [65536], [0, 65536, 0, 1], [70_000] * 3, [512] * 400])
def test_blocks(sizes: list[int]) -> None:
    """Blocks of any size, empty ones too, come back as one stream."""
    blocks = [os.urandom(size) for size in sizes]
    keys = read_identities("k", SECRET.encode())
    assert opened(sealed([read_recipient(RECIPIENT)], *blocks), keys) == b"".join(blocks)


def test_it_streams() -> None:
    """Content is asked for only as the file is written, and given out as it is read: a backup never lies in memory."""
    made, target, ahead = [0], io.BytesIO(), []

    def blocks() -> Iterator[bytes]:
        for _ in range(100):
            made[0] += 65536
            ahead.append(made[0] - target.tell())
            yield bytes(65536)

    age_envelope.seal(target, [read_recipient(RECIPIENT)], blocks())
    assert max(ahead) < 20 * 65536
    source, behind = io.BytesIO(target.getvalue()), []

    class Watching(io.BytesIO):
        def write(self, data: object) -> int:
            behind.append(source.tell() - self.tell())
            return super().write(data)  # type: ignore[arg-type]  # bytes

    age_envelope.unseal(source, read_identities("k", SECRET.encode()), Watching())
    assert max(behind) < 20 * 65536


def test_changes_are_seen() -> None:
    """A changed bit, a shorter and a longer file give an error wherever it is, and nothing that is not proven."""
    plain = os.urandom(150_000)
    data = sealed([read_recipient(RECIPIENT)], plain)
    keys = read_identities("k", SECRET.encode())
    front = len(data) - len(plain)
    places = [*range(0, front, 7), *range(front, len(data), 9973), len(data) - 1]
    for bent in [
        *(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in places),
        *(data[:end] for end in (0, 10, front, front + 65552, len(data) - 1)),
        data + b"\0",
    ]:
        target = io.BytesIO()
        with pytest.raises((StoreError, BindingError)):
            age_envelope.unseal(io.BytesIO(bent), keys, target)
        assert plain.startswith(target.getvalue())


def test_faults_of_the_content_are_passed_on() -> None:
    """Exceptions while the content is produced or consumed are passed on unchanged."""

    def breaking() -> Iterator[bytes]:
        yield b"1"
        raise StoreError("the lane has become shorter")

    with pytest.raises(StoreError, match="the lane has become shorter"):
        age_envelope.seal(io.BytesIO(), [read_recipient(RECIPIENT)], breaking())

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    keys = read_identities("k", SECRET.encode())
    with pytest.raises(OSError, match="No space left"):
        age_envelope.unseal(io.BytesIO(sealed([read_recipient(RECIPIENT)], b"x")), keys, Full())


def test_bech32() -> None:
    """The vectors of BIP 173 come out."""
    assert bech32.encode("a", b"") == "a12uel5l"
    data = bytes.fromhex("00443214c74254b635cf84653a56d7c675be77df")
    assert bech32.encode("abcdef", data) == "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw"


def test_private_keys_that_are_none() -> None:
    """A public key, or the backup itself, in the place of the private key is named; no advice overwrites a key."""
    public = (pem_of(RSA), f"{RECIPIENT}\n".encode(), openssh(Ed25519PrivateKey.generate())[1])
    for data in public:
        with pytest.raises(
            ConfigurationError, match=r"key\.txt holds a public key, which cannot decrypt: give the private"
        ):
            check_private("key.txt", data)
    with pytest.raises(ConfigurationError, match="is a file that age has encrypted, perhaps the backup itself"):
        check_private("key.txt", b"age-encryption.org/v1\n")
    for secret in (f"# public key: {RECIPIENT}\n{SECRET}\n".encode(), b"-----BEGIN PRIVATE KEY-----\n", b"\x30\x00"):
        check_private("key.txt", secret)
    with pytest.raises(ConfigurationError) as caught:
        read_recipients("private.pem", b"-----BEGIN PRIVATE KEY-----\nAAAA\n")
    assert "-out private.pem" not in str(caught.value)
