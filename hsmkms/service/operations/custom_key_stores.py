"""Custom key stores: there are none, since every key is on the operator's own token already.

Clients that list them, to find keys or to check an account, get an empty list. Source: AWS KMS API Reference.
"""

from hsmkms.errors import CustomKeyStoreNotFoundException, ValidationException
from hsmkms.model.custom_key_stores import DescribeCustomKeyStoresRequest, DescribeCustomKeyStoresResponse
from hsmkms.rules import paging
from hsmkms.service.pipeline import Call


def describe_custom_key_stores(call: Call, request: DescribeCustomKeyStoresRequest) -> DescribeCustomKeyStoresResponse:
    """List no custom key stores; CustomKeyStoreNotFoundException for any that the request names."""
    call.permit_without_key()
    named = [each for each in (request.custom_key_store_id, request.custom_key_store_name) if each is not None]
    if len(named) > 1:
        raise ValidationException("Name a custom key store by CustomKeyStoreId or by CustomKeyStoreName, not by both.")
    paging.after(call.operation, request.marker)
    if named:
        raise CustomKeyStoreNotFoundException(
            f"The custom key store '{named[0]}' does not exist: hsmkms has none, every key is on its own token."
        )
    return DescribeCustomKeyStoresResponse(custom_key_stores=[], truncated=False)
