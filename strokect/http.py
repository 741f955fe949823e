"""The guard in front of BentoML: what comes in is checked and rebuilt, every error that goes out has one shape.

BentoML fetches a URL when a file field is text, has no body limit, names temp files after the client's file, and answers errors
in three shapes. So the guard reads the body up to a cap, takes the one file part it needs, and hands BentoML a body of its own.
"""

import asyncio
import json
import logging
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse

from strokect import monitoring

logger = logging.getLogger("bentoml.strokect")  # BentoML shows INFO of its own loggers only

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 25 * 2**20
# A client that is still sending cannot read our 413, so a body over the cap is read on and dropped, up to here.
MAX_DRAINED = 8 * MAX_BODY
BODY_TIMEOUT_S = 30.0
UPLOADS = {"/predict": "image"}  # route → its file field; a body sent to any other route is dropped
PROBES = ("/livez", "/readyz", "/healthz", "/metrics")
PATHS = ("/", "/model", "/docs.json", "/schema.json", *UPLOADS)
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
CODES = {
    400: ("bad_request", "the request cannot be understood"),
    401: ("unauthorised", "a valid token is needed: send it as `Authorization: Bearer …`"),
    404: ("not_found", "no such address"),
    405: ("method_not_allowed", "this address does not accept this method"),
    408: ("timeout", "the request took too long to arrive"),
    413: ("too_large", f"the request is larger than {MAX_BODY // 2**20} MiB"),
    415: ("unsupported_media_type", "send multipart/form-data"),
    429: ("busy", "too many requests; try again later"),
    501: ("not_installed", "this server was installed without what this needs"),
    503: ("not_ready", "the model is not loaded; the server's log says why"),
    504: ("timeout", "the request took too long"),
}
IMAGE_STATUS = {"empty_file": 400, "too_many_pixels": 413, "unknown_format": 415, "unsupported_transfer_syntax": 415}


def request_id() -> str:
    """That of the request in progress, "" outside of one."""
    return REQUEST_ID.get()


class ErrorDetail(BaseModel):
    """What went wrong: `code` for programs, `message` for people."""

    code: str
    message: str
    request_id: str


class ErrorBody(BaseModel):
    """The one shape of every error."""

    error: ErrorDetail


class HttpError(Exception):
    """An answer other than 2xx. Code and message default to those of the status."""

    def __init__(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None):
        default = CODES.get(status, ("internal_error", "something went wrong; the server's log says more"))
        super().__init__(message or default[1])
        self.status, self.code, self.headers = status, code or default[0], dict(headers or {})

    def body(self) -> ErrorBody:
        """The error as the client sees it, with the id of the request in progress."""
        return ErrorBody(error=ErrorDetail(code=self.code, message=str(self), request_id=REQUEST_ID.get()))

    def response(self) -> JSONResponse:
        """The error as an answer that a handler can return."""
        return JSONResponse(self.body().model_dump(), self.status, self.headers)


class Guard:
    """ASGI middleware: request id, body cap, upload check, one error shape."""

    def __init__(self, app: App, max_body: int = MAX_BODY):
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        REQUEST_ID.set(uuid.uuid4().hex)
        reply, start = Reply(send), time.perf_counter()
        try:
            await self._serve(scope, receive, reply)
        finally:
            if scope["path"] not in PROBES:
                path = scope["path"] if scope["path"] in PATHS else "(unknown)"  # a made-up path may hold a name
                took = 1000 * (time.perf_counter() - start)
                monitoring.count_http(path, reply.status)
                logger.info("request %s: %s %s %s %.1f ms", REQUEST_ID.get(), scope["method"], path, reply.status or "-", took)

    async def _serve(self, scope: Scope, receive: Receive, reply: "Reply") -> None:
        try:
            if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
                body = await read_body(scope, receive, self.max_body)
                if body is None:
                    return  # the client hung up
                scope, receive = await _rebuild(scope, body, receive)
            await self.app(scope, receive, reply)
        except HttpError as error:
            await reply.error(error)
        except Exception:
            logger.exception("request %s failed", REQUEST_ID.get())
            if reply.status:
                raise  # half an answer is out; the server closes the connection
            await reply.error(HttpError(500))


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None when the client hung up. Over `limit` bytes: 413; too slow: 408."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > MAX_DRAINED:
        raise HttpError(413 if declared.isdigit() else 400)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    chunks.clear()
                else:
                    chunks.append(chunk)
                if size > MAX_DRAINED or not message.get("more_body", False):
                    break
    except TimeoutError:
        raise HttpError(408) from None
    if size > limit:
        raise HttpError(413)
    return b"".join(chunks)


