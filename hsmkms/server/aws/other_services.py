"""Render errors for requests that are meant for other services of AWS, some of whose clients read XML only.

A client with AWS_ENDPOINT_URL sends the requests of all services here, and must be able to read the error.
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
"""Content type of requests to STS, IAM and other older services."""

_find_service: Final = re.compile(r"/([^/, ]+)/aws4_request").search


def failure(error: Exception, request_id: str, head: RawRequest) -> Response:
    """Render an error in the form that the client reads: JSON, or XML if it meant S3 or an older service."""
    response = protocol.failure(error, request_id)
    scope = _find_service(head.headers.get("authorization", ""))
    service = scope[1] if scope is not None else SERVICE
    form = head.headers.get("content-type", "").startswith(FORM)
    if service != "s3" and (service == SERVICE or not form):
        return response
    headers = tuple((name, XML if name == "Content-Type" else value) for name, value in response.headers)
    return replace(response, headers=headers, body=_xml(response, error, whole=service == "s3"))


def _xml(response: Response, error: Exception, *, whole: bool) -> bytes:
    """Render an error as XML; ``whole``: as the whole document, for S3, not as a part of one."""
    xml = f"<Error><Code>{response.error}</Code><Message>{escape(protocol.words_of(error))}</Message></Error>"
    return (xml if whole else f"<ErrorResponse>{xml}</ErrorResponse>").encode()
