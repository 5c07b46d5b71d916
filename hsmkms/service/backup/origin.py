"""Prove the origin of a backup: its manifest, and two proofs of it, by the token and by an operator's signing key.

The archive of a backup ends with ``manifest.json``, which lists every file with its size and SHA-256 and describes the
backup; ``manifest.mac``, an HMAC over it by the installation's key on the token; and, if the operator has a signing
key, ``manifest.sig``, a signature over it. None of the three depends on the envelope, and ``sha256sum`` and ``openssl``
check digests and signature without hsmkms.

Anyone with the token's PIN can compute the HMAC; anyone with the signing key, the signature. A backup of an older
version has neither. If it is sealed to a public key, anyone could have made it. If the token sealed it, that proves the
same as the HMAC, with one exception: anyone who has obtained the key of that file (from a process that made or opened
it) can replace its content.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from hsmkms.errors import BindingError, ObjectLostError, StoreError
from hsmkms.hsm.ports import Device
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.service.backup import signature as backup_signature
from hsmkms.service.backup.signature import SigningKey, VerifyingKey
from hsmkms.service.keys import installation_keys
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store.archive import Member

MANIFEST: Final = "manifest.json"
MAC: Final = "manifest.mac"
SIGNATURE: Final = "manifest.sig"
FORMAT: Final = "hsmkms backup manifest 1"
LARGEST: Final[Mapping[str, int]] = {MANIFEST: 64 * 1024 * 1024, MAC: 4096, SIGNATURE: 4096}
"""Maximum size of each, in bytes."""

_DOMAIN: Final = b"hsmkms backup manifest v1\0"
_match_label: Final = re.compile(rf"hsmkms/([0-9a-f]{{8}})/{KeyPurpose.MAC}/[1-9][0-9]{{0,8}}").fullmatch


class Manifest(Struct, frozen=True, kw_only=True):
    """Description and contents of a backup, as stated by its maker. ``recipients``: those of its envelope."""

    format: str
    installation: str
    account: str
    created_at: datetime
    method: str
    recipients: list[str]
    contains: str
    lacks: str
    files: list[Member]


class TokenMac(Struct, frozen=True, kw_only=True):
    """The token's proof: CKA_ID (hex) and label of the key, and the HMAC-SHA-256 (hex)."""

    key: str
    label: str
    mac: str


class Proof(Struct, frozen=True, kw_only=True):
    """Verified proofs of a backup's origin. ``signature``: the fingerprint of the key that signed it."""

    token: bool = False
    sealed_by_token: bool = False
    signature: str | None = None

    @property
    def found(self) -> bool:
        """True if there is any proof."""
        return self.token or self.sealed_by_token or self.signature is not None

    def __str__(self) -> str:
        words = {
            "token": self.token,
            "token seal": self.sealed_by_token and not self.token,
            f"signature {self.signature}": self.signature is not None,
        }
        return ", ".join(word for word, holds in words.items() if holds) or "none"


# -- making -----------------------------------------------------------------------------------------------------


def proofs(core: Core, manifest: Manifest, signing_key: SigningKey | None) -> dict[str, bytes]:
    """Return the last files of the archive: the manifest and its proofs."""
    text = msgspec.json.format(msgspec.json.encode(manifest))
    made = {MANIFEST: text, MAC: msgspec.json.encode(_token_mac(core, text))}
    if signing_key is not None:
        made[SIGNATURE] = backup_signature.sign(signing_key, text)
    return made


def _token_mac(core: Core, manifest: bytes) -> TokenMac:
    cka_id = installation_keys.witness(core)
    key = next(each for each in installation_keys.versions(core, KeyPurpose.MAC) if each.cka_id == cka_id)
    made = _mac(core.tokens.of(key.token_id), cka_id, manifest)
    return TokenMac(key=cka_id.hex(), label=key.label(core.installation.id), mac=made.hex())


def _mac(device: Device, cka_id: bytes, manifest: bytes) -> bytes:
    message = _DOMAIN + hashlib.sha256(manifest).digest()
    return device.own.mac(own_permit(OperatorAct.BACKUP, cka_id), cka_id, message)


# -- checking ---------------------------------------------------------------------------------------------------


def read_manifest(members: Sequence[Member], kept: Mapping[str, bytes]) -> Manifest | None:
    """Return the manifest of an unpacked backup, or None if an older version made it, without manifests.

    StoreError if the archive does not hold exactly what its manifest says.
    """
    text = kept.get(MANIFEST)
    if text is None:
        if kept.keys() & {MAC, SIGNATURE}:
            raise StoreError("the backup has proofs but no manifest: take another copy of it")
        return None
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise StoreError("the manifest of the backup cannot be read: it was not made by this program") from exc
    if manifest.format != FORMAT:
        raise StoreError(f"the manifest of the backup is a {manifest.format[:80]!r}, which this version does not know")
    if [each for each in members if each.name not in LARGEST] != manifest.files:
        raise StoreError("the backup does not hold what its manifest lists: its parts are of different backups")
    return manifest


def check_token(manifest: Manifest, kept: Mapping[str, bytes], devices: Iterable[Device]) -> None:
    """Verify the HMAC over the manifest with one of the tokens.

    BindingError if none of them holds the key; StoreError if the HMAC is wrong or missing.
    """
    try:
        token_mac = msgspec.json.decode(kept.get(MAC, b""), type=TokenMac)
        cka_id = bytes.fromhex(token_mac.key)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise StoreError("the backup holds no proof by a token") from exc
    label = _match_label(token_mac.label)
    if label is None or label[1] != manifest.installation[:8]:
        raise StoreError(
            f"the proof in the backup is by a key that proves nothing about its installation: {token_mac.key}"
        )
    for device in devices:
        try:
            labelled = device.keys.is_labelled(cka_id, token_mac.label)
            right = labelled and hmac.compare_digest(_mac(device, cka_id, kept[MANIFEST]).hex(), token_mac.mac)
        except ObjectLostError:
            continue
        if right:
            return
        raise StoreError("the proof in the backup was not made by this token: the backup is forged or was changed")
    raise BindingError(
        f"the token does not hold the key that proves who made this backup ({token_mac.label}): correct [token] in the "
        "configuration, or restore the token's own backup first"
    )


def check_signature(kept: Mapping[str, bytes], key: VerifyingKey) -> str:
    """Verify the signature over the manifest; return the key's fingerprint. StoreError if it is wrong or missing."""
    name = backup_signature.fingerprint(key)
    if SIGNATURE not in kept:
        raise StoreError("the backup is not signed, and --signed-by asks for a signature")
    if not backup_signature.verifies(key, kept[MANIFEST], kept[SIGNATURE]):
        raise StoreError(f"the backup is not signed by the key {name}: another key signed it, or it was changed")
    return name
