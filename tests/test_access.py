"""Access: tokens compared in constant time, a rate limit with bounded memory, headers that close the browser's doors."""

import gc
import hmac
import tracemalloc
from dataclasses import replace

import pytest

from strokect.access import Access, Headers, cors_headers, security_headers
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


def bearer(token: str) -> Headers:
    return {"host": "x", "authorization": f"Bearer {token}"}


def with_tokens(rate_per_minute: int = 0) -> Settings:
    return replace(OPEN, tokens=TOKENS, rate_per_minute=rate_per_minute)


def refused(access: Access, headers: Headers) -> HttpError:
    with pytest.raises(HttpError) as caught:
        access.check(headers)
    return caught.value


@pytest.mark.parametrize(("name", "token"), TOKENS)
def test_a_known_token_is_named(name: str, token: str) -> None:
    assert Access(with_tokens()).check(bearer(token)) == name
    assert Access(with_tokens()).check({"authorization": f"bearer  {token} "}) == name


def test_without_tokens_nothing_is_asked_for() -> None:
    assert Access(OPEN).check({}) == "" and Access(OPEN).check(bearer("whatever")) == ""


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Basic " + "a" * 20},
        {"authorization": "a" * 20},
        {"authorization": "Bearer "},
        {"authorization": "Bearer " + "a" * 19},
        {"authorization": "Bearer " + "a" * 21},
        {"authorization": "Bearer " + "A" * 20},
        {"authorization": "Bearer pacs:" + "a" * 20},
        {"authorization": "Bearer " + "a" * 20 + ", Bearer " + "a" * 20},
        {"authorization": "Bearer \xff\xfe"},
        {"cookie": "token=" + "a" * 20},
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
    access.check({"x-forwarded-for": "10.0.0.1"})
    access.check({"x-forwarded-for": "10.0.0.2"})
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
    for page in (True, False):
        headers = security_headers(page)
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store" and headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert headers["content-security-policy"].startswith("default-src 'none'; base-uri 'none'; form-action 'none'")


def test_only_the_page_may_load_anything_and_only_from_here() -> None:
    def policy(page: bool) -> dict[str, str]:
        parts = security_headers(page)["content-security-policy"].split(";")
        return dict(part.strip().split(" ", 1) for part in parts)

    assert policy(page=True) == policy(page=False) | {
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' blob: data:",
    }
    assert policy(page=False)["frame-ancestors"] == "'none'"


ORIGINS = ("https://pacs.example", "http://localhost:8000")
LISTED = replace(OPEN, cors_origins=ORIGINS)
PREFLIGHT = {"access-control-request-method": "POST"}


def test_cors_is_off_by_default() -> None:
    assert cors_headers({"origin": "https://pacs.example", **PREFLIGHT}, OPEN) == {}


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_allowed_origin_is_answered_by_its_name(origin: str) -> None:
    answer = cors_headers({"origin": origin}, LISTED)
    assert answer["access-control-allow-origin"] == origin and answer["vary"] == "Origin"
    assert "X-Request-Id" in answer["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer  # tokens travel in a header, never in cookies
    assert "access-control-allow-methods" not in answer


@pytest.mark.parametrize("origin", ORIGINS)
def test_its_preflight_is_told_what_it_may_send(origin: str) -> None:
    answer = cors_headers({"origin": origin, **PREFLIGHT}, LISTED)
    assert answer["access-control-allow-origin"] == origin and "POST" in answer["access-control-allow-methods"]
    assert "Authorization" in answer["access-control-allow-headers"] and int(answer["access-control-max-age"]) > 0


@pytest.mark.parametrize(
    "origin",
    ["https://pacs.example.evil", "https://evil.example", "http://pacs.example", "https://pacs.example:444", "null", "", "*"],
)
def test_no_other_origin_is(origin: str) -> None:
    assert cors_headers({"origin": origin, **PREFLIGHT}, LISTED) == {"vary": "Origin"}
    assert cors_headers(PREFLIGHT, LISTED) == {"vary": "Origin"}


def test_any_origin_where_the_operator_says_so() -> None:
    answer = cors_headers({"origin": "https://anywhere.example"}, replace(OPEN, cors_origins=("*",)))
    assert answer["access-control-allow-origin"] == "*"