async def _rebuild(scope: Scope, body: bytes, receive: Receive) -> tuple[Scope, Receive]:
    """The request as BentoML gets it: one file part without the client's file name, or no body at all."""
    field = UPLOADS.get(scope["path"])
    content_type = b""
    if field is None:
        body = b""
    else:
        data = await file_part(scope, body, field)
        boundary = secrets.token_hex(16)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{field}"\r\n'
        body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data + f"\r\n--{boundary}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={boundary}".encode()
    drop = (b"content-type", b"content-length", b"transfer-encoding", b"content-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in drop]
    headers.append((b"content-length", str(len(body)).encode()))
    if content_type:
        headers.append((b"content-type", content_type))
    return {**scope, "headers": headers}, _replay(body, receive)


async def file_part(scope: Scope, body: bytes, field: str) -> bytes:
    """The bytes of the one file part called `field` of a multipart body; anything else is a 4xx."""
    request = Request({**scope}, _replay(body))
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "multipart/form-data":
        raise HttpError(415, message=f"send multipart/form-data with the picture as a file in the field `{field}`")
    try:
        async with request.form(max_files=4, max_fields=16) as form:
            parts = form.getlist(field)
            if not parts:
                raise HttpError(400, "missing_field", f"the file field `{field}` is missing")
            if len(parts) > 1:
                raise HttpError(400, "too_many_files", f"send one file in the field `{field}`")
            if not isinstance(parts[0], UploadFile):
                raise HttpError(400, "not_a_file", f"the field `{field}` is text; send it as a file, with a file name")
            return await parts[0].read()
    except HttpError:
        raise
    except Exception:  # Starlette raises KeyError, ValueError and its own types on malformed bodies
        raise HttpError(400, "malformed_multipart", "the multipart body is malformed or has too many parts") from None


def _replay(body: bytes, receive: Receive | None = None) -> Receive:
    """A `receive` that gives `body` once, then waits for the real one (a disconnect)."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        if messages:
            return messages.pop()
        return await receive() if receive else {"type": "http.disconnect"}

    return replay


class Reply:
    """A `send` that adds our headers and turns every error body into the one shape."""

    def __init__(self, send: Send):
        self.send = send
        self.status = 0  # 0 until the answer has begun
        self._held: Message | None = None
        self._content = b""

    async def __call__(self, message: Message) -> None:
        """Pass a message on; those of an error answer are held back until its body is complete."""
        if message["type"] == "http.response.start":
            if message["status"] >= 400:
                self._held = message
            else:
                await self._start(message["status"], list(message.get("headers", [])))
        elif message["type"] == "http.response.body" and self._held is not None:
            self._content += message.get("body", b"")
            if not message.get("more_body", False):
                held, self._held = self._held, None
                await self._finish(held)
        else:
            await self.send(message)

    async def error(self, error: HttpError) -> None:
        """Send an error of our own."""
        await self._json(error.status, error.body(), [(k.lower().encode(), v.encode()) for k, v in error.headers.items()])

    async def _finish(self, held: Message) -> None:
        kept = [(k, v) for k, v in held.get("headers", []) if k.lower() in (b"allow", b"retry-after")]
        try:
            body = ErrorBody.model_validate(json.loads(self._content))
        except ValueError:  # not our shape: BentoML's, Starlette's, or no JSON at all
            body = HttpError(held["status"]).body()
        await self._json(held["status"], body, kept)

    async def _json(self, status: int, body: ErrorBody, headers: list[tuple[bytes, bytes]]) -> None:
        content = body.model_dump_json().encode()
        headers = [*headers, (b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await self._start(status, headers)
        await self.send({"type": "http.response.body", "body": content})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        headers = [*headers, (b"x-request-id", REQUEST_ID.get().encode())]
        headers += [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
