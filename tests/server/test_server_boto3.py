"""boto3, as programs use it: every operation that hsmkms has, paginators, and error classes."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS
from hsmkms.testing import Endpoint

Client = Any
"""boto3 makes its classes at run time."""

CONTEXT: Final = {"purpose": "tests", "\u00fcmlaut": "\u4e2d"}


def new_key(client: Client, **members: Any) -> str:  # noqa: ANN401 - of any operation
    """A fresh key's id."""
    return str(client.create_key(**members)["KeyMetadata"]["KeyId"])


def described(client: Client, key_id: str) -> dict[str, Any]:
    """The key's metadata as DescribeKey returns it."""
    metadata: dict[str, Any] = client.describe_key(KeyId=key_id)["KeyMetadata"]
    return metadata


def imported(client: Client, material: bytes, **more: Any) -> tuple[str, dict[str, Any]]:  # noqa: ANN401 - members
    """A key with imported material, and what the import answered."""
    key_id = new_key(client, Origin="EXTERNAL")
    return key_id, import_into(client, key_id, material, **more)


def import_into(client: Client, key_id: str, material: bytes, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - members
    """Wrap material and import it."""
    parameters = client.get_parameters_for_import(
        KeyId=key_id, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048"
    )
    public = load_der_public_key(parameters["PublicKey"])
    assert isinstance(public, RSAPublicKey)
    assert parameters["ParametersValidTo"] > datetime.now(UTC)
    answer: dict[str, Any] = client.import_key_material(
        KeyId=key_id,
        ImportToken=parameters["ImportToken"],
        EncryptedKeyMaterial=public.encrypt(material, OAEP(MGF1(SHA256()), SHA256(), None)),
        **{"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE", **more},
    )
    return answer


# -- one case for each operation --------------------------------------------------------------------------------


def create_key(client: Client) -> None:
    """CreateKey answers with all of the new key's metadata."""
    key = client.create_key(Description="d\u00e9j\u00e0", Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]
    assert key["Arn"].endswith(f":key/{key['KeyId']}")
    assert (key["Description"], key["KeyState"], key["Enabled"]) == ("d\u00e9j\u00e0", "Enabled", True)
    assert abs(key["CreationDate"] - datetime.now(UTC)) < timedelta(minutes=10)


def describe_key(client: Client) -> None:
    """DescribeKey takes an id, an ARN and an alias."""
    key_id = new_key(client)
    client.create_alias(AliasName="alias/boto3-describe", TargetKeyId=key_id)
    key = described(client, key_id)
    assert described(client, key["Arn"]) == described(client, "alias/boto3-describe") == key


def list_keys(client: Client) -> None:
    """ListKeys has the new key on one of its pages."""
    made = {new_key(client) for _ in range(3)}
    pages = list(client.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2}))
    assert len(pages) > 1
    assert made <= {key["KeyId"] for page in pages for key in page["Keys"]}


def update_key_description(client: Client) -> None:
    """UpdateKeyDescription takes any text, also none."""
    key_id = new_key(client)
    for text in ("new words", ""):
        client.update_key_description(KeyId=key_id, Description=text)
        assert described(client, key_id)["Description"] == text


def disable_and_enable_key(client: Client) -> None:
    """A disabled key encrypts nothing until it is enabled."""
    key_id = new_key(client)
    client.disable_key(KeyId=key_id)
    with pytest.raises(client.exceptions.DisabledException, match="is disabled"):
        client.encrypt(KeyId=key_id, Plaintext=b"x")
    client.enable_key(KeyId=key_id)
    assert client.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]


def encrypt_and_decrypt(client: Client) -> None:
    """What Encrypt made Decrypt opens, with the same encryption context only."""
    key_id = new_key(client)
    sealed = client.encrypt(KeyId=key_id, Plaintext=bytes(range(256)), EncryptionContext=CONTEXT)
    opened = client.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert (opened["Plaintext"], opened["KeyId"]) == (bytes(range(256)), sealed["KeyId"])
    with pytest.raises(client.exceptions.InvalidCiphertextException):
        client.decrypt(CiphertextBlob=sealed["CiphertextBlob"])
    with pytest.raises(client.exceptions.IncorrectKeyException):
        client.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=CONTEXT, KeyId=new_key(client))


