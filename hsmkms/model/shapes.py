"""Members of several operations, each with the constraints of botocore's model (the shape's name beside it)."""

from enum import StrEnum
from typing import Annotated, Any, Final

from msgspec import Struct

from hsmkms.model.constraints import Length, OneOf, Pattern, Range, Sensitive, Total, Width
from hsmkms.model.enums import (
    DataKeyPairSpec,
    DataKeySpec,
    DryRunModifier,
    EncapsulationAlgorithm,
    EncryptionAlgorithm,
    ExpirationModel,
    ImportState,
    ImportType,
    IncludeKeyMaterial,
    KeyAgreementAlgorithm,
    KeyEncryptionMechanism,
    KeyManager,
    KeySpec,
    KeyState,
    KeyUsage,
    MacAlgorithm,
    MaterialState,
    MessageType,
    MultiRegionKeyType,
    Origin,
    ResourceOwner,
    RotationType,
    SigningAlgorithm,
    TrackedOperation,
    WrappingAlgorithm,
    WrappingKeySpec,
)

REQUIRED: Final[Any] = None
"""Default of a required member: ``validate`` reports it if absent, together with all other violations."""


class CustomerMasterKeySpec(StrEnum):
    """The older enumeration of key specs, without ML-DSA, ML-KEM and Ed25519."""

    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    ECC_NIST_P256 = "ECC_NIST_P256"
    ECC_NIST_P384 = "ECC_NIST_P384"
    ECC_NIST_P521 = "ECC_NIST_P521"
    ECC_SECG_P256K1 = "ECC_SECG_P256K1"
    SYMMETRIC_DEFAULT = "SYMMETRIC_DEFAULT"
    HMAC_224 = "HMAC_224"
    HMAC_256 = "HMAC_256"
    HMAC_384 = "HMAC_384"
    HMAC_512 = "HMAC_512"


Arn = Annotated[str, Length(20, 2048)]  # ArnType
Region = Annotated[str, Length(1, 32), Pattern(r"^([a-z]+-){2,3}\d+$")]  # RegionType
KeyId = Annotated[str, Length(1, 2048)]  # KeyIdType
AliasName = Annotated[str, Length(1, 256), Pattern(r"^[a-zA-Z0-9:/_-]+$")]  # AliasNameType
Description = Annotated[str, Length(0, 8192)]  # DescriptionType
Policy = Annotated[str, Length(1, 131072), Width(2), Pattern(r"[\u0009\u000A\u000D\u0020-\u00FF]+")]  # PolicyType
Plaintext = Annotated[bytes, Length(1, 4096), Sensitive()]  # PlaintextType
Ciphertext = Annotated[bytes, Length(1, 6144)]  # CiphertextType
PublicKey = Annotated[bytes, Length(1, 8192)]  # PublicKeyType
EncryptionContext = Annotated[dict[str, str], Total(8192)]  # EncryptionContextType
GrantTokens = Annotated[list[Annotated[str, Length(1, 8192), Width(1)]], Length(0, 10)]  # GrantTokenList
Limit = Annotated[int, Range(1, 1000)]  # LimitType
Marker = Annotated[str, Length(1, 1024), Pattern(r"[\u0020-\u00FF]*")]  # MarkerType
NumberOfBytes = Annotated[int, Range(1, 1024)]  # NumberOfBytesType
CustomKeyStoreId = Annotated[str, Length(1, 64)]  # CustomKeyStoreIdType
CustomKeyStoreName = Annotated[str, Length(1, 256)]  # CustomKeyStoreNameType
CloudHsmClusterId = Annotated[str, Length(19, 24), Pattern(r"cluster-[2-7a-zA-Z]{11,16}")]  # CloudHsmClusterIdType
XksKeyId = Annotated[str, Length(1, 128), Pattern(r"^[a-zA-Z0-9-_.]+$")]  # XksKeyIdType
KeyMaterialId = Annotated[str, Length(64, 64), Pattern(r"^[a-f0-9]+$")]  # BackingKeyIdType
KeyMaterialDescription = Annotated[str, Length(0, 256), Pattern(r"^[a-zA-Z0-9:/_\s.-]+$")]  # KeyMaterialDescriptionType
ROTATION_PERIOD_DAYS: Final = Range(90, 2560)
RotationPeriodInDays = Annotated[int, ROTATION_PERIOD_DAYS]  # RotationPeriodInDaysType
PendingWindowInDays = Annotated[int, Range(1, 365)]  # PendingWindowInDaysType
TagKey = Annotated[str, Length(1, 128)]  # TagKeyType
TagValue = Annotated[str, Length(0, 256)]  # TagValueType

