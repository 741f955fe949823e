"""Who may ask, how often, and from which web page: bearer tokens, a rate limit, security headers, CORS."""

import hashlib
import hmac
import math
import re
import threading
import time
from collections.abc import Callable, Sequence

from strokect.http import HttpError
from strokect.settings import Settings

Headers = Sequence[tuple[bytes, bytes]]  # as ASGI gives and takes them, names in lower case

PAGE_FILES = ("/", "/page.css", "/page.js")
OPEN_PATHS = frozenset({*PAGE_FILES, "/livez", "/readyz"})  # need no token: probes, and the page that asks for one
SECURITY_HEADERS: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
)
# base-uri, form-action and frame-ancestors do not fall back to default-src.
CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = f"{CLOSED}; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'"
EXPOSED = b"X-Decision, X-Probability, X-Threshold, X-Model-Version, X-Request-Id, X-Reasons, Retry-After"
BEARER = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)


class Bucket:
    """A token bucket: a minute's allowance at once, then an even flow. Not thread-safe."""

    def __init__(self, per_minute: int, clock: Callable[[], float]):
        self.per_minute, self.clock = per_minute, clock
        self.level, self.filled = float(per_minute), clock()

    def take(self) -> float:
        """0 if the request may pass, else the seconds until the next one may."""
        now = self.clock()
        self.level = min(self.per_minute, self.level + (now - self.filled) * self.per_minute / 60)
        self.filled = now
        if self.level < 1:
            return (1 - self.level) * 60 / self.per_minute
        self.level -= 1
        return 0.0


class Access:
    """Checks the bearer token and the rate of one request. Any thread may call it.

    Its memory is one bucket per configured token (one for all clients when there are none): nothing a client sends adds to it.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic):
        self._digests = [(name, hashlib.sha256(token.encode()).digest()) for name, token in settings.tokens]
        names = [name for name, _ in settings.tokens] or [""]
        limited = settings.rate_per_minute > 0
        self._buckets = {name: Bucket(settings.rate_per_minute, clock) for name in names} if limited else {}
        self._lock = threading.Lock()

    def check(self, headers: Headers) -> str:
        """The id of the token that the request carries, "" where none is asked for. Raises HttpError 401 or 429."""
        name = self._identify(headers) if self._digests else ""
        if bucket := self._buckets.get(name):
            with self._lock:
                wait_s = bucket.take()
            if wait_s:
                message = f"more than {bucket.per_minute} requests a minute; try again later"
                raise HttpError(429, "rate_limited", message, {"Retry-After": str(math.ceil(wait_s))})
        return name

    def _identify(self, headers: Headers) -> str:
        values = [value for key, value in headers if key == b"authorization"]
        found = BEARER.fullmatch(values[0]) if len(values) == 1 else None
        if found is None:
            raise HttpError(401, headers={"WWW-Authenticate": 'Bearer realm="strokect"'})
        # Equal lengths, every token, no early exit: the time taken tells nothing about any token or how many there are before it.
        digest = hashlib.sha256(found[1]).digest()
        matches = [hmac.compare_digest(digest, known) for _, known in self._digests]
        if True not in matches:
            raise HttpError(401, headers={"WWW-Authenticate": 'Bearer realm="strokect", error="invalid_token"'})
        return self._digests[matches.index(True)][0]


def security_headers(path: str) -> list[tuple[bytes, bytes]]:
    """What every answer carries. Only the page may load anything, and that only from here."""
    policy = PAGE_POLICY if path in PAGE_FILES else CLOSED
    return [*SECURITY_HEADERS, (b"content-security-policy", policy.encode())]


def cors_headers(headers: Headers, origins: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """What lets a page of an allowed origin read the answer to a request with these headers; nothing without `origins`."""
    if not origins:
        return []
    answer = [(b"vary", b"Origin")]
    origin = dict(headers).get(b"origin", b"")
    if origin and (origins[0] == "*" or origin.decode("latin-1") in origins):
        answer += [(b"access-control-allow-origin", b"*" if origins[0] == "*" else origin)]
        answer += [(b"access-control-expose-headers", EXPOSED)]
    return answer


def preflight_headers(headers: Headers, origins: Sequence[str]) -> list[tuple[bytes, bytes]] | None:
    """The headers of the 204 that answers a CORS preflight (an OPTIONS request, which browsers send without the token).

    None when this is no preflight of an allowed origin: then it is to be treated as any other request.
    """
    allowed = cors_headers(headers, origins)
    if len(allowed) < 2 or b"access-control-request-method" not in dict(headers):
        return None
    methods, names = b"GET, POST", b"Authorization, Content-Type"
    return [
        *allowed,
        (b"access-control-allow-methods", methods),
        (b"access-control-allow-headers", names),
        (b"access-control-max-age", b"600"),
    ]
