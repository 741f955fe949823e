"""Who may ask, how often, and from which web page: bearer tokens, a rate limit, security headers, CORS."""

import hashlib
import hmac
import math
import re
import threading
import time
from collections.abc import Callable, Mapping

from strokect.http import HttpError
from strokect.settings import Settings

Headers = Mapping[str, str]  # names in lower case

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
# base-uri, form-action and frame-ancestors do not fall back to default-src.
CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = f"{CLOSED}; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'"
EXPOSED = "X-Decision, X-Probability, X-Threshold, X-Model-Version, X-Request-Id, X-Reasons, Retry-After"
BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


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
        found = BEARER.fullmatch(headers.get("authorization", ""))
        if found is None:
            raise HttpError(401, headers={"WWW-Authenticate": 'Bearer realm="strokect"'})
        # Equal lengths, every token, no early exit: the time taken tells nothing about any token or how many there are before it.
        digest = hashlib.sha256(found[1].encode()).digest()
        matches = [hmac.compare_digest(digest, known) for _, known in self._digests]
        if True not in matches:
            raise HttpError(401, headers={"WWW-Authenticate": 'Bearer realm="strokect", error="invalid_token"'})
        return self._digests[matches.index(True)][0]


def security_headers(page: bool) -> dict[str, str]:
    """What every answer carries. Only a file of the page may load anything, and that only from here."""
    return SECURITY_HEADERS | {"content-security-policy": PAGE_POLICY if page else CLOSED}


def cors_headers(headers: Headers, settings: Settings) -> dict[str, str]:
    """What lets a page of an allowed origin read the answer to a request with these headers, preflight included.

    Browsers send a preflight (OPTIONS) without the token, so it must be answered before the token is asked for.
    """
    if not settings.cors_origins:
        return {}
    origin = headers.get("origin", "")
    answer = {"vary": "Origin"}
    if "*" in settings.cors_origins:
        answer["access-control-allow-origin"] = "*"
    elif origin in settings.cors_origins:
        answer["access-control-allow-origin"] = origin
    else:
        return answer
    answer["access-control-expose-headers"] = EXPOSED
    if "access-control-request-method" in headers:
        answer["access-control-allow-methods"] = "GET, POST"
        answer["access-control-allow-headers"] = "Authorization, Content-Type"
        answer["access-control-max-age"] = "600"
    return answer
