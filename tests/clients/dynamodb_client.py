"""The DynamoDB Encryption Client: an item encrypted and signed under a key of the KMS. Prints one line."""

import os

from dynamodb_encryption_sdk.encrypted import CryptoConfig
from dynamodb_encryption_sdk.encrypted.item import decrypt_python_item, encrypt_python_item
from dynamodb_encryption_sdk.exceptions import DynamodbEncryptionSdkError
from dynamodb_encryption_sdk.identifiers import CryptoAction
from dynamodb_encryption_sdk.material_providers.aws_kms import AwsKmsCryptographicMaterialsProvider
from dynamodb_encryption_sdk.structures import AttributeActions, EncryptionContext

item = {"id": "1", "secret": "hunter2"}
config = CryptoConfig(
    materials_provider=AwsKmsCryptographicMaterialsProvider(key_id=os.environ["KEY_ARN"]),
    encryption_context=EncryptionContext(table_name="table", partition_key_name="id", attributes={"id": {"S": "1"}}),
    attribute_actions=AttributeActions(CryptoAction.ENCRYPT_AND_SIGN, {"id": CryptoAction.SIGN_ONLY}),
)
sealed = encrypt_python_item(item, config)
assert sealed["id"] == "1"
assert b"hunter2" not in bytes(sealed["secret"])
assert decrypt_python_item(sealed, config) == item
try:
    decrypt_python_item({**sealed, "id": "2"}, config)
except DynamodbEncryptionSdkError:
    print("the story holds")
