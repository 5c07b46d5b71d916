"""Parse keys of the age format: public keys to encrypt to (recipients), and private keys (identities).

Recipients are age's own (X25519, and the tagged ones of hardware), those of its plugins, and SSH public keys (Ed25519,
RSA). RSA and X25519 keys in PEM are converted: RSA to SSH's notation, X25519 to age's.

A plugin is a program ``age-plugin-NAME`` on the PATH, which hsmkms runs as age does: for keys in hardware, for example.
"""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, Protocol

import pyrage
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_public_key,
)
from msgspec import Struct
from pyrage import tag, tagpq

from hsmkms.errors import ConfigurationError
from hsmkms.service.backup.bech32 import encode

LEAST_RSA_BITS: Final = 2048
WRITTEN_OUT: Final = ("age1", "ssh-")
"""Prefixes of a recipient given as text rather than as a file."""

_PEM: Final = b"-----BEGIN"
_SECRET: Final = "age-secret-key-"  # noqa: S105 - the prefix of one
_IDENTITIES: Final = ("AGE-SECRET-KEY-", "AGE-PLUGIN-")
_OPENSSH: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_OWN: Final[dict[str, Callable[[str], Any]]] = {
    "age": pyrage.x25519.Recipient.from_str,
    "age1tag": tag.Recipient.from_str,
    "age1tagpq": tagpq.Recipient.from_str,
}
"""age's own recipients, by the prefix of their Bech32."""


class Recipient(Struct, frozen=True):
    """A key that an envelope is encrypted to; ``name``: the age recipient itself, or an SSH key's type and SHA-256."""

    name: str
    key: Any


class PrivateKeys(Struct, frozen=True):
    """Private keys that open a backup: age identities, and the key as DER PKCS #8 if it is a single such key."""

    identities: tuple[Any, ...]
    pkcs8: bytes | None = None


class Person(Protocol):
    """Prompts of a plugin to a person; None means no answer."""

    def display_message(self, message: str) -> None:
        """Show a message."""

    def confirm(self, message: str, yes_string: str, no_string: str | None) -> bool | None:
        """Ask for a decision."""

    def request_public_string(self, description: str) -> str | None:
        """Ask for a text."""

    def request_passphrase(self, description: str) -> str | None:
        """Ask for a secret."""


class Nobody:
    """Answers no prompts, for use without a terminal."""

    def display_message(self, message: str) -> None:
        """Ignore the message."""

    def confirm(self, message: str, yes_string: str, no_string: str | None) -> bool | None:  # noqa: ARG002 - see Person
        """Return no answer."""
        return None

    def request_public_string(self, description: str) -> str | None:  # noqa: ARG002 - see Person
        """Return no answer."""
        return None

    def request_passphrase(self, description: str) -> str | None:  # noqa: ARG002 - see Person
        """Return no answer."""
        return None


# -- recipients -------------------------------------------------------------------------------------------------


def read_recipient(text: str, person: Person = Nobody()) -> Recipient:  # noqa: B008 - it has no state
    """Parse a recipient in age's or SSH's notation. ConfigurationError otherwise, or if its plugin is missing."""
    words = text.split()
    try:
        if text.startswith("ssh-"):
            blob = base64.b64decode(words[1], validate=True)
            digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
            return Recipient(f"{words[0]} SHA256:{digest}", pyrage.ssh.Recipient.from_str(text))
        if text.startswith("age1"):
            own = _OWN.get(text.rpartition("1")[0])
            return Recipient(text, own(text) if own is not None else _of_plugin(text, person))
    except (pyrage.RecipientError, IndexError, ValueError) as exc:
        raise _no_recipient(text) from exc
    raise _no_recipient(text)


def _of_plugin(text: str, person: Person) -> Any:  # noqa: ANN401 - pyrage has no common type of recipients
    recipient = pyrage.plugin.Recipient.from_str(text)
    try:
        return pyrage.plugin.RecipientPluginV1(recipient.plugin(), [recipient], [], person)
    except pyrage.EncryptError as exc:
        raise _no_plugin(recipient.plugin()) from exc


def read_recipients(name: str, data: bytes, person: Person = Nobody()) -> list[Recipient]:  # noqa: B008 - see above
    """Parse a file of recipients: one key in PEM, or one line each in age's or SSH's notation; # begins a comment.

    ConfigurationError if there is none, or one that cannot be used.
    """
    if is_identity_file(data) or _PRIVATE in data:
        raise ConfigurationError(
            f"{name} holds a private key: give its public key instead (`age-keygen -y PRIVATE`, the file of ssh-keygen "
            "that ends with .pub, or `openssl pkey -in PRIVATE -pubout -out PUBLIC`)"
        )
    if data.lstrip().startswith(_PEM):
        return [_of_pem(name, data)]
    try:
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        lines = []
    recipients = [read_recipient(line, person) for line in lines if line.startswith(WRITTEN_OUT)]
    if not recipients or any(line and not line.startswith((*WRITTEN_OUT, "#")) for line in lines):
        raise ConfigurationError(
            f"{name} holds no public key: give PEM (`openssl pkey -in PRIVATE -pubout -out PUBLIC`), an SSH public key "
            "(ed25519, rsa), or age recipients (`age-keygen -y PRIVATE`)"
        )
    return recipients


