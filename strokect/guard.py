"""The guard in front of BentoML: who may ask, what comes in, how much at once; every answer gets the same headers.

It answers the page and the OpenAPI document itself. Of the routes that compute, BentoML sees a request without its upload.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from strokect import __version__, lifecycle, monitoring
from strokect.access import Access, cors_headers, security_headers
from strokect.admission import Admission
from strokect.http import EXCHANGE, App, Exchange, HttpError, Message, Receive, Reply, Scope, Send
from strokect.openapi import document
from strokect.settings import Settings
from strokect.uploads import file_parts, read_body, without_body

logger = logging.getLogger("bentoml.strokect")  # BentoML shows INFO of its own loggers only

PROBES = ("/livez", "/readyz")
OTHERS = ("/model", "/metrics", "/schema.json", "/healthz")  # what BentoML and the mounted app answer besides
OPENAPI = "/docs.json"
LARGE = 8 * 2**20  # bytes of an upload whose memory is given back at once
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MEDIA_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True)
class Upload:
    """A route that takes files: the field they come in, and whether there may be many, which get more time."""

    field: str
    many: bool = False


UPLOADS = {
    "/predict": Upload("image"),
    "/explain": Upload("image"),
    "/view": Upload("image"),
    "/predict_series": Upload("series", many=True),
}


def read_page(folder: Path) -> dict[str, tuple[bytes, str]]:
    """The static page: address → content and media type. The index is at `/`."""
    files = {path.name: (path.read_bytes(), MEDIA_TYPES[path.suffix]) for path in sorted(folder.iterdir())}
    return {"/" if name == "index.html" else f"/{name}": content for name, content in files.items()}


class Guard:
    """ASGI middleware around the whole service."""

    def __init__(self, app: App, settings: Settings, admission: Admission, page: Mapping[str, tuple[bytes, str]]):
        self.app, self.settings, self.admission, self.page = app, settings, admission, page
        self.access = Access(settings)
        self.document = (json.dumps(document(__version__)).encode(), "application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        known = path in UPLOADS or path in (*PROBES, *OTHERS, OPENAPI)
        exchange = Exchange(monitoring.PAGE if path in self.page else path if known else monitoring.UNKNOWN_ROUTE)
        exchange.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        EXCHANGE.set(exchange)
        reply = Reply(send, security_headers(path in self.page) | cors_headers(exchange.headers, self.settings))
        try:
            await self._serve(exchange, scope, receive, reply)
        except HttpError as error:
            await reply.error(error)
        except Exception as error:
            logger.error("request %s failed: %s", exchange.request_id, type(error).__name__, exc_info=True)
            if reply.status:
                raise  # half an answer is out; the server closes the connection
            await reply.error(HttpError(500))
        finally:
            if path not in PROBES:
                seconds = time.monotonic() - exchange.started
                monitoring.count_http(exchange.route, reply.status)
                if exchange.route in UPLOADS:
                    monitoring.observe_phase("total", seconds)
                method = scope["method"] if scope["method"] in METHODS else "(other)"  # a made-up one may hold a name
                status = reply.status or "-"
                logger.info("request %s: %s %s %s %.1f ms", exchange.request_id, method, exchange.route, status, 1000 * seconds)

    async def _serve(self, exchange: Exchange, scope: Scope, receive: Receive, reply: Reply) -> None:
        path, method, upload = scope["path"], scope["method"], UPLOADS.get(scope["path"])
        if method == "OPTIONS" and self.settings.cors_origins and "access-control-request-method" in exchange.headers:
            await reply.nothing()  # a browser's question, asked without the token; the answer is in the headers
            return
        if path not in PROBES and path not in self.page:
            exchange.token_id = self.access.check(exchange.headers)
        if method == "POST" and upload:
            await self._compute(exchange, upload, scope, receive, reply)
            return
        if method not in ("GET", "HEAD"):
            await read_body(scope, receive, self.settings.max_body_mb * 2**20, keep=False)
        if exchange.route == monitoring.UNKNOWN_ROUTE:
            raise HttpError(404)
        ours = self.page.get(path) or (self.document if path == OPENAPI else None)
        if ours is None:
            await self.app(*without_body(scope, receive, None), reply)
        elif method in ("GET", "HEAD"):
            await reply.content(*ours, head=method == "HEAD")
        else:
            raise HttpError(405, headers={"Allow": "GET, HEAD"})

    async def _compute(self, exchange: Exchange, upload: Upload, scope: Scope, receive: Receive, reply: Reply) -> None:
        """A request that computes: its files are taken out, then it waits for its turn."""
        limit = self.settings.max_body_mb * 2**20
        if self.admission.full():
            await read_body(scope, receive, limit, keep=False)  # a client that is still sending could not read the answer
            raise self.admission.busy_error()
        body = await read_body(scope, receive, limit)
        if body is None:
            return  # the client hung up
        exchange.uploads = await file_parts(scope, body, upload.field, self.settings.max_slices if upload.many else 1)
        del body
        exchange.query = _query(scope)
        arrived = time.monotonic()
        exchange.deadline = arrived + (self.settings.series_deadline_s if upload.many else self.settings.deadline_s)
        watch = asyncio.create_task(_hang_up(exchange, receive))
        try:
            if await self._take_turn(exchange, watch):
                monitoring.observe_phase("queue", time.monotonic() - arrived)
                await self.app(*without_body(scope, lambda: asyncio.shield(watch), upload.field), reply)
        finally:
            watch.cancel()
            if exchange.slot:
                exchange.slot.leave()
            large, exchange.uploads = sum(map(len, exchange.uploads)) > LARGE, ()
            if large:
                lifecycle.return_memory()

    async def _take_turn(self, exchange: Exchange, watch: "asyncio.Task[Message]") -> bool:
        """Wait for a slot; False when the client hangs up before its turn."""
        turn = asyncio.create_task(self.admission.enter(exchange.deadline))
        try:
            await asyncio.wait((turn, watch), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if turn.done() and not turn.exception():
                turn.result().leave()
            turn.cancel()
            raise
        if turn.done():
            exchange.slot = turn.result()
            return True
        turn.cancel()  # it gives back what it may have been handed over in this moment
        return False


def _query(scope: Scope) -> dict[str, str]:
    try:
        return dict(parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=16))
    except ValueError:
        raise HttpError(400) from None


async def _hang_up(exchange: Exchange, receive: Receive) -> Message:
    """Returns the client's hanging up when it does."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            exchange.gone = True
            return message
