"""Access: tokens compared in constant time, a rate limit with bounded memory, headers that close the browser's doors."""

import gc
import hmac
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import pytest

from strokect.access import (
    OPEN_PATHS,
    PAGE_FILES,
    Access,
    Headers,
    cors_headers,
    preflight_headers,
    security_headers,
)
from strokect.http import HttpError
from strokect.settings import Settings, read_settings

TOKENS = (("pacs", "a" * 20), ("page", "b" * 20), ("nurse", "c" * 20))
OPEN = read_settings({})


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", f"Bearer {token}".encode())]


def with_tokens(rate_per_minute: int = 0) -> Settings:
    return replace(OPEN, tokens=TOKENS, rate_per_minute=rate_per_minute)


def refused(access: Access, headers: Headers) -> HttpError:
    with pytest.raises(HttpError) as caught:
        access.check(headers)
    return caught.value


@pytest.mark.parametrize(("name", "token"), TOKENS)
def test_a_known_token_is_named(name: str, token: str) -> None:
    assert Access(with_tokens()).check(bearer(token)) == name
    assert Access(with_tokens()).check([(b"authorization", b"bearer  " + token.encode() + b" ")]) == name


def test_without_tokens_nothing_is_asked_for() -> None:
    assert Access(OPEN).check([]) == "" and Access(OPEN).check(bearer("whatever")) == ""


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Basic " + b"a" * 20)],
        [(b"authorization", b"a" * 20)],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer " + b"a" * 19)],
        [(b"authorization", b"Bearer " + b"a" * 21)],
        [(b"authorization", b"Bearer " + b"A" * 20)],
        [(b"authorization", b"Bearer pacs:" + b"a" * 20)],
        [(b"authorization", b"Bearer \xff\xfe")],
        [*bearer("a" * 20), *bearer("a" * 20)],  # two: which one a proxy in front has checked is unknown
        [(b"cookie", b"token=" + b"a" * 20)],
    ],
)
def test_any_other_request_is_refused_and_told_how(headers: Headers) -> None:
    error = refused(Access(with_tokens()), headers)
    assert (error.status, error.code) == (401, "unauthorised") and "Bearer" in str(error)
    answer = error.response()
    assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith('Bearer realm="strokect"')


def test_every_token_is_compared_whatever_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[tuple[int, int]] = []
    original = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        lengths.append((len(a), len(b)))
        return original(a, b)

    access = Access(with_tokens())
    monkeypatch.setattr("strokect.access.hmac.compare_digest", spy)
    for token in (TOKENS[0][1], TOKENS[-1][1]):  # the first of them must not end the comparison
        access.check(bearer(token))
        assert lengths == [(32, 32)] * len(TOKENS)  # digests: the length of a token tells nothing either
        lengths.clear()
    for token in ("short", "a" * 5000):
        refused(access, bearer(token))
        assert lengths == [(32, 32)] * len(TOKENS)
        lengths.clear()


def test_no_token_is_kept_in_the_clear() -> None:
    assert not any(token in repr(vars(Access(with_tokens()))) for _, token in TOKENS)


def test_the_rate_is_limited_per_token_and_flows_back() -> None:
    clock = Clock()
    access = Access(with_tokens(rate_per_minute=30), clock)
    for _ in range(30):
        assert access.check(bearer("a" * 20)) == "pacs"
    error = refused(access, bearer("a" * 20))
    assert (error.status, error.code, error.headers["Retry-After"]) == (429, "rate_limited", "2")
    assert access.check(bearer("b" * 20)) == "page"  # somebody else's allowance is untouched
    clock.now += 1.5
    assert refused(access, bearer("a" * 20)).headers["Retry-After"] == "1"
    clock.now += float(error.headers["Retry-After"])  # who waits as long as told gets through
    access.check(bearer("a" * 20))


def test_the_allowance_never_exceeds_a_minute_s() -> None:
    clock = Clock()
    access = Access(with_tokens(rate_per_minute=5), clock)
    clock.now += 3600
    for _ in range(5):
        access.check(bearer("a" * 20))
    assert refused(access, bearer("a" * 20)).status == 429


def test_without_tokens_all_clients_share_one_limit() -> None:
    access = Access(replace(OPEN, rate_per_minute=2), Clock())
    access.check([(b"x-forwarded-for", b"10.0.0.1")])
    access.check([(b"x-forwarded-for", b"10.0.0.2")])
    assert refused(access, bearer("of no meaning here")).status == 429


