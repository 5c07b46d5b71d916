"""Errors for requests that are meant for another service of AWS: clients of some services read XML alone.

Whoever sets AWS_ENDPOINT_URL sends those of every service here, and must be able to read what the matter is.
"""

import re
from typing import Final
from xml.sax.saxutils import escape

from msgspec.structs import replace

from hsmkms.server.aws import protocol
from hsmkms.server.aws.sigv4 import SERVICE
from hsmkms.server.messages import RawRequest, Response

XML: Final = "text/xml"
FORM: Final = "application/x-www-form-urlencoded"
"""In this form STS, IAM and other older services are asked."""

_find_service: Final = re.compile(r"/([^/, ]+)/aws4_request").search


def failure(error: Exception, request_id: str, head: RawRequest) -> Response:
    """An error in the form that the sender of a request reads: JSON, or XML where S3 or an older service was meant."""
    response = protocol.failure(error, request_id)
    scope = _find_service(head.header("authorization") or "")
    service = scope[1] if scope is not None else SERVICE
    form = (head.header("content-type") or "").startswith(FORM)
    if service != "s3" and (service == SERVICE or not form):
        return response
    headers = tuple((name, XML if name == "Content-Type" else value) for name, value in response.headers)
    return replace(response, headers=headers, body=_xml(response, error, whole=service == "s3"))


def _xml(response: Response, error: Exception, *, whole: bool) -> bytes:
    """``whole``: the error is the whole document, as S3 has it; elsewhere it is a part of one."""
    told = f"<Error><Code>{response.error}</Code><Message>{escape(protocol.words_of(error))}</Message></Error>"
    return (told if whole else f"<ErrorResponse>{told}</ErrorResponse>").encode()
