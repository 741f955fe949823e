"""Files of a multipart body, kept in memory and without their names; BentoML gets a stand-in for them.

BentoML fetches a URL when a file field is text, has no body limit, and writes uploads into temp files named after the client's
file. So the body is read here up to a cap and its file parts are taken out, and what BentoML sees is a part of one byte.
"""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser

from strokect.http import HttpError, Message, Receive, Scope

# A client that is still sending cannot read our 413, so a body over the cap is read on and dropped, up to so many times the cap.
DRAINED = 8
BODY_TIMEOUT_S = 30.0
MAX_FIELDS = 16  # text parts, which nothing reads
BOUNDARY = "stand-in"


class MemoryParser(MultiPartParser):
    """Starlette's parser; parts stay in memory, whatever their size: a patient's slice is never written to a disk."""

    spool_max_size = 2**40


async def read_body(scope: Scope, receive: Receive, limit: int, *, keep: bool = True) -> bytes | None:
    """The whole body, or None when the client hung up. Over `limit` bytes: 413; too slow: 408. Without `keep` it is dropped."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if not declared.isdigit():
        raise HttpError(400)
    too_large = HttpError(413, message=f"the request is larger than {limit // 2**20} MiB")
    if int(declared) > DRAINED * limit:
        raise too_large
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
                if size > limit or not keep:
                    chunks.clear()
                else:
                    chunks.append(chunk)
                if size > DRAINED * limit or not message.get("more_body", False):
                    break
    except TimeoutError:
        raise HttpError(408) from None
    if size > limit:
        raise too_large
    return b"".join(chunks)


async def file_parts(scope: Scope, body: bytes, field: str, most: int) -> tuple[bytes, ...]:
    """The 1 to `most` file parts called `field` of a multipart body; anything else is a 4xx."""
    headers = Headers(scope=dict(scope))
    if headers.get("content-type", "").split(";")[0].strip().lower() != "multipart/form-data":
        raise HttpError(415, message=f"send multipart/form-data with the picture as a file in the field `{field}`")
    try:
        form = await MemoryParser(headers, _whole(body), max_files=most + 3, max_fields=MAX_FIELDS).parse()
    except Exception:  # Starlette and python-multipart raise KeyError, ValueError and their own types on malformed bodies
        raise HttpError(400, "malformed_multipart", "the multipart body is malformed or has too many parts") from None
    try:
        parts = form.getlist(field)
        if not parts:
            raise HttpError(400, "missing_field", f"the file field `{field}` is missing")
        if len(parts) > most:
            raise HttpError(400, "too_many_files", f"send at most {most} file(s) in the field `{field}`")
        files = [part for part in parts if isinstance(part, UploadFile)]
        if len(files) != len(parts):
            raise HttpError(400, "not_a_file", f"the field `{field}` is text; send it as a file, with a file name")
        return tuple([await file.read() for file in files])
    finally:
        await form.close()


async def _whole(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def without_body(scope: Scope, receive: Receive, field: str | None) -> tuple[Scope, Receive]:
    """The request as BentoML gets it: without query and body, or with a file part of one byte where it wants the file `field`."""
    body, content_type = b"", b""
    if field:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{field}"\r\n'
        body = f"{head}Content-Type: application/octet-stream\r\n\r\n-\r\n--{BOUNDARY}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={BOUNDARY}".encode()
    drop = (b"content-type", b"content-length", b"transfer-encoding", b"content-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in drop]
    headers.append((b"content-length", str(len(body)).encode()))
    if content_type:
        headers.append((b"content-type", content_type))
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()  # the latter waits for the client to hang up

    return {**scope, "headers": headers, "query_string": b""}, replay