def _of_pem(name: str, pem: bytes) -> Recipient:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigurationError(
            f"{name} holds no public key in PEM: `openssl pkey -in PRIVATE -pubout -out PUBLIC` writes one"
        ) from exc
    if isinstance(key, X25519PublicKey):
        return read_recipient(encode("age", key.public_bytes_raw()))
    if not isinstance(key, RSAPublicKey):
        raise ConfigurationError(f"{name} is neither an RSA nor an X25519 key: make one with `openssl genpkey`")
    if key.key_size < LEAST_RSA_BITS:
        raise ConfigurationError(f"the RSA key {name} has {key.key_size} bits: it needs {LEAST_RSA_BITS} at least")
    return read_recipient(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


def _no_recipient(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"{text[:80]!r} is no recipient: give age1…, ssh-ed25519 … or ssh-rsa …, or a file with such lines"
    )


def _no_plugin(name: str) -> ConfigurationError:
    return ConfigurationError(f"there is no program age-plugin-{name} on the PATH, which this key needs: install it")


# -- identities -------------------------------------------------------------------------------------------------


def check_private(name: str, data: bytes) -> None:
    """Raise ConfigurationError for a file that holds no private key but something else that is easily confused."""
    if data.startswith(_ENCRYPTED):
        raise ConfigurationError(f"{name} is a file that age has encrypted, perhaps the backup itself: {_GIVE}")
    if _PUBLIC in data or data.lstrip().startswith(tuple(each.encode() for each in WRITTEN_OUT)):
        raise ConfigurationError(f"{name} holds a public key, which cannot decrypt: {_GIVE}")


_ENCRYPTED: Final = b"age-encryption.org/"
_PUBLIC: Final = b"PUBLIC KEY-----"
_PRIVATE: Final = b"PRIVATE KEY-----"
_GIVE: Final = "give the private key that belongs to the public key to which the backup was sealed"


def is_identity_file(data: bytes) -> bool:
    """Return True for a private key file in age's or SSH's format, as opposed to OpenSSL's PEM or DER."""
    return data.lstrip().startswith(_OPENSSH) or any(each.encode() in data for each in _IDENTITIES)


def read_identities(name: str, data: bytes, person: Person = Nobody()) -> PrivateKeys:  # noqa: B008 - see above
    """Parse private keys in a file written by age-keygen, a plugin or ssh-keygen.

    ConfigurationError, which contains nothing of the file, if it holds none, or if a plugin is missing.
    """
    try:
        if data.lstrip().startswith(_OPENSSH):
            return PrivateKeys((pyrage.ssh.Identity.from_buffer(data),))
        lines = [line.strip() for line in data.decode().splitlines()]
        return _identities([line for line in lines if line and not line.startswith("#")], person)
    except (pyrage.IdentityError, ValueError):
        fault = (
            f"{name} cannot be read as private keys of age or SSH: give a file of age-keygen or ssh-keygen, without a "
            "passphrase (`ssh-keygen -p -N '' -f COPY` removes it from a copy)"
        )
    raise ConfigurationError(fault)  # outside the handler, so that no chained exception contains parts of the file


def _identities(lines: list[str], person: Person) -> PrivateKeys:
    loaded: list[Any] = []
    plugins: defaultdict[str, list[pyrage.plugin.Identity]] = defaultdict(list)
    for line in lines:
        if line.startswith("AGE-PLUGIN-"):
            identity = pyrage.plugin.Identity.from_str(line)
            plugins[identity.plugin()].append(identity)
        else:
            loaded.append(pyrage.x25519.Identity.from_str(line))
    for name, identities in plugins.items():
        try:
            loaded.append(pyrage.plugin.IdentityPluginV1(name, identities, person))
        except pyrage.DecryptError as exc:
            raise _no_plugin(name) from exc
    return PrivateKeys(tuple(loaded))


def identity_of(pkcs8: bytes) -> PrivateKeys:
    """Convert a private key in PKCS #8 to an identity. ConfigurationError for a kind that no backup is sealed to."""
    key = load_der_private_key(pkcs8, None)
    if isinstance(key, X25519PrivateKey):
        text = encode(_SECRET, key.private_bytes_raw()).upper()
        return PrivateKeys((pyrage.x25519.Identity.from_str(text),), pkcs8)
    if isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        openssh = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        return PrivateKeys((pyrage.ssh.Identity.from_buffer(openssh),), pkcs8)
    raise ConfigurationError("no backup is sealed to a key of that kind: give an RSA, X25519 or Ed25519 key")
