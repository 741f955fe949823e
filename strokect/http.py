"""What every request and answer of the service has in common: the exchange in progress, and one shape for all errors."""

import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from strokect.admission import Slot

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CODES = {
    400: ("bad_request", "the request cannot be understood"),
    401: ("unauthorised", "a valid token is needed: send it as `Authorization: Bearer …`"),
    404: ("not_found", "no such address"),
    405: ("method_not_allowed", "this address does not accept this method"),
    408: ("timeout", "the request took too long to arrive"),
    413: ("too_large", "the request is too large"),
    415: ("unsupported_media_type", "send multipart/form-data"),
    429: ("busy", "too many requests; try again later"),
    501: ("not_installed", "this server was installed without what this needs"),
    503: ("not_ready", "the model is not loaded; the server's log says why"),
    504: ("timeout", "the request took too long"),
}
# Of an ImageError by its code; every other one is 422.
IMAGE_STATUS = dict.fromkeys(("empty_file", "bad_window"), 400)
IMAGE_STATUS |= dict.fromkeys(("too_many_pixels", "too_many_slices", "too_large_series"), 413)
IMAGE_STATUS |= dict.fromkeys(("unknown_format", "unsupported_transfer_syntax", "not_dicom", "needs_hounsfield"), 415)


@dataclass
class Exchange:
    """One request on its way through the service. The thread that computes writes into the same object."""

    route: str  # one of the known addresses, or "(unknown)": a made-up one may hold a name
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    token_id: str = ""  # whose bearer token it came with
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    uploads: tuple[bytes, ...] = ()  # the files sent, without their names
    started: float = field(default_factory=time.monotonic)
    deadline: float = float("inf")  # time.monotonic
    slot: "Slot | None" = None
    gone: bool = False  # the client has hung up: nobody waits for the rest of the work


EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")


def request_id() -> str:
    """That of the request in progress, "" outside of one."""
    exchange = EXCHANGE.get(None)
    return exchange.request_id if exchange else ""


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
        return ErrorBody(error=ErrorDetail(code=self.code, message=str(self), request_id=request_id()))

    def response(self) -> JSONResponse:
        """The error as an answer that a handler can return."""
        return JSONResponse(self.body().model_dump(), self.status, headers=self.headers)


class Reply:
    """A `send` that adds our headers and turns every error body into the one shape."""

    def __init__(self, send: Send, headers: Mapping[str, str]):
        self.send = send
        # Of every answer; an answer's own ones of the same name give way.
        self.headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
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
        headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        await self._json(error.status, error.body(), headers)

    async def content(self, body: bytes, media_type: str, *, head: bool = False) -> None:
        """Send a whole answer with status 200; to a HEAD request without its body."""
        own = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
        await self._start(200, own)
        await self.send({"type": "http.response.body", "body": b"" if head else body})

    async def nothing(self) -> None:
        """Send 204."""
        await self._start(204, [])
        await self.send({"type": "http.response.body", "body": b""})

    async def _finish(self, held: Message) -> None:
        kept = [(k, v) for k, v in held.get("headers", []) if k.lower() in (b"allow", b"retry-after", b"www-authenticate")]
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
        ours = [*self.headers, (b"x-request-id", request_id().encode())]
        names = {name for name, _ in ours} | {b"server", b"x-bentoml-request-id"}  # the last two tell what runs here
        kept = [(name, value) for name, value in headers if name.lower() not in names]
        await self.send({"type": "http.response.start", "status": status, "headers": [*kept, *ours]})