def test_a_wrong_token_takes_nothing_of_anybody_s_allowance() -> None:
    access = Access(with_tokens(rate_per_minute=1), Clock())
    for _ in range(50):
        assert refused(access, bearer("x" * 20)).status == 401
    assert access.check(bearer("a" * 20)) == "pacs"


def test_made_up_tokens_take_no_memory() -> None:
    access = Access(with_tokens(rate_per_minute=5))
    refused(access, bearer("warm-up"))
    tracemalloc.start()
    for number in range(5000):
        refused(access, bearer(f"made-up-token-{number:08d}"))
    gc.collect()  # frames that pytest.raises held
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100_000


def test_every_answer_carries_the_security_headers() -> None:
    for path in ("/predict", "/model", "/nope", *PAGE_FILES):
        headers = dict(security_headers(path))
        assert headers[b"x-content-type-options"] == b"nosniff" and headers[b"referrer-policy"] == b"no-referrer"
        assert headers[b"cache-control"] == b"no-store" and headers[b"x-frame-options"] == b"DENY"
        assert headers[b"cross-origin-opener-policy"] == headers[b"cross-origin-resource-policy"] == b"same-origin"
        assert b"camera=()" in headers[b"permissions-policy"]
        assert headers[b"content-security-policy"].startswith(b"default-src 'none'; base-uri 'none'; form-action 'none'")


def test_only_the_page_may_load_anything_and_only_from_here() -> None:
    def policy(path: str) -> dict[str, str]:
        text = dict(security_headers(path))[b"content-security-policy"].decode()
        return dict(part.strip().split(" ", 1) for part in text.split(";"))

    assert policy("/").items() >= {
        ("script-src", "'self'"),
        ("style-src", "'self'"),
        ("connect-src", "'self'"),
        ("img-src", "'self' blob: data:"),
    }
    assert "unsafe" not in str(policy("/")) and policy("/") == policy("/page.js") == policy("/page.css")
    assert "script-src" not in policy("/predict") and policy("/predict")["frame-ancestors"] == "'none'"


def test_what_needs_no_token() -> None:
    assert {"/", "/page.css", "/page.js", "/livez", "/readyz"} == OPEN_PATHS


ORIGINS = ("https://pacs.example", "http://localhost:8000")
PREFLIGHT = (b"access-control-request-method", b"POST")


def test_cors_is_off_by_default() -> None:
    headers = [(b"origin", b"https://pacs.example"), PREFLIGHT]
    assert cors_headers(headers, OPEN.cors_origins) == [] and preflight_headers(headers, OPEN.cors_origins) is None


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_allowed_origin_is_answered_by_its_name(origin: str) -> None:
    answer = dict(cors_headers([(b"origin", origin.encode())], ORIGINS))
    assert answer[b"access-control-allow-origin"] == origin.encode() and answer[b"vary"] == b"Origin"
    assert b"X-Request-Id" in answer[b"access-control-expose-headers"]
    assert b"access-control-allow-credentials" not in answer  # tokens travel in a header, never in cookies
    preflight = dict(preflight_headers([(b"origin", origin.encode()), PREFLIGHT], ORIGINS) or [])
    assert preflight[b"access-control-allow-origin"] == origin.encode()
    assert (
        b"Authorization" in preflight[b"access-control-allow-headers"] and b"POST" in preflight[b"access-control-allow-methods"]
    )


@pytest.mark.parametrize(
    "origin",
    [
        b"https://pacs.example.evil",
        b"https://evil.example",
        b"http://pacs.example",
        b"https://pacs.example:444",
        b"null",
        b"",
        b"*",
    ],
)
def test_no_other_origin_is(origin: bytes) -> None:
    headers = [(b"origin", origin), PREFLIGHT]
    assert cors_headers(headers, ORIGINS) == [(b"vary", b"Origin")] and preflight_headers(headers, ORIGINS) is None


def test_an_ordinary_options_request_is_no_preflight() -> None:
    assert preflight_headers([(b"origin", b"https://pacs.example")], ORIGINS) is None
    assert preflight_headers([PREFLIGHT], ORIGINS) is None


def test_any_origin_where_the_operator_says_so() -> None:
    answer = dict(cors_headers([(b"origin", b"https://anywhere.example")], ("*",)))
    assert answer[b"access-control-allow-origin"] == b"*"


def test_no_header_is_sent_twice() -> None:
    names = [name for name, _ in [*security_headers("/"), *cors_headers([(b"origin", ORIGINS[0].encode())], ORIGINS)]]
    assert all(a != b for a, b in pairwise(sorted(names))) and all(name == name.lower() for name in names)