def re_encrypt(client: Client) -> None:
    """ReEncrypt moves a ciphertext to another key and context."""
    first, second = new_key(client), new_key(client)
    sealed = client.encrypt(KeyId=first, Plaintext=b"moved")["CiphertextBlob"]
    moved = client.re_encrypt(
        CiphertextBlob=sealed, DestinationKeyId=second, DestinationEncryptionContext={"now": "here"}
    )
    assert moved["SourceKeyId"].endswith(first)
    opened = client.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"now": "here"})
    assert (opened["Plaintext"], opened["KeyId"]) == (b"moved", moved["KeyId"])


def generate_data_key(client: Client) -> None:
    """A data key comes in the clear and encrypted."""
    made = client.generate_data_key(KeyId=new_key(client), KeySpec="AES_256", EncryptionContext=CONTEXT)
    assert len(made["Plaintext"]) == 32
    opened = client.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert opened["Plaintext"] == made["Plaintext"]


def generate_data_key_without_plaintext(client: Client) -> None:
    """Or encrypted only."""
    made = client.generate_data_key_without_plaintext(KeyId=new_key(client), NumberOfBytes=17)
    assert "Plaintext" not in made
    assert len(client.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"]) == 17


def generate_data_key_pair(client: Client) -> None:
    """A data key pair: the private key in the clear and encrypted, and the public key that belongs to it."""
    made = client.generate_data_key_pair(KeyId=new_key(client), KeyPairSpec="ECC_NIST_P256", EncryptionContext=CONTEXT)
    opened = client.decrypt(CiphertextBlob=made["PrivateKeyCiphertextBlob"], EncryptionContext=CONTEXT)
    assert opened["Plaintext"] == made["PrivateKeyPlaintext"]
    public = load_der_private_key(opened["Plaintext"], None).public_key()
    assert public == load_der_public_key(made["PublicKey"])


def generate_data_key_pair_without_plaintext(client: Client) -> None:
    """Or without the private key in the clear."""
    made = client.generate_data_key_pair_without_plaintext(KeyId=new_key(client), KeyPairSpec="ECC_NIST_EDWARDS25519")
    assert "PrivateKeyPlaintext" not in made
    opened = client.decrypt(CiphertextBlob=made["PrivateKeyCiphertextBlob"])
    assert load_der_private_key(opened["Plaintext"], None).public_key() == load_der_public_key(made["PublicKey"])


def generate_random(client: Client) -> None:
    """Random bytes differ."""
    drawn = {client.generate_random(NumberOfBytes=1024)["Plaintext"] for _ in range(2)}
    assert sorted(map(len, drawn)) == [1024, 1024]


def aliases(client: Client) -> None:
    """An alias is made, listed, moved to another key, and deleted."""
    name = "alias/boto3/moves"
    first, second = new_key(client), new_key(client)
    client.create_alias(AliasName=name, TargetKeyId=first)
    sealed = client.encrypt(KeyId=name, Plaintext=b"before")["CiphertextBlob"]
    client.update_alias(AliasName=name, TargetKeyId=second)
    assert client.encrypt(KeyId=name, Plaintext=b"after")["KeyId"].endswith(second)
    assert client.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"before"
    pages = client.get_paginator("list_aliases").paginate(KeyId=second, PaginationConfig={"PageSize": 1})
    assert [alias["AliasName"] for page in pages for alias in page["Aliases"]] == [name]
    client.delete_alias(AliasName=name)
    with pytest.raises(client.exceptions.NotFoundException, match="is not found"):
        client.describe_key(KeyId=name)


def tags(client: Client) -> None:
    """Tags are set, listed by pages, and removed."""
    key_id = new_key(client)
    client.tag_resource(KeyId=key_id, Tags=[{"TagKey": each, "TagValue": each * 2} for each in "abc"])
    client.untag_resource(KeyId=key_id, TagKeys=["b"])
    pages = client.get_paginator("list_resource_tags").paginate(KeyId=key_id, PaginationConfig={"PageSize": 1})
    assert [(tag["TagKey"], tag["TagValue"]) for page in pages for tag in page["Tags"]] == [("a", "aa"), ("c", "cc")]


def automatic_rotation(client: Client) -> None:
    """Automatic rotation is switched on with a period, and off again."""
    key_id = new_key(client)
    client.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    status = client.get_key_rotation_status(KeyId=key_id)
    assert (status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (True, 90)
    assert timedelta(days=89) < status["NextRotationDate"] - datetime.now(UTC) < timedelta(days=91)
    client.disable_key_rotation(KeyId=key_id)
    assert client.get_key_rotation_status(KeyId=key_id)["KeyRotationEnabled"] is False


def rotation_on_demand(client: Client) -> None:
    """A rotation on demand is listed, and what was encrypted before it still opens."""
    key_id = new_key(client)
    sealed = client.encrypt(KeyId=key_id, Plaintext=b"before")["CiphertextBlob"]
    before = described(client, key_id)["CurrentKeyMaterialId"]
    assert client.rotate_key_on_demand(KeyId=key_id)["KeyId"].endswith(key_id)
    pages = client.get_paginator("list_key_rotations").paginate(
        KeyId=key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL", PaginationConfig={"PageSize": 1}
    )
    listed = [rotation for page in pages for rotation in page["Rotations"]]
    assert [each["KeyMaterialState"] for each in listed] == ["NON_CURRENT", "CURRENT"]
    assert listed[1]["RotationType"] == "ON_DEMAND"
    opened = client.decrypt(CiphertextBlob=sealed)
    assert (opened["Plaintext"], opened["KeyMaterialId"]) == (b"before", before)


def importing(client: Client) -> None:
    """Material is imported until a date, deleted, refused if it differs, and imported again."""
    material = bytes(range(32))
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    key_id, answer = imported(client, material, ExpirationModel="KEY_MATERIAL_EXPIRES", ValidTo=until)
    key = described(client, key_id)
    assert (key["Origin"], key["KeyState"], key["ValidTo"]) == ("EXTERNAL", "Enabled", until)
    sealed = client.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    gone = client.delete_imported_key_material(KeyId=key_id)
    assert gone["KeyMaterialId"] == answer["KeyMaterialId"]
    assert described(client, key_id)["KeyState"] == "PendingImport"
    with pytest.raises(client.exceptions.KMSInvalidStateException):
        client.decrypt(CiphertextBlob=sealed)
    with pytest.raises(client.exceptions.IncorrectKeyMaterialException):
        import_into(client, key_id, bytes(32))
    import_into(client, key_id, material)
    assert client.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"x"


def deletion(client: Client) -> None:
    """A scheduled deletion can be cancelled, and leaves the key disabled."""
    key_id = new_key(client)
    scheduled = client.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    assert (scheduled["KeyState"], scheduled["PendingWindowInDays"]) == ("PendingDeletion", 7)
    assert timedelta(days=6) < scheduled["DeletionDate"] - datetime.now(UTC) < timedelta(days=8)
    with pytest.raises(client.exceptions.KMSInvalidStateException, match="is pending deletion"):
        client.encrypt(KeyId=key_id, Plaintext=b"x")
    assert client.cancel_key_deletion(KeyId=key_id)["KeyId"].endswith(key_id)
    assert described(client, key_id)["KeyState"] == "Disabled"


def last_usage(client: Client) -> None:
    """The last use of a key names its operation."""
    key_id = new_key(client)
    client.encrypt(KeyId=key_id, Plaintext=b"x")
    usage = client.get_key_last_usage(KeyId=key_id)
    assert usage["KeyId"].endswith(key_id)
    assert usage["KeyLastUsage"]["Operation"] == "Encrypt"


def signing(client: Client) -> None:
    """A signature verifies here and with the public key elsewhere; a wrong one is an error."""
    key_id = new_key(client, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    order = {"KeyId": key_id, "Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
    signature = client.sign(**order)["Signature"]
    assert client.verify(**order, Signature=signature)["SignatureValid"] is True
    with pytest.raises(client.exceptions.KMSInvalidSignatureException):
        client.verify(**order | {"Message": b"n"}, Signature=signature)
    public_key = client.get_public_key(KeyId=key_id)
    assert (public_key["KeySpec"], public_key["SigningAlgorithms"]) == ("ECC_NIST_P256", ["ECDSA_SHA_256"])
    public = load_der_public_key(public_key["PublicKey"])
    assert isinstance(public, EllipticCurvePublicKey)
    public.verify(signature, b"m", ECDSA(SHA256()))


def macs(client: Client) -> None:
    """An HMAC verifies; a wrong one is an error."""
    order = {
        "KeyId": new_key(client, KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC"),
        "MacAlgorithm": "HMAC_SHA_256",
    }
    mac = client.generate_mac(**order, Message=b"m")["Mac"]
    assert client.verify_mac(**order, Message=b"m", Mac=mac)["MacValid"] is True
    with pytest.raises(client.exceptions.KMSInvalidMacException):
        client.verify_mac(**order, Message=b"n", Mac=mac)


def derive_shared_secret(client: Client) -> None:
    """Two keys agree on one secret."""
    pair = [new_key(client, KeySpec="ECC_NIST_P384", KeyUsage="KEY_AGREEMENT") for _ in range(2)]
    secrets = {
        client.derive_shared_secret(
            KeyId=own, KeyAgreementAlgorithm="ECDH", PublicKey=client.get_public_key(KeyId=peer)["PublicKey"]
        )["SharedSecret"]
        for own, peer in (pair, reversed(pair))
    }
    assert [len(secret) for secret in secrets] == [48]


def encapsulation(client: Client) -> None:
    """Encapsulate and Decapsulate refuse keys of every usage that there is."""
    key_id = new_key(client)
    with pytest.raises(client.exceptions.InvalidKeyUsageException, match="not valid for Encapsulate"):
        client.encapsulate(KeyId=key_id, EncapsulationAlgorithm="ML_KEM")
    with pytest.raises(client.exceptions.InvalidKeyUsageException, match="not valid for Decapsulate"):
        client.decapsulate(KeyId=key_id, EncapsulationAlgorithm="ML_KEM", SharedSecretCiphertextBlob=b"x")


def multi_region(client: Client) -> None:
    """A multi-Region key is replicated, its regions are listed, and its primary key moves."""
    key_id = new_key(client, MultiRegion=True)
    made = client.replicate_key(KeyId=key_id, ReplicaRegion="eu-west-1", Tags=[{"TagKey": "a", "TagValue": "b"}])
    assert made["ReplicaKeyMetadata"]["KeyState"] == "Creating"
    assert made["ReplicaKeyMetadata"]["Arn"].split(":")[3] == "eu-west-1"
    assert made["ReplicaTags"] == [{"TagKey": "a", "TagValue": "b"}]
    assert "Statement" in made["ReplicaPolicy"]
    with pytest.raises(client.exceptions.AlreadyExistsException):
        client.replicate_key(KeyId=key_id, ReplicaRegion="eu-west-1")
    client.update_primary_region(KeyId=key_id, PrimaryRegion="eu-west-1")
    metadata = described(client, key_id)["MultiRegionConfiguration"]
    assert (metadata["MultiRegionKeyType"], metadata["PrimaryKey"]["Region"]) == ("REPLICA", "eu-west-1")
    with pytest.raises(client.exceptions.UnsupportedOperationException, match="is not a multi-region primary key"):
        client.replicate_key(KeyId=key_id, ReplicaRegion="eu-west-2")


def key_policy(client: Client) -> None:
    """A key's policy is put, returned unchanged, and listed; one for an unknown principal is refused."""
    key_id = new_key(client)
    default = client.get_key_policy(KeyId=key_id)
    assert default["PolicyName"] == "default"
    policy = default["Policy"].replace("Enable IAM User Permissions", "mine")
    client.put_key_policy(KeyId=key_id, PolicyName="default", Policy=policy)
    assert client.get_key_policy(KeyId=key_id, PolicyName="default")["Policy"] == policy
    pages = client.get_paginator("list_key_policies").paginate(KeyId=key_id)
    assert [name for page in pages for name in page["PolicyNames"]] == ["default"]
    with pytest.raises(client.exceptions.MalformedPolicyDocumentException):
        client.put_key_policy(KeyId=key_id, Policy=policy.replace(":root", ":user/nobody"))


def grants(client: Client) -> None:
    """Grants are made, listed page by page, retired by token, and revoked."""
    key = client.create_key()["KeyMetadata"]
    root = f"arn:aws:iam::{key['AWSAccountId']}:root"
    members = {"KeyId": key["KeyId"], "GranteePrincipal": root, "RetiringPrincipal": root}
    made = [
        client.create_grant(
            **members,
            Operations=["Encrypt", "Decrypt"],
            Constraints={"EncryptionContextSubset": {"number": str(number)}},
        )
        for number in range(3)
    ]
    listed = client.get_paginator("list_grants").paginate(KeyId=key["KeyId"], PaginationConfig={"PageSize": 2})
    by_id = {grant["GrantId"]: grant for page in listed for grant in page["Grants"]}
    assert set(by_id) == {each["GrantId"] for each in made}
    first = by_id[made[0]["GrantId"]]
    assert (first["GranteePrincipal"], first["Operations"]) == (root, ["Encrypt", "Decrypt"])
    assert first["Constraints"] == {"EncryptionContextSubset": {"number": "0"}}
    assert abs(first["CreationDate"] - datetime.now(UTC)) < timedelta(minutes=10)
    sealed = client.encrypt(KeyId=key["KeyId"], Plaintext=b"x", GrantTokens=[made[0]["GrantToken"]])
    assert sealed["CiphertextBlob"]
    client.retire_grant(GrantToken=made[0]["GrantToken"])
    client.revoke_grant(KeyId=key["KeyId"], GrantId=made[1]["GrantId"])
    retirable = client.get_paginator("list_retirable_grants").paginate(RetiringPrincipal=root)
    assert {grant["GrantId"] for page in retirable for grant in page["Grants"]} & set(by_id) == {made[2]["GrantId"]}
    with pytest.raises(client.exceptions.InvalidGrantTokenException):
        client.retire_grant(GrantToken=made[0]["GrantToken"])


def custom_key_stores(client: Client) -> None:
    """There are none, however they are listed; one that is named does not exist."""
    assert client.describe_custom_key_stores(Limit=10)["CustomKeyStores"] == []
    pages = list(client.get_paginator("describe_custom_key_stores").paginate())
    assert [(page["CustomKeyStores"], page["Truncated"]) for page in pages] == [([], False)]
    for named in ({"CustomKeyStoreId": "cks-1234567890abcdef0"}, {"CustomKeyStoreName": "ours"}):
        with pytest.raises(client.exceptions.CustomKeyStoreNotFoundException, match="does not exist"):
            client.describe_custom_key_stores(**named)


CASES: Final[dict[Operation, Callable[[Client], None]]] = {
    Operation.CANCEL_KEY_DELETION: deletion,
    Operation.CREATE_ALIAS: aliases,
    Operation.CREATE_KEY: create_key,
    Operation.DECAPSULATE: encapsulation,
    Operation.REVOKE_GRANT: grants,
    Operation.RETIRE_GRANT: grants,
    Operation.PUT_KEY_POLICY: key_policy,
    Operation.LIST_RETIRABLE_GRANTS: grants,
    Operation.LIST_KEY_POLICIES: key_policy,
    Operation.LIST_GRANTS: grants,
    Operation.GET_KEY_POLICY: key_policy,
    Operation.CREATE_GRANT: grants,
    Operation.DECRYPT: encrypt_and_decrypt,
    Operation.DELETE_ALIAS: aliases,
    Operation.DELETE_IMPORTED_KEY_MATERIAL: importing,
    Operation.DERIVE_SHARED_SECRET: derive_shared_secret,
    Operation.DESCRIBE_CUSTOM_KEY_STORES: custom_key_stores,
    Operation.DESCRIBE_KEY: describe_key,
    Operation.DISABLE_KEY: disable_and_enable_key,
    Operation.DISABLE_KEY_ROTATION: automatic_rotation,
    Operation.ENABLE_KEY: disable_and_enable_key,
    Operation.ENABLE_KEY_ROTATION: automatic_rotation,
    Operation.ENCAPSULATE: encapsulation,
    Operation.ENCRYPT: encrypt_and_decrypt,
    Operation.GENERATE_DATA_KEY: generate_data_key,
    Operation.GENERATE_DATA_KEY_PAIR: generate_data_key_pair,
    Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT: generate_data_key_pair_without_plaintext,
    Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT: generate_data_key_without_plaintext,
    Operation.GENERATE_MAC: macs,
    Operation.GENERATE_RANDOM: generate_random,
    Operation.GET_KEY_LAST_USAGE: last_usage,
    Operation.GET_KEY_ROTATION_STATUS: automatic_rotation,
    Operation.GET_PARAMETERS_FOR_IMPORT: importing,
    Operation.GET_PUBLIC_KEY: signing,
    Operation.IMPORT_KEY_MATERIAL: importing,
    Operation.LIST_ALIASES: aliases,
    Operation.LIST_KEYS: list_keys,
    Operation.LIST_KEY_ROTATIONS: rotation_on_demand,
    Operation.LIST_RESOURCE_TAGS: tags,
    Operation.RE_ENCRYPT: re_encrypt,
    Operation.REPLICATE_KEY: multi_region,
    Operation.ROTATE_KEY_ON_DEMAND: rotation_on_demand,
    Operation.SCHEDULE_KEY_DELETION: deletion,
    Operation.SIGN: signing,
    Operation.TAG_RESOURCE: tags,
    Operation.UNTAG_RESOURCE: tags,
    Operation.UPDATE_ALIAS: aliases,
    Operation.UPDATE_KEY_DESCRIPTION: update_key_description,
    Operation.UPDATE_PRIMARY_REGION: multi_region,
    Operation.VERIFY: signing,
    Operation.VERIFY_MAC: macs,
}
"""Which case calls which operation: one that is built and has none here is not shown to work with boto3."""


@pytest.mark.parametrize("case", dict.fromkeys(CASES.values()), ids=lambda case: case.__name__)
def test_operations(kms_client: Client, case: Callable[[Client], None]) -> None:
    """boto3 calls each operation, and what it reads from the answers is right."""
    called: set[str] = set()
    kms_client.meta.events.register("before-call.kms", lambda model, **_: called.add(model.name))
    case(kms_client)
    assert {operation.value for operation, own in CASES.items() if own is case} <= called


def test_asymmetric_encryption(kms_client: Client) -> None:
    """Decrypt with an RSA key opens what Encrypt, or the public key alone, has encrypted."""
    key_id = new_key(kms_client, KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")
    public = load_der_public_key(kms_client.get_public_key(KeyId=key_id)["PublicKey"])
    assert isinstance(public, RSAPublicKey)
    key = {"KeyId": key_id, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
    for ciphertext in (
        kms_client.encrypt(**key, Plaintext=b"secret")["CiphertextBlob"],
        public.encrypt(b"secret", OAEP(MGF1(SHA256()), SHA256(), None)),
    ):
        assert kms_client.decrypt(**key, CiphertextBlob=ciphertext)["Plaintext"] == b"secret"


def test_every_operation_has_a_case() -> None:
    """Every operation that is built is called by boto3 here: add a case for a new one."""
    assert sorted(set(OPERATIONS) - set(CASES)) == []


def test_error_classes(kms_client: Client) -> None:
    """Errors arrive as the classes of boto3's model, with code, message, status and request id."""
    unknown = "1234abcd-12ab-34cd-56ef-1234567890ab"
    with pytest.raises(kms_client.exceptions.NotFoundException) as caught:
        kms_client.describe_key(KeyId=unknown)
    response = caught.value.response
    assert response["Error"]["Code"] == "NotFoundException"
    assert response["Error"]["Message"] == response["message"] == f"Key '{arn(unknown)}' does not exist"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert len(response["ResponseMetadata"]["RequestId"]) == 36
    twice = {"AliasName": "alias/boto3-twice", "TargetKeyId": new_key(kms_client)}
    kms_client.create_alias(**twice)
    with pytest.raises(kms_client.exceptions.AlreadyExistsException):
        kms_client.create_alias(**twice)


def arn(key_id: str) -> str:
    """The ARN of a key of the development server."""
    return f"arn:aws:kms:us-east-1:000000000000:key/{key_id}"


def test_operation_that_is_not_there(kms_client: Client) -> None:
    """An operation of AWS's that hsmkms lacks is refused as unsupported, and boto3 does not try again."""
    store = {"CustomKeyStoreId": "cks-1234567890abcdef0"}
    lacking = {
        "ConnectCustomKeyStore": store,
        "CreateCustomKeyStore": {"CustomKeyStoreName": "ours"},
        "DeleteCustomKeyStore": store,
        "DisconnectCustomKeyStore": store,
        "UpdateCustomKeyStore": store,
    }
    for name, members in lacking.items():
        call = getattr(kms_client, re.sub("(?<!^)(?=[A-Z])", "_", name).lower())
        with pytest.raises(kms_client.exceptions.UnsupportedOperationException, match=name):
            call(**members)


def test_wrong_credentials(hsmkms_endpoint: Any) -> None:  # noqa: ANN401 - see Client
    """An unknown access key and a wrong secret have different errors, as in AWS."""
    for change, code in (
        ({"access_key_id": "AKIAUNKNOWNUNKNOWN00"}, "UnrecognizedClientException"),
        ({"secret_access_key": "wrong"}, "InvalidSignatureException"),
    ):
        with pytest.raises(ClientError) as caught:
            hsmkms_endpoint._replace(**change).client().list_keys()
        assert caught.value.response["Error"]["Code"] == code


def test_regions(hsmkms_endpoint: Any) -> None:  # noqa: ANN401 - see Client
    """Each region has its own keys; a client of another region gets NotFoundException."""
    here = hsmkms_endpoint.client()
    there = hsmkms_endpoint._replace(region="eu-west-1").client()
    key = here.create_key()["KeyMetadata"]
    assert ":us-east-1:" in key["Arn"]
    with pytest.raises(there.exceptions.NotFoundException):
        there.describe_key(KeyId=key["KeyId"])
    assert ":eu-west-1:" in there.create_key()["KeyMetadata"]["Arn"]


def test_clients_of_two_regions(hsmkms_endpoint: Endpoint) -> None:
    """What a client of one region encrypts a client of the other decrypts, and each region's state is its own."""
    here, there = hsmkms_endpoint.client(), hsmkms_endpoint.client("ap-northeast-1")
    key_id = new_key(here, MultiRegion=True)
    with pytest.raises(there.exceptions.NotFoundException):
        described(there, key_id)
    here.replicate_key(KeyId=key_id, ReplicaRegion="ap-northeast-1")
    sealed = here.encrypt(KeyId=key_id, Plaintext=b"secret", EncryptionContext=CONTEXT)["CiphertextBlob"]
    opened = there.decrypt(CiphertextBlob=sealed, EncryptionContext=CONTEXT)
    assert (opened["Plaintext"], opened["KeyId"]) == (b"secret", described(there, key_id)["Arn"])
    here.disable_key(KeyId=key_id)
    sealed = there.generate_data_key(KeyId=opened["KeyId"], KeySpec="AES_256")["CiphertextBlob"]
    with pytest.raises(here.exceptions.DisabledException):
        here.decrypt(CiphertextBlob=sealed)
    assert here.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)["KeyState"] == "PendingReplicaDeletion"
    metadata = described(here, key_id)
    assert (metadata["PendingDeletionWindowInDays"], "DeletionDate" in metadata) == (7, False)
    assert there.decrypt(CiphertextBlob=sealed)["Plaintext"]
