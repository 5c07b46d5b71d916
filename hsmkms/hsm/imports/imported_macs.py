"""Import HMAC keys, proving their length on the token as far as the token allows.

A key must be as long as its spec says. Where the token does not report the length of unwrapped keys (SoftHSM), its HMAC
mechanism refuses shorter keys; longer keys are detected by AES-KWP, whose output grows in steps of 8 bytes, and keys of
32 bytes by a trial AES operation. So a longer key can pass with RSAES_OAEP alone (or as HMAC_224 of up to 32 bytes);
such a key is not weaker.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pkcs11.exceptions import KeySizeRange
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Object, Session

from hsmkms.errors import RejectedMaterialError
from hsmkms.hsm.imports.unwrapping import Source, Unwrapping, length_of, unwrapped_differences
from hsmkms.hsm.imports.wrapping import KEY_WRAPS, MATERIAL_BYTES, ImportProfile, Lengths
from hsmkms.hsm.objects.attributes import ImportedTemplate
from hsmkms.hsm.objects.handle_keys import HandleKey
from hsmkms.hsm.objects.objects import handle_of, require_as_ordered

_OVERHEAD: Final = 8
_BLOCK: Final = 8
_TRIAL: Final = b"hsmkms imported HMAC key"


class MacImport:
    """Import one HMAC key; ``mac`` is the only mechanism that it will be used with."""

    def __init__(
        self,
        session: Session,
        unwrapping: Unwrapping,
        template: ImportedTemplate,
        mac: Mechanism,
        profile: ImportProfile,
    ) -> None:
        self._session = session
        self._unwrapping = unwrapping
        self._template = template
        self._mac = mac
        self._profile = profile
        self._bytes = template.bits // 8

    def fingerprints(self, ciphertext: bytes, message: bytes) -> dict[str, bytes]:
        """Return the key's own HMAC of ``message``, keyed by the mechanism's name."""
        with self._unwrapping.material(ciphertext) as source, self._proven(source) as copy:
            return {self._mac.name: self._compute(copy, message)}

    def keep(self, ciphertext: bytes, cka_id: bytes, label: str) -> Object:
        """Create the backing key once the material's length is proven; read its attributes back and compare."""
        template = self._template
        with self._unwrapping.material(ciphertext) as source:
            with self._proven(source):
                pass
            made = source.unwrap(template.key_type, template.capabilities, cka_id, label)
            require_as_ordered(made, unwrapped_differences(made, template.expected(cka_id, label), self._profile))
            return made

    @contextmanager
    def _proven(self, source: Source) -> Iterator[Object]:
        """Yield a session copy of the material. RejectedMaterialError if its length is known to be wrong."""
        wrong = RejectedMaterialError(f"the key material must have exactly {self._bytes} bytes")
        if self._bytes == MATERIAL_BYTES:
            with self._unwrapping.proven(source):
                pass
        elif source.mechanism in KEY_WRAPS and len(source.ciphertext) != self._padded:
            raise wrong
        with self._unwrapping.opened(source) as copy:
            if not self._fits(copy):
                raise wrong
            yield copy

    @property
    def _padded(self) -> int:
        """Length in bytes of the material once wrapped with AES-KWP (RFC 5649)."""
        return _OVERHEAD + (self._bytes + _BLOCK - 1) // _BLOCK * _BLOCK

    def _fits(self, copy: Object) -> bool:
        if self._profile.lengths is Lengths.HONEST:
            return length_of(copy) == self._bytes
        try:
            self._compute(copy, _TRIAL)
        except KeySizeRange:
            return False
        return True

    def _compute(self, copy: Object, message: bytes) -> bytes:
        key = HandleKey(self._session, handle_of(copy), KeyType.GENERIC_SECRET)
        made: bytes = key.sign(message, mechanism=self._mac)
        return made
