"""Requests and responses about custom key stores, of which there are none. Source: botocore's KMS model."""

from hsmkms.model.shapes import CustomKeyStoreId, CustomKeyStoreName, Limit, Marker, Shape


class DescribeCustomKeyStoresRequest(Shape, frozen=True, kw_only=True):
    """Request all custom key stores, or one by its id or its name."""

    custom_key_store_id: CustomKeyStoreId | None = None
    custom_key_store_name: CustomKeyStoreName | None = None
    limit: Limit | None = None
    marker: Marker | None = None


class CustomKeyStoresListEntry(Shape, frozen=True, kw_only=True):
    """A custom key store. AWS returns more members; here the lists are always empty."""

    custom_key_store_id: CustomKeyStoreId | None = None
    custom_key_store_name: CustomKeyStoreName | None = None


class DescribeCustomKeyStoresResponse(Shape, frozen=True, kw_only=True):
    """The custom key stores: an empty list."""

    custom_key_stores: list[CustomKeyStoresListEntry]
    next_marker: Marker | None = None
    truncated: bool
