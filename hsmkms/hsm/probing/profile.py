"""Probe what a token can really do; the result is one value that the rest of the code consults.

No code checks the vendor's name: tokens of one vendor differ by firmware and configuration. The probe runs at every
start with session objects only; it leaves nothing on the token.
"""

from collections.abc import Callable, Collection
from typing import Final

from msgspec import Struct
from pkcs11.constants import Attribute
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session, Token

from hsmkms.errors import TokenUnfitError, UnsupportedOperationException
from hsmkms.hsm.crypto.gcm import open_sealed, seal
from hsmkms.hsm.crypto.gcm_from_blocks import expected_gcm
from hsmkms.hsm.crypto.iv import IV_BYTES
from hsmkms.hsm.crypto.token_iv import QUIRKS, IvOrigin, find_origin, seal_by_token
from hsmkms.hsm.faults import translated
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY, HARDENED
from hsmkms.hsm.objects.cbc_pairs import NO_GCM
from hsmkms.hsm.objects.handle_keys import HandleKey
from hsmkms.hsm.objects.objects import generate, handle_of
from hsmkms.hsm.objects.support import STANDARD, AttributeSupport
from hsmkms.hsm.probing.attributes import try_attributes
from hsmkms.hsm.probing.cbc import check_cbc
from hsmkms.hsm.serials import serial_of
from hsmkms.model.cipher_format import CipherFormat

GENERATION: Final = (Mechanism.AES_KEY_GEN, Mechanism.GENERIC_SECRET_KEY_GEN)
NEEDED: Final = (*GENERATION, Mechanism.SHA256_HMAC)
"""What hsmkms needs of every token, besides one of the ciphertext formats."""

FORMATS: Final = {
    CipherFormat.AES_256_GCM: Mechanism.AES_GCM,
    CipherFormat.AES_256_CBC_HMAC_SHA_256: Mechanism.AES_CBC,
}
"""The mechanism of each ciphertext format, the preferred one first: another is used only where it is not listed."""

NO_GENERATION: Final = (
    "it generates no secret keys itself, so they would have to be created from bytes of this process and written to it "
    "(C_CreateObject), which hsmkms never does. hsmkms cannot keep keys on it"
)
LONG_LABEL_BYTES: Final = 128
SHORT_LABEL_BYTES: Final = 32
_PROBE_LABEL: Final = "hsmkms probe (a session object)"
_SHORT_NAMES: Final = {
    CipherFormat.AES_256_GCM: "AES-GCM",
    CipherFormat.AES_256_CBC_HMAC_SHA_256: "AES-CBC with HMAC",
}
_PLAINTEXT: Final = b"hsmkms known answer test: 40 bytes long."
_AAD: Final = b"additional authenticated data"


class TokenProfile(Struct, frozen=True, kw_only=True):
    """Result of probing a token.

    ``mechanisms``: names, or hexadecimal numbers of vendors' own. ``label_bytes``: how much of a label it keeps.
    ``cipher_format``: of new key material. ``iv_origin``: who chooses the IVs of AES-GCM. ``gcm_checked``: the AES-GCM
    answer was compared with an independent computation (False where the token has no AES-GCM, or no AES-ECB to compute
    with; then only round trip and refusal were tried).
    ``attributes``: what it makes of the attributes that are ordered. ``quirks``: sentences for people.
    """

    label: str
    serial: str
    manufacturer: str
    model: str
    firmware: str
    library: str
    mechanisms: frozenset[str]
    label_bytes: int
    cipher_format: CipherFormat
    iv_origin: IvOrigin
    gcm_checked: bool
    attributes: AttributeSupport
    quirks: tuple[str, ...]

    def can_replace(self, other: "TokenProfile") -> bool:
        """Return True if what was prepared for the other token holds: its IVs, labels, attributes and mechanisms."""
        return (
            (self.iv_origin, self.label_bytes) == (other.iv_origin, other.label_bytes)
            and self.attributes.has_same_deviations(other.attributes)
            and other.mechanisms <= self.mechanisms
        )


def probe(token: Token, session: Session, library: str) -> TokenProfile:
    """Try what hsmkms needs; raises TokenUnfitError naming what the token lacks or does wrong."""
    with translated():
        mechanisms = token.slot.get_mechanisms()
    cipher_format = format_for(mechanisms)
    attributes = _attributes(session)
    quirks = list(attributes.quirks)
    exact, iv_origin = Mechanism.AES_ECB in mechanisms, IvOrigin.CALLER
    if cipher_format is CipherFormat.AES_256_GCM:
        iv_origin = check_gcm(session, attributes, exact=exact)
    else:
        check_cbc(session, attributes, exact=exact)
        quirks.append(NO_GCM)
    if iv_origin in QUIRKS:
        quirks.append(QUIRKS[iv_origin])
    if not exact:
        quirks.append(
            f"no AES-ECB to compute a known answer with: {_SHORT_NAMES[cipher_format]} was checked by round trip only"
        )
    kept = label_bytes(session, attributes)
    if kept < LONG_LABEL_BYTES:
        quirks.append(f"labels are cut to {kept} bytes: short labels are used, without the region")
    major, minor = token.firmware_version
    return TokenProfile(
        label=token.label,
        serial=serial_of(token),
        manufacturer=token.manufacturer_id,
        model=token.model,
        firmware=f"{major}.{minor}",
        library=library,
        mechanisms=frozenset(mechanism_name(each) for each in mechanisms),
        label_bytes=kept,
        cipher_format=cipher_format,
        iv_origin=iv_origin,
        gcm_checked=exact and cipher_format is CipherFormat.AES_256_GCM,
        attributes=attributes,
        quirks=tuple(quirks),
    )


