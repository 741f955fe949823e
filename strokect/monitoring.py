"""Prometheus metrics. Every label comes from a closed set, whatever is passed in, so that no client can add a time series.

BentoML's own HTTP metrics label raw paths, so the service switches them off and answers /metrics with `exposition`. Values are in
the memory of the one worker that serves; `bentoml serve` would have them in files, in one folder for all servers of a user, which
each of them empties when it starts.
"""

import math
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # set by BentoML; prometheus_client looks for it when it is imported

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest

from strokect.policy import REJECT_REASONS

PHASES = ("queue", "decode", "judge", "total")
DECISIONS = ("stroke", "normal", "refer", "reject")
# Whose decisions and scores are counted. /explain and its map show what has been judged, often several times; counted as well,
# they would move the figures of drift with every look at a slice.
JUDGED = ("/predict", "/predict_series")
UNKNOWN_ROUTE, PAGE = "(unknown)", "(page)"
ROUTES = (
    *("/predict", "/explain", "/view", "/predict_series", "/model", "/docs.json", "/schema.json", "/metrics"),
    *("/livez", "/readyz", "/healthz", PAGE, UNKNOWN_ROUTE),
)
# 429 is a class of its own: it says that the service is full, not that the client erred. 0: the client went before the answer.
STATUS_CLASSES = ("0", "1xx", "2xx", "3xx", "4xx", "429", "5xx")
OTHER = "other"
VERSION = re.compile(r"[0-9a-f]{12}")

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
PROBABILITIES = tuple(round(0.05 * i, 2) for i in range(1, 20))
GATE_SCORES = (
    -3.0,
    -2.0,
    -1.0,
    0.0,
    0.5,
    1.0,
    1.5,
    2.0,
    2.5,
    3.0,
    4.0,
    6.0,
    10.0,
)  # in σ of the development slices, gate.Standard

PHASE = Histogram(
    "strokect_phase_seconds", "Time of one request by phase; total is the whole request", ["phase"], buckets=SECONDS
)
DECISION = Counter("strokect_decisions", "Answers by decision", ["route", "decision"])
REJECTION = Counter("strokect_rejections", "Objections of the gate by code; one reject may have several", ["route", "reason"])
RESPONSE = Counter("strokect_http_responses", "HTTP answers by route and class of status", ["route", "status"])
QUEUED = Gauge("strokect_queue_depth", "Requests that wait for their turn")
COMPUTING = Gauge("strokect_computing", "Requests that compute")
READY = Gauge("strokect_ready", "1 if the release is verified and answers")
BUILD = Gauge("strokect_build_info", "1; the label says which release is served", ["model_version"])
# Scores may be negative, so the _sum of the second is no counter; use the buckets.
PROBABILITY = Histogram(
    "strokect_probability", "Calibrated probability of answers that have one", ["route"], buckets=PROBABILITIES
)
GATE_SCORE = Histogram(
    "strokect_gate_score", "Score of the feature gate of single slices, higher is stranger", buckets=GATE_SCORES
)


def _bounded(value: object, allowed: Collection[str]) -> str:
    return value if isinstance(value, str) and value in allowed else OTHER


def start_metrics() -> None:
    """Called once by a worker. Every series exists from the start, so that the first event counts in a rate."""
    for phase in PHASES:
        PHASE.labels(phase)
    for route in JUDGED:
        PROBABILITY.labels(route)
        for decision in DECISIONS:
            DECISION.labels(route, decision)
        for reason in REJECT_REASONS:
            REJECTION.labels(route, reason)
    for status in STATUS_CLASSES:
        RESPONSE.labels("/predict", status)
    set_load(0, 0)
    READY.set(0)


def set_ready(model_version: str) -> None:
    """The release is loaded. A process serves one release, so the label has one value."""
    version = model_version if VERSION.fullmatch(model_version) else OTHER
    BUILD.labels(version).set(1)
    READY.set(1)


def observe_phase(name: str, seconds: float) -> None:
    """How long a phase of one request took; one of PHASES."""
    PHASE.labels(_bounded(name, PHASES)).observe(seconds)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """`observe_phase` of what is done in the block, if it succeeds."""
    began = time.monotonic()
    yield
    observe_phase(name, time.monotonic() - began)


def count_decision(route: str, decision: str, flags: Sequence[str] = ()) -> None:
    """One answer of a route of JUDGED; `flags` are the codes of a reject (`ood.flags`), each counted once. No refer has any."""
    route = _bounded(route, JUDGED)
    DECISION.labels(route, _bounded(decision, DECISIONS)).inc()
    for reason in {_bounded(flag, REJECT_REASONS) for flag in flags}:
        REJECTION.labels(route, reason).inc()


def observe_scores(route: str, probability: float | None, gate_score: float | None) -> None:
    """The scores of one answer of a route of JUDGED, for drift; a series has no gate score.

    None and what is not finite is left out: one infinity would spoil the sum for good.
    """
    for metric, score in ((PROBABILITY.labels(_bounded(route, JUDGED)), probability), (GATE_SCORE, gate_score)):
        if score is not None and math.isfinite(score):
            metric.observe(score)


def count_http(route: str, status: int) -> None:
    """One HTTP answer; status 0 if the client went before it."""
    name = f"{status // 100}xx" if status not in (0, 429) else str(status)
    RESPONSE.labels(_bounded(route, ROUTES), _bounded(name, STATUS_CLASSES)).inc()


def set_load(queued: int, computing: int) -> None:
    """How many requests wait and compute now, in this worker."""
    QUEUED.set(queued)
    COMPUTING.set(computing)


def exposition() -> tuple[bytes, str]:
    """The answer to GET /metrics and its media type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
