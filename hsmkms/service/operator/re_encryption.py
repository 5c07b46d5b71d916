"""Move many ciphertexts to the current key material of one key, and report which backing keys ciphertexts need.

It does not know where ciphertexts are stored: the caller passes them one by one, from any number of threads. All work
is done by operations of the API, so that it is admitted and recorded as usual, and no plaintext is returned: a trial
decryption is a dry run of ReEncrypt.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from msgspec import Struct

from hsmkms.errors import (
    AccessDeniedException,
    DryRunOperationException,
    InvalidCiphertextException,
    NotFoundException,
    UnsupportedOperationException,
)
from hsmkms.model.caller import Caller
from hsmkms.model.crypto import ReEncryptRequest, ReEncryptResponse
from hsmkms.model.enums import DryRunModifier
from hsmkms.model.keys import DescribeKeyRequest, DescribeKeyResponse
from hsmkms.rules import blob

LONGEST: Final = 6144
"""Length in bytes of the longest ciphertext that the API accepts (CiphertextType)."""


class BackingKey(Struct, frozen=True, order=True):
    """One backing key of a KMS key, as named in the header of a ciphertext."""

    key_id: str
    key_material_id: str


class Moved(Struct, frozen=True, kw_only=True):
    """The outcome for a ciphertext.

    ``current``: it need not be moved. Otherwise ``ciphertext`` is the new one, or None if it was not created.
    """

    current: bool
    ciphertext: bytes | None = None


class Operations(Protocol):
    """The operations of ``Kms`` that are used here."""

    def describe_key(self, request: DescribeKeyRequest, caller: Caller | None = None) -> DescribeKeyResponse:
        """Return the metadata of a key."""

    def re_encrypt(self, request: ReEncryptRequest, caller: Caller | None = None) -> ReEncryptResponse:
        """Move a ciphertext to another key, to the newest material, or to another encryption context."""


class Job(Protocol):
    """A procedure for each ciphertext: a survey or a move."""

    def move(self, ciphertext: bytes, needs: BackingKey) -> Moved:
        """Move one ciphertext, or return that it has to be moved. Raises the errors of ReEncrypt or DescribeKey."""

    def is_current(self, needs: BackingKey) -> bool:
        """Return True unless the backing key is an older one."""


_CURRENT: Final = Moved(current=True)
_OUTDATED: Final = Moved(current=False)


def recognise(data: bytes) -> BackingKey | None:
    """Return the backing key that a ciphertext names; None if the data is no ciphertext of hsmkms."""
    if len(data) > LONGEST:
        return None
    try:
        parsed = blob.parse(data)
    except InvalidCiphertextException:
        return None
    return BackingKey(parsed.key_id, parsed.material_id)


class Survey:
    """Compares each ciphertext with the current material of its own key, and moves none."""

    def __init__(self, kms: Operations, caller: Caller | None = None) -> None:
        self._kms = kms
        self._caller = caller
        self._current: dict[str, str | None] = {}

    def move(self, ciphertext: bytes, needs: BackingKey) -> Moved:
        """Return whether the ciphertext is under its key's current material."""
        del ciphertext  # ``needs`` from its header is enough
        return _CURRENT if self.is_current(needs) else _OUTDATED

    def is_current(self, needs: BackingKey) -> bool:
        """Return True unless the backing key is an older one, or its key is not known here."""
        if needs.key_id not in self._current:
            self._current[needs.key_id] = self._describe(needs.key_id)
        return self._current[needs.key_id] == needs.key_material_id

    def _describe(self, key_id: str) -> str | None:
        try:
            answer = self._kms.describe_key(DescribeKeyRequest(key_id=key_id), self._caller)
        except (NotFoundException, AccessDeniedException):
            return None
        return answer.key_metadata.current_key_material_id


class Mover:
    """Moves each ciphertext to the current material of one key, and to an encryption context.

    A ciphertext that names the destination's current material is left as it is. If source and destination context
    differ, the header is not enough; then it is left if it decrypts under the destination's context. So a ciphertext
    that was moved before is not moved again, and an interrupted job is resumed by starting it again.
    """

    def __init__(
        self,
        kms: Operations,
        destination_key_id: str,
        *,
        source_context: Mapping[str, str],
        destination_context: Mapping[str, str],
        dry_run: bool = False,
        caller: Caller | None = None,
    ) -> None:
        """Resolve the key once, so that an alias that is moved meanwhile does not split the job.

        Raises the error with which ReEncrypt would refuse the destination, before any ciphertext is moved.
        """
        self._kms = kms
        self._caller = caller
        self._source = dict(source_context)
        self._destination = dict(destination_context)
        self._dry_run = dry_run
        described = kms.describe_key(DescribeKeyRequest(key_id=destination_key_id), caller).key_metadata
        self.destination = described.arn
        self._check_destination()
        if described.current_key_material_id is None:
            raise UnsupportedOperationException(f"{described.arn} is no symmetric key with key material.")
        self._current = BackingKey(described.key_id, described.current_key_material_id)

    def move(self, ciphertext: bytes, needs: BackingKey) -> Moved:
        """Move a ciphertext to the destination's current material and context. Raises the errors of ReEncrypt."""
        same_context = self._source == self._destination
        current = self.is_current(needs)
        if current and same_context:
            return _CURRENT
        try:
            return self._re_encrypt(ciphertext, self._source, dry_run=self._dry_run)
        except InvalidCiphertextException:
            if same_context:
                raise
        # Its context may have been changed before, by this job or an earlier one.
        moved = self._re_encrypt(ciphertext, self._destination, dry_run=self._dry_run or current)
        return _CURRENT if current else moved

    def is_current(self, needs: BackingKey) -> bool:
        """Return True for the destination's current material."""
        return needs == self._current

    def _check_destination(self) -> None:
        """Check the destination by a dry run without a ciphertext; the request names it as the source as well."""
        request = ReEncryptRequest(
            source_key_id=self.destination,
            destination_key_id=self.destination,
            destination_encryption_context=self._destination,
            dry_run=True,
            dry_run_modifiers=[DryRunModifier.IGNORE_CIPHERTEXT],
        )
        try:
            self._kms.re_encrypt(request, self._caller)
        except DryRunOperationException:
            return

    def _re_encrypt(self, ciphertext: bytes, context: dict[str, str], *, dry_run: bool) -> Moved:
        request = ReEncryptRequest(
            ciphertext_blob=ciphertext,
            source_encryption_context=context,
            destination_key_id=self.destination,
            destination_encryption_context=self._destination,
            dry_run=dry_run,
        )
        try:
            answer = self._kms.re_encrypt(request, self._caller)
        except DryRunOperationException:
            return _OUTDATED
        # It differs from the one at the start if the key was rotated meanwhile.
        if answer.destination_key_material_id is not None:
            self._current = BackingKey(self._current.key_id, answer.destination_key_material_id)
        return Moved(current=False, ciphertext=answer.ciphertext_blob)
