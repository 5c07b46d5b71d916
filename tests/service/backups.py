"""Backups as an attacker, or an older version, would make them; and keys to seal and sign them with."""

import hashlib
import io
from pathlib import Path

import msgspec
import pyrage
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from service_sites import Site

from hsmkms.service.backup import age_keys, recipients
from hsmkms.service.backup.age_keys import PrivateKeys, Recipient
from hsmkms.service.backup.recipients import Header
from hsmkms.service.backup.signature import SigningKey
from hsmkms.store.archive import END, ArchiveReader, ArchiveWriter, Member
from hsmkms.store.sealed_stream import SealedReader, SealedWriter

Private = RSAPrivateKey | X25519PrivateKey
PROOFS = ("manifest.json", "manifest.mac", "manifest.sig")
KEY = bytes(range(32))


def pem_of(private: Private | SigningKey) -> bytes:
    """The public half in PEM."""
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def pkcs8(private: Private | SigningKey) -> bytes:
    """A private key as the command line hands it over."""
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def keys_of(private: Private) -> PrivateKeys:
    """What opens what is sealed to the key."""
    return age_keys.identity_of(pkcs8(private))


def recipients_of(private: Private) -> list[Recipient]:
    """Whom to seal to, so that the key opens it."""
    return age_keys.read_recipients("operator.pem", pem_of(private))


def back_up(
    site: Site,
    private: Private | None = None,
    name: str = "backup",
    *,
    configuration: bytes = b"the configuration",
    signing_key: SigningKey | None = None,
) -> Path:
    """Make a backup, sealed by the token or to the public half of a key."""
    file = site.folder / name
    with site.open() as kms:
        kms.operator.backup(file, recipients_of(private) if private is not None else [], configuration, signing_key)
    return file


# -- what is in it --------------------------------------------------------------------------------------------------


def contents_of(file: Path, private: Private) -> dict[str, bytes]:
    """The files in an age backup, decrypted with its private key."""
    data = pyrage.decrypt(file.read_bytes(), list(keys_of(private).identities))
    return files_in(data)


def files_in(data: bytes) -> dict[str, bytes]:
    """The files of an archive."""
    with ArchiveReader(Path("/nowhere"), lambda _: False, _Everything()) as reader:
        reader.write(data)
        reader.finish()
    return {member.name: bytes(reader.kept[member.name]) for member in reader.members}


class _Everything(dict[str, int]):
    """Every name is kept, up to any size."""

    def __contains__(self, _: object) -> bool:
        return True

    def __missing__(self, _: str) -> int:
        return 2**40


def archive_of(contents: dict[str, bytes]) -> bytes:
    """An archive with these files."""
    writer = ArchiveWriter()
    parts = [block for name, data in contents.items() for block in writer.add(name, len(data), io.BytesIO(data))]
    return b"".join([*parts, END])


def with_manifest(contents: dict[str, bytes]) -> dict[str, bytes]:
    """The files, with a manifest that lists what is there now, and the proofs that were there."""
    manifest = msgspec.json.decode(contents["manifest.json"])
    manifest["files"] = [
        msgspec.to_builtins(Member(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()))
        for name, data in contents.items()
        if name not in PROOFS
    ]
    return contents | {"manifest.json": msgspec.json.encode(manifest)}


def sealed(file: Path, contents: dict[str, bytes], private: Private) -> Path:
    """An age backup with these files, as an attacker with the public key can make it."""
    keys = [each.key for each in recipients_of(private)]
    file.write_bytes(pyrage.encrypt(archive_of(contents), keys))
    return file


# -- as older versions wrote them -----------------------------------------------------------------------------------


def old_backup(file: Path, contents: dict[str, bytes], private: Private) -> Path:
    """A backup that an older version sealed to a public key, in our own envelope."""
    manifest = msgspec.json.decode(contents["manifest.json"])
    public = private.public_key()
    fingerprint = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    if isinstance(private, RSAPrivateKey):
        method, sent = "RSA-OAEP-SHA-256", b""
        key = private.public_key().encrypt(KEY, OAEP(MGF1(SHA256()), SHA256(), None))
    else:
        method = "X25519-HKDF-SHA-256-AES-256-GCM"
        ephemeral = X25519PrivateKey.generate()
        sent = ephemeral.public_key().public_bytes_raw()
        salt = sent + private.public_key().public_bytes_raw()
        agreed = HKDF(SHA256(), 32, salt, b"hsmkms backup x25519 v1").derive(ephemeral.exchange(private.public_key()))
        key = AESGCM(agreed).encrypt(bytes(12), KEY, None)
    header = Header(
        method=method,
        recipient=fingerprint,
        sealed_key=key,
        help=sent,
        **{name: msgspec.convert(manifest[name], kind) for name, kind in _shared().items()},
    )
    return in_our_envelope(file, header, contents)


def old_token_backup(file: Path, newer: Path, site: Site) -> Path:
    """A backup that an older version sealed by the token: without manifest and proofs."""
    header, contents = open_by_token(newer, site)
    return in_our_envelope(file, header, contents, key_of(header, site))


def open_by_token(file: Path, site: Site) -> tuple[Header, dict[str, bytes]]:
    """Header and files of a backup that the token has sealed."""
    headers: list[Header] = []

    def unseal(raw: bytes) -> bytes:
        headers.append(recipients.read_header(raw))
        return key_of(headers[0], site)

    with file.open("rb") as opened:
        reader = SealedReader(opened, unseal)
        data = b"".join(iter(lambda: reader.read(65536), b""))
    return headers[0], files_in(data)


def key_of(header: Header, site: Site) -> bytes:
    """The key of a file that the token has sealed."""
    with site.open() as kms:
        return recipients.open_with_token(header, kms._core.device)


def in_our_envelope(file: Path, header: Header, contents: dict[str, bytes], key: bytes = KEY) -> Path:
    """The files without the proofs, which older versions did not make."""
    with file.open("wb") as opened:
        writer = SealedWriter(opened, msgspec.json.encode(header), key)
        writer.write(archive_of({name: data for name, data in contents.items() if name not in PROOFS}))
        writer.finish()
    return file


def _shared() -> dict[str, type]:
    types = {field.name: field.type for field in msgspec.structs.fields(Header)}
    return {name: types[name] for name in ("installation", "account", "created_at", "contains", "lacks")}
