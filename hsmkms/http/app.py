"""The application that granian serves (RSGI): bodies, time limits, routes; then the endpoint.

Bodies are read on the event loop, so that a client who sends a byte a second holds a coroutine and nothing else. What
is quick is then answered on the loop itself: handing it to a thread and back costs more than an encryption on a soft
token or a local HSM. What makes keys or writes, and everything once the token has turned out to be slow, goes to
threads.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import msgspec
from granian._granian import RSGIProtocolClosed, RSGIProtocolError

from hsmkms.http import metrics, protocol
from hsmkms.http.endpoint import Endpoint, Handled, Source
from hsmkms.http.health import Health
from hsmkms.http.observer import Observer
from hsmkms.http.pace import Pace
from hsmkms.http.protocol import TARGET_PREFIX, Response
from hsmkms.http.serving import Serving
from hsmkms.http.sigv4 import RawRequest

MAX_BODY_BYTES: Final = 1024 * 1024
"""More than any request of the API can need: a key policy of 32 KB, an attestation document of 256 KB in base64."""

BODY_SECONDS: Final = 10.0
"""The whole body must have come by then."""

_JSON: Final = (("content-type", "application/json"),)
_TOO_LARGE: Final = f"The request body is larger than {MAX_BODY_BYTES} bytes."
_TOO_SLOW: Final = f"The request body did not come within {BODY_SECONDS:.0f} seconds."


class Application:
    """One worker process: opens its own ``Kms`` after it was started, and closes it when it ends."""

    def __init__(self, open_serving: Callable[[], Serving]) -> None:
        self._open = open_serving
        self._pace = Pace()

    # -- granian's hooks ----------------------------------------------------------------------------------------

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the token and the database, in this process."""
        self._serving = self._open()
        self._threads = ThreadPoolExecutor(self._serving.threads, thread_name_prefix="hsmkms")
        self._endpoint: Endpoint = self._serving.endpoint
        self._observer: Observer = self._serving.observer
        self._health: Health = self._serving.health
        self._serving.start_sweeper()

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Finish what runs, then close."""
        self._threads.shutdown(wait=True)
        self._serving.close()

    async def __rsgi__(self, scope: Any, proto: Any) -> None:  # noqa: ANN401 - granian's own types
        """Answer one request."""
        with suppress(RSGIProtocolClosed, RSGIProtocolError):  # the client has gone: nobody is left to answer
            if scope.method == "GET" and scope.path in self._pages:
                loop = asyncio.get_running_loop()
                response = await loop.run_in_executor(self._threads, self._pages[scope.path], self)
            else:
                response = await self._answer(scope, proto)
            proto.response_bytes(response.status, list(response.headers), response.body)

    # -- the API ------------------------------------------------------------------------------------------------

    async def _answer(self, scope: Any, proto: Any) -> Response:  # noqa: ANN401
        headers = _headers(scope)
        try:
            body = await _read(proto, headers)
        except _BodyError as exc:
            return exc.response
        request = RawRequest(scope.method, scope.path, scope.query_string, headers, body)
        source = Source(scope.client.rpartition(":")[0].strip("[]"), scope.scheme == "https")
        target = headers.get("x-amz-target", [""])[0].removeprefix(TARGET_PREFIX)
        started = time.perf_counter()
        if self._pace.inline(target):
            handled = self._endpoint.answer(request, source)
            self._pace.note(time.perf_counter() - started)
        else:
            loop = asyncio.get_running_loop()
            handled = await loop.run_in_executor(self._threads, self._timed, target, request, source)
        self._observer.note(handled, time.perf_counter() - started, source.address)
        return handled.response or protocol.failure(RuntimeError(), handled.request_id)

    def _timed(self, target: str, request: RawRequest, source: Source) -> Handled:
        """In a thread: the time of quick operations tells whether the token has become quick again."""
        started = time.perf_counter()
        handled = self._endpoint.answer(request, source)
        if self._pace.slow and self._pace.counts(target):
            self._pace.note(time.perf_counter() - started)
        return handled

    # -- the pages ----------------------------------------------------------------------------------------------

    def _healthz(self) -> Response:
        return Response(200, _JSON, b'{"status":"ok"}')

    def _readyz(self) -> Response:
        faults = self._health.faults()
        body = msgspec.json.encode({"status": "not ready" if faults else "ready", "faults": faults})
        return Response(503 if faults else 200, _JSON, body)

    def _metrics(self) -> Response:
        return Response(200, (("content-type", metrics.CONTENT_TYPE),), metrics.page(self._serving.kms))

    _pages: Final = {"/healthz": _healthz, "/readyz": _readyz, "/metrics": _metrics}


class _BodyError(Exception):
    """The body is too large, too slow, or was broken off."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def _headers(scope: Any) -> dict[str, list[str]]:  # noqa: ANN401 - granian's own type
    found: dict[str, list[str]] = {}
    for name, value in scope.headers.items():
        found.setdefault(name.lower(), []).append(value)
    if "host" not in found and scope.authority:
        found["host"] = [scope.authority]  # HTTP/2
    return found


async def _read(proto: Any, headers: dict[str, list[str]]) -> bytes:  # noqa: ANN401 - granian's own type
    told = headers.get("content-length", ["0"])[0]
    if told.isdigit() and int(told) > MAX_BODY_BYTES:
        raise _BodyError(_refused(413, "RequestEntityTooLargeException", _TOO_LARGE))
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if "content-length" in headers:
                whole: bytes = await proto()
                return whole
            return await _read_pieces(proto)
    except TimeoutError as exc:
        raise _BodyError(_refused(408, "RequestTimeoutException", _TOO_SLOW)) from exc


async def _read_pieces(proto: Any) -> bytes:  # noqa: ANN401 - granian's own type
    """A body of unknown length (chunked)."""
    pieces: list[bytes] = []
    size = 0
    async for piece in proto:
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise _BodyError(_refused(413, "RequestEntityTooLargeException", _TOO_LARGE))
    return b"".join(pieces)


def _refused(status: int, code: str, message: str) -> Response:
    body = msgspec.json.encode({"__type": code, "message": message})
    return Response(status, (("content-type", protocol.CONTENT_TYPE), ("x-amzn-errortype", code)), body, code)