def format_for(mechanisms: Collection[Mechanism | int]) -> CipherFormat:
    """Return the format for new key material. TokenUnfitError, naming what is missing, if hsmkms cannot use the token.

    It depends on what the token lists, not on whether it works: a token whose AES-GCM is wrong is refused.
    """
    fitting = next((each for each, needed in FORMATS.items() if needed in mechanisms), None)
    missing = [each.name for each in NEEDED if each not in mechanisms]
    if fitting is None:
        missing.append("AES_GCM or AES_CBC")
    if fitting is None or missing:
        reason = NO_GENERATION if {each.name for each in GENERATION} & {*missing} else "hsmkms cannot keep keys on it"
        raise TokenUnfitError(f"the token has no {', '.join(missing)}: {reason}")
    return fitting


def _attributes(session: Session) -> AttributeSupport:
    """Try what the token makes of ordered attributes; TokenUnfitError if it generates no key."""
    try:
        return try_attributes(session)
    except UnsupportedOperationException as exc:
        raise TokenUnfitError(f"the token lists AES_KEY_GEN and refuses it ({exc}): {NO_GENERATION}") from exc


def check_gcm(session: Session, support: AttributeSupport = STANDARD, *, exact: bool) -> IvOrigin:
    """Test AES-GCM with a random session key; return who chooses the IVs.

    It encrypts, compares, decrypts, and requires that a changed message is refused. TokenUnfitError if the token fails.
    ``exact``: compare with an independent computation, for which the token must have AES-ECB.
    """
    key = generate(session, AES_256_BACKING_KEY, b"hsmkms probe 001", _PROBE_LABEL, support, store=False)
    handle = handle_of(key)
    try:
        with translated():
            origin = find_origin(session, handle)
            iv, body = _seal(session, handle, origin)
            opened = open_sealed(session, handle, iv, body, _AAD)
            repeated = origin is not IvOrigin.CALLER and _seal(session, handle, origin)[0] == iv
        if repeated:
            raise TokenUnfitError("the token chooses the same IV for two encryptions: hsmkms cannot use its AES-GCM")
        if exact and body != expected_gcm(_aes_block(session, handle), iv, _PLAINTEXT, _AAD):
            raise TokenUnfitError("the token's AES-GCM is not that of NIST SP 800-38D: hsmkms cannot use it")
        if opened != _PLAINTEXT or _accepts(session, handle, iv, bytes((body[0] ^ 1,)) + body[1:]):
            raise TokenUnfitError("the token's AES-GCM accepts changed data or loses plaintext: hsmkms cannot use it")
    finally:
        with translated():
            key.destroy()
    return origin


def _seal(session: Session, handle: int, origin: IvOrigin) -> tuple[bytes, bytes]:
    if origin is IvOrigin.CALLER:
        iv = session.generate_random(8 * IV_BYTES)
        return iv, seal(session, handle, iv, _PLAINTEXT, _AAD)
    return seal_by_token(session, handle, origin, _PLAINTEXT, _AAD)


def _aes_block(session: Session, handle: int) -> Callable[[bytes], bytes]:
    def encrypt_block(block: bytes) -> bytes:
        with translated():
            done: bytes = HandleKey(session, handle).encrypt(block, mechanism=Mechanism.AES_ECB)
        return done

    return encrypt_block


def _accepts(session: Session, handle: int, iv: bytes, body: bytes) -> bool:
    try:
        open_sealed(session, handle, iv, body, _AAD)
    except PKCS11Error:
        return False
    return True


def label_bytes(session: Session, support: AttributeSupport = STANDARD) -> int:
    """Return how many bytes of a long label the token keeps; 32 if it refuses a long one."""
    wanted, template = "L" * LONG_LABEL_BYTES, support.ordered(HARDENED)
    try:
        made = session.generate_key(KeyType.AES, 256, label=wanted, store=False, template=template)
        kept = len(made[Attribute.LABEL])
        made.destroy()
    except PKCS11Error:
        return SHORT_LABEL_BYTES
    return kept


def mechanism_name(mechanism: Mechanism | int) -> str:
    """Return the mechanism's name in the standard, or its hexadecimal number if it is a vendor's own."""
    # python-pkcs11 marks weak ones (MD5, DES) with an underscore.
    return mechanism.name.removeprefix("_") if isinstance(mechanism, Mechanism) else f"0x{mechanism:08x}"
