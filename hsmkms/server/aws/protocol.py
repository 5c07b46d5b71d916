"""AWS JSON 1.1: find the operation of a raw request, and render errors as raw responses.

The whole wire protocol is here but the signature. Only X-Amz-Target determines the operation; the Content-Type is
ignored, so that curl needs nothing but a signature. Source: AWS KMS API Reference, "Common errors", and responses of
the service.
"""

from typing import Final

import msgspec

from hsmkms.errors import ApiError, HsmKmsError, UnknownOperationException, UnsupportedOperationException
from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS
from hsmkms.server.messages import RawRequest, Response

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
TYPE_HEADER: Final = ("Content-Type", CONTENT_TYPE)
REQUEST_ID: Final = "x-amzn-RequestId"
TARGET: Final = "x-amz-target"

_PREFIX: Final = "TrentService."
_BY_TARGET: Final = {f"{_PREFIX}{operation}": operation for operation in OPERATIONS}
"""Implemented operations, by the whole value of X-Amz-Target."""

OK: Final = 200
_CLIENT: Final = 400
_SERVER: Final = 500
_STATUS: Final = {"DependencyTimeoutException": 503, "RequestEntityTooLargeException": 413}
_SILENT: Final = "Something failed inside hsmkms: look into its log for this request id."


def built_operation(request: RawRequest) -> Operation | None:
    """Return the operation that a request asks for, or None where ``operation_of`` raises."""
    if request.method != "POST" or request.path != "/":
        return None
    return _BY_TARGET.get(request.headers.get(TARGET, ""))


def named_operation(request: RawRequest) -> Operation | None:
    """Return the operation of AWS KMS that a request names, implemented or not."""
    name = request.headers.get(TARGET, "").removeprefix(_PREFIX)
    return Operation(name) if name in _NAMES else None


def operation_of(request: RawRequest) -> Operation:
    """Return the operation of a request, which is posted to ``/`` and names it in X-Amz-Target.

    UnknownOperationException for a name that AWS does not have, UnsupportedOperationException for one that hsmkms does
    not implement.
    """
    if (request.method, request.path) != ("POST", "/"):
        raise UnknownOperationException("The API is POST / alone: set the endpoint URL without a path.")
    target = request.headers.get(TARGET, "")
    operation = _BY_TARGET.get(target)
    if operation is not None:
        return operation
    named = named_operation(request)
    if named is None or not target.startswith(_PREFIX):
        raise UnknownOperationException(
            "X-Amz-Target must be TrentService. and the name of an operation of AWS KMS, such as TrentService.Encrypt."
        )
    raise UnsupportedOperationException(f"hsmkms does not have the operation {named}.")


def failure(error: Exception, request_id: str) -> Response:
    """Render an error as AWS does; unexpected exceptions become KMSInternalException with a fixed message."""
    code = error.code if isinstance(error, HsmKmsError) else "KMSInternalException"
    client = isinstance(error, HsmKmsError) and error.fault == "client"
    status = _STATUS.get(code, _CLIENT if client else _SERVER)
    headers = (TYPE_HEADER, (REQUEST_ID, request_id), ("x-amzn-ErrorType", code))
    members = {"__type": code}
    if not (isinstance(error, ApiError) and error.silent):
        members["message"] = words_of(error)
    return Response(status, headers, msgspec.json.encode(members), code)


def words_of(error: Exception) -> str:
    """Return the message of an error for clients."""
    return str(error) if isinstance(error, HsmKmsError) else _SILENT


_NAMES: Final = frozenset(Operation)
