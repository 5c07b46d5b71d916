"""Members that many operations share, each with the constraints of botocore's model (the shape's name beside it)."""

from typing import Annotated, Any, Final

from msgspec import Struct

from hsmkms.model.constraints import Length, OneOf, Pattern, Range, Sensitive
from hsmkms.model.enums import (
    DataKeySpec,
    DryRunModifier,
    EncryptionAlgorithm,
    KeyEncryptionMechanism,
    KeySpec,
    KeyUsage,
    Origin,
    ResourceOwner,
)

REQUIRED: Final[Any] = None
"""Default of a member that must be there: ``validate`` reports it, together with everything else that is wrong."""

KeyId = Annotated[str, Length(1, 2048)]  # KeyIdType
AliasName = Annotated[str, Length(1, 256), Pattern(r"^[a-zA-Z0-9:/_-]+$")]  # AliasNameType
Description = Annotated[str, Length(0, 8192)]  # DescriptionType
Policy = Annotated[str, Length(1, 131072), Pattern(r"[\u0009\u000A\u000D\u0020-\u00FF]+")]  # PolicyType
Plaintext = Annotated[bytes, Length(1, 4096), Sensitive()]  # PlaintextType
Ciphertext = Annotated[bytes, Length(1, 6144)]  # CiphertextType
EncryptionContext = dict[str, str]  # EncryptionContextType
GrantTokens = Annotated[list[Annotated[str, Length(1, 8192)]], Length(0, 10)]  # GrantTokenList
Limit = Annotated[int, Range(1, 1000)]  # LimitType
Marker = Annotated[str, Length(1, 1024), Pattern(r"[\u0020-\u00FF]*")]  # MarkerType
NumberOfBytes = Annotated[int, Range(1, 1024)]  # NumberOfBytesType
CustomKeyStoreId = Annotated[str, Length(1, 64)]  # CustomKeyStoreIdType
XksKeyId = Annotated[str, Length(1, 128), Pattern(r"^[a-zA-Z0-9-_.]+$")]  # XksKeyIdType
TagKey = Annotated[str, Length(1, 128)]  # TagKeyType
TagValue = Annotated[str, Length(0, 256)]  # TagValueType

KeySpecWord = Annotated[str, OneOf(KeySpec)]
KeyUsageWord = Annotated[str, OneOf(KeyUsage)]
OriginWord = Annotated[str, OneOf(Origin)]
DataKeySpecWord = Annotated[str, OneOf(DataKeySpec)]
EncryptionAlgorithmWord = Annotated[str, OneOf(EncryptionAlgorithm)]
DryRunModifiers = list[Annotated[str, OneOf(DryRunModifier)]]
ResourceOwners = Annotated[list[Annotated[str, OneOf(ResourceOwner)]], Length(1, 2)]


class Shape(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Base of all requests, responses and structures: the API's member names on the wire, absent members left out."""


class Tag(Shape, frozen=True, kw_only=True):
    """A tag of a key."""

    tag_key: TagKey = REQUIRED
    tag_value: TagValue = REQUIRED


class Recipient(Shape, frozen=True, kw_only=True):
    """An attested enclave that an answer should be encrypted to (RecipientInfo)."""

    key_encryption_algorithm: Annotated[str, OneOf(KeyEncryptionMechanism)] | None = None
    attestation_document: Annotated[bytes, Length(1, 262144)] | None = None