KeySpecWord = Annotated[str, OneOf(KeySpec)]
CustomerMasterKeySpecWord = Annotated[str, OneOf(CustomerMasterKeySpec)]
KeyUsageWord = Annotated[str, OneOf(KeyUsage)]
OriginWord = Annotated[str, OneOf(Origin)]
KeyStateWord = Annotated[str, OneOf(KeyState)]
KeyManagerWord = Annotated[str, OneOf(KeyManager)]
ExpirationModelWord = Annotated[str, OneOf(ExpirationModel)]
ImportTypeWord = Annotated[str, OneOf(ImportType)]
ImportStateWord = Annotated[str, OneOf(ImportState)]
IncludeKeyMaterialWord = Annotated[str, OneOf(IncludeKeyMaterial)]
MaterialStateWord = Annotated[str, OneOf(MaterialState)]
RotationTypeWord = Annotated[str, OneOf(RotationType)]
WrappingAlgorithmWord = Annotated[str, OneOf(WrappingAlgorithm)]
WrappingKeySpecWord = Annotated[str, OneOf(WrappingKeySpec)]
TrackedOperationWord = Annotated[str, OneOf(TrackedOperation)]
MultiRegionKeyTypeWord = Annotated[str, OneOf(MultiRegionKeyType)]
DataKeyPairSpecWord = Annotated[str, OneOf(DataKeyPairSpec)]
DataKeySpecWord = Annotated[str, OneOf(DataKeySpec)]
EncryptionAlgorithmWord = Annotated[str, OneOf(EncryptionAlgorithm)]
SigningAlgorithmWord = Annotated[str, OneOf(SigningAlgorithm)]
MessageTypeWord = Annotated[str, OneOf(MessageType)]
MacAlgorithmWord = Annotated[str, OneOf(MacAlgorithm)]
KeyAgreementAlgorithmWord = Annotated[str, OneOf(KeyAgreementAlgorithm)]
EncapsulationAlgorithmWord = Annotated[str, OneOf(EncapsulationAlgorithm)]
DryRunModifiers = list[Annotated[str, OneOf(DryRunModifier)]]
ResourceOwners = Annotated[list[Annotated[str, OneOf(ResourceOwner)]], Length(1, 2)]


class Shape(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Base of all requests, responses and structures: the API's member names on the wire, without absent members."""

    def __repr__(self) -> str:
        """Show only the length of bytes: they may be plaintext or a data key, and a repr is in logs and tracebacks."""
        members = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={_shown(value)}" for name, value in members if value is not None)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Yield the same for rich, which shows local variables in its tracebacks."""
        return [(name, _shown(getattr(self, name))) for name in self.__struct_fields__]


def _shown(value: object) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)


class Tag(Shape, frozen=True, kw_only=True):
    """A tag of a key."""

    tag_key: TagKey = REQUIRED
    tag_value: TagValue = REQUIRED


class Recipient(Shape, frozen=True, kw_only=True):
    """An attested enclave to encrypt the response for (RecipientInfo)."""

    key_encryption_algorithm: Annotated[str, OneOf(KeyEncryptionMechanism)] | None = None
    attestation_document: Annotated[bytes, Length(1, 262144)] | None = None
