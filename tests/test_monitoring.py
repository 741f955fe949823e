"""Metrics: what is counted, that no client can add a time series, and that dashboard and alerts ask for metrics that exist."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml
from conftest import ROOT
from fakes import dicom_bytes, encode, fake_release, grey_slice
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from serving import Server, serve

from strokect import monitoring
from strokect.policy import REJECT_REASONS

COMMAND = [sys.executable, "-m", "bentoml", "serve", "service:StrokeCT"]
DASHBOARD = ROOT / "deploy" / "grafana" / "strokect.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
ROUTES = ("/predict", "/predict_series")  # whose answers are counted
PROMTOOL = shutil.which("promtool")


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every time series of ours."""
    families = text_string_to_metric_families(monitoring.exposition()[0].decode())
    samples = (sample for family in families for sample in family.samples)
    return {
        (s.name, tuple(sorted(s.labels.items()))) for s in samples if s.name.startswith("strokect_") and "created" not in s.name
    }


def test_phases_decisions_scores_and_load_are_counted() -> None:
    def rejections() -> dict[str, float]:
        return {reason: value("strokect_rejections_total", route="/predict", reason=reason) for reason in REJECT_REASONS}

    before, rejects = rejections(), value("strokect_decisions_total", route="/predict", decision="reject")
    monitoring.count_decision("/predict", "reject", ["colour", "unlike_training", "colour"])
    assert value("strokect_decisions_total", route="/predict", decision="reject") == rejects + 1
    after = rejections()
    assert {reason for reason in after if after[reason] == before[reason] + 1} == {"colour", "unlike_training"}

    quick, all_of_them = (value("strokect_phase_seconds_bucket", phase="judge", le=le) for le in ("0.25", "+Inf"))
    monitoring.observe_phase("judge", 0.2)
    monitoring.observe_phase("judge", 500)
    assert value("strokect_phase_seconds_bucket", phase="judge", le="0.25") == quick + 1
    assert value("strokect_phase_seconds_bucket", phase="judge", le="+Inf") == all_of_them + 2

    monitoring.set_load(3, 2)
    assert (value("strokect_queue_depth"), value("strokect_computing")) == (3, 2)
    monitoring.set_load(0, 0)
    assert (value("strokect_queue_depth"), value("strokect_computing")) == (0, 0)


def test_scores_fall_into_buckets_and_what_is_no_number_is_left_out() -> None:
    def counts(series: str, slices: str) -> list[float]:
        probability = [value("strokect_probability_bucket", route=f"/predict{end}", le=series) for end in ("", "_series")]
        return [*probability, value("strokect_gate_score_bucket", le=slices)]

    before, low = counts("+Inf", "+Inf"), counts("0.05", "-1.0")
    monitoring.observe_scores("/predict", 0.01, -1.6)
    monitoring.observe_scores("/predict", None, None)
    monitoring.observe_scores("/predict", float("nan"), float("inf"))
    monitoring.observe_scores("/predict_series", 0.9, None)
    monitoring.observe_scores("/predict_series", 0.8, None)
    assert counts("+Inf", "+Inf") == [before[0] + 1, before[1] + 2, before[2] + 1]
    assert counts("0.05", "-1.0") == [low[0] + 1, low[1], low[2] + 1]


@pytest.mark.parametrize(
    ("status", "counted"),
    [(200, "2xx"), (204, "2xx"), (404, "4xx"), (429, "429"), (504, "5xx"), (0, "0"), (999, "other"), (-5, "other")],
)
def test_an_answer_is_counted_by_route_and_class(status: int, counted: str) -> None:
    before = value("strokect_http_responses_total", route="/predict", status=counted)
    monitoring.count_http("/predict", status)
    assert value("strokect_http_responses_total", route="/predict", status=counted) == before + 1


def test_ten_thousand_made_up_values_add_a_handful_of_series() -> None:
    rng = random.Random(0)
    for number in range(10_000):
        text = f"/Mustermann-{number}-{rng.random()}"
        monitoring.count_http(text, rng.randrange(-1000, 100_000))
        monitoring.count_decision(text, text, [text, text[::-1]])
        monitoring.observe_phase(text, rng.random())
        monitoring.observe_scores(text, rng.uniform(-1e9, 1e9), rng.uniform(-1e9, 1e9))
        monitoring.set_ready(text)
    found = series()
    labels = {
        key: {dict(pairs)[key] for _, pairs in found if key in dict(pairs)} for key in ("route", "status", "reason", "phase")
    }
    assert labels["route"] <= {*monitoring.ROUTES, "other"} and labels["reason"] <= {*REJECT_REASONS, "other"}
    assert labels["status"] <= {*monitoring.STATUS_CLASSES, "other"} and labels["phase"] <= {*monitoring.PHASES, "other"}
    assert ("strokect_build_info", (("model_version", "other"),)) in found and "Mustermann" not in str(found)
    assert len(found) < 400


def test_every_series_is_there_before_its_first_event() -> None:
    code = "from strokect import monitoring; monitoring.start_metrics(); print(monitoring.exposition()[0].decode())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for line in (
        *(f'strokect_rejections_total{{reason="{r}",route="{route}"}} 0.0' for r in REJECT_REASONS for route in ROUTES),
        *(f'strokect_decisions_total{{decision="{d}",route="{route}"}} 0.0' for d in monitoring.DECISIONS for route in ROUTES),
        *(f'strokect_probability_count{{route="{route}"}} 0.0' for route in ROUTES),
        *(f'strokect_phase_seconds_count{{phase="{phase}"}} 0.0' for phase in monitoring.PHASES),
        'strokect_http_responses_total{route="/predict",status="5xx"} 0.0',
        "strokect_ready 0.0",
    ):
        assert line in done.stdout.splitlines()


def test_no_file_is_shared_with_other_servers(tmp_path: Path) -> None:
    code = "from strokect import monitoring; monitoring.set_load(7, 3); print(monitoring.exposition()[0].decode())"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}  # as BentoML starts its workers
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "strokect_queue_depth 7.0" in done.stdout and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def two_servers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What two servers of one user say after the first one has answered: it refers what it does not reject."""
    folder = tmp_path_factory.mktemp("two")
    release = str(fake_release(folder, policy={"refer_above": 1e-9}))
    settings = {"STROKECT_RELEASE": release, "BENTOML_HOME": str(folder / "home")}
    colour = np.repeat(grey_slice()[..., None], 3, axis=2) // [1, 2, 3]
    piece = dicom_bytes(
        np.random.default_rng(0).integers(1000, 1100, (64, 64)).astype(np.int16),
        SeriesInstanceUID="1.2.840.1964.1",
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    )
    slices = [encode(grey_slice()), encode(grey_slice(seed=1)), encode(colour.astype(np.uint8))]
    with serve(COMMAND, ROOT, folder / "a", **settings) as first:
        for data in slices:
            requests.post(f"{first.url}/predict", files={"image": data}, timeout=30).raise_for_status()
        for query in ("", "?map=json", "?map=json"):
            requests.post(f"{first.url}/explain{query}", files={"image": slices[0]}, timeout=30).raise_for_status()
        requests.post(f"{first.url}/predict_series", files={"series": piece}, timeout=30).raise_for_status()
        with serve(COMMAND, ROOT, folder / "b", **settings) as second:
            a, b = (requests.get(f"{server.url}/metrics", timeout=30).text for server in (first, second))
    return a, b


def counted(text: str, name: str) -> dict[tuple[str, str], float]:
    """Samples of a metric that are not 0: (route, its other label) → value."""
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name and s.value]
    return {(s.labels["route"], next((s.labels[k] for k in s.labels if k != "route"), "")): s.value for s in samples}


def test_servers_on_one_host_count_for_themselves(two_servers: tuple[str, str]) -> None:
    counts = [counted(text, "strokect_http_responses_total") for text in two_servers]
    assert counts[0][("/predict", "2xx")] == 3 and ("/predict", "2xx") not in counts[1]
    assert all("strokect_ready 1.0" in text for text in two_servers)


def test_decisions_and_scores_are_those_of_judgements_and_not_of_looks(two_servers: tuple[str, str]) -> None:
    text, _ = two_servers
    refers = {("/predict", "refer"): 2, ("/predict_series", "refer"): 1}
    assert counted(text, "strokect_decisions_total") == {**refers, ("/predict", "reject"): 1}
    assert counted(text, "strokect_probability_count") == {("/predict", ""): 2, ("/predict_series", ""): 1}
    assert "strokect_gate_score_count 3.0" in text


def test_a_refer_is_no_rejection(two_servers: tuple[str, str]) -> None:
    assert counted(two_servers[0], "strokect_rejections_total") == {("/predict", "colour"): 1}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a real server says after some requests, 40 of them to addresses that do not exist."""
    folder = tmp_path_factory.mktemp("metrics")
    with serve(COMMAND, ROOT, folder, STROKECT_RELEASE=str(fake_release(folder))) as server:
        _use(server)
        answer = requests.get(f"{server.url}/metrics", timeout=30)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return answer.text


def _use(server: Server) -> None:
    requests.post(f"{server.url}/predict", files={"image": ("Mustermann.png", encode(grey_slice()))}, timeout=30)
    for number in range(40):
        assert requests.get(f"{server.url}/Mustermann/{number}?name=Mustermann", timeout=30).status_code == 404


def test_a_real_server_shows_them_and_no_path_that_a_client_made_up(exposed: str) -> None:
    assert 'strokect_http_responses_total{route="(unknown)",status="4xx"} 40.0' in exposed
    assert 'strokect_http_responses_total{route="/predict",status="2xx"} 1.0' in exposed
    assert "strokect_ready 1.0" in exposed and "strokect_build_info{model_version=" in exposed
    assert "Mustermann" not in exposed and "bentoml_service_request" not in exposed
    routes = set(re.findall(r'route="([^"]*)"', exposed))
    assert routes <= set(monitoring.ROUTES)


def expressions() -> list[str]:
    """Every PromQL expression of the dashboard and of the alert rules."""
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    variables = [v["definition"] for v in dashboard["templating"]["list"] if "definition" in v]
    return [t["expr"] for p in dashboard["panels"] for t in p["targets"]] + [rule["expr"] for rule in rules] + variables


def test_dashboard_and_alerts_ask_for_metrics_that_exist(exposed: str) -> None:
    known = {sample.name for family in text_string_to_metric_families(exposed) for sample in family.samples}
    asked = set(re.findall(r"\bstrokect_\w+", " ".join(expressions())))
    assert asked and asked <= known
    parts = {name.removesuffix(end) for name in asked for end in ("_bucket", "_total")}
    assert parts >= {"strokect_phase_seconds", "strokect_rejections", "strokect_queue_depth", "strokect_gate_score"}


def test_they_ask_for_label_values_that_exist() -> None:
    allowed = {
        "phase": set(monitoring.PHASES),
        "decision": set(monitoring.DECISIONS),
        "status": {*monitoring.STATUS_CLASSES, "429|5xx"},
        "instance": {"$instance"},
        "job": {"strokect"},
        "route": {"$route"},
    }
    for name, wanted in re.findall(r'(\w+)=~?"([^"]*)"', " ".join(expressions())):
        assert wanted in allowed[name], f"{name}={wanted}"


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 36 and dashboard["uid"] and dashboard["title"] == "strokect" and "id" not in dashboard
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids) and {p["type"] for p in dashboard["panels"]} == {"stat", "timeseries", "heatmap"}
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        own = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not own & cells and place["x"] + place["w"] <= 24
        cells |= own
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) and panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"  # a variable: no uid of some Grafana of ours


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: apt-get install prometheus)")
def test_promtool_takes_the_rules_and_the_metrics(exposed: str) -> None:
    subprocess.run([str(PROMTOOL), "check", "rules", str(ALERTS)], check=True, capture_output=True)
    done = subprocess.run([str(PROMTOOL), "check", "metrics"], input=exposed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


SERIES = {
    "up": "up{job='strokect'}",
    "ready": "strokect_ready",
    "ok": "strokect_http_responses_total{route='/predict',status='2xx'}",
    "failed": "strokect_http_responses_total{route='/predict',status='5xx'}",
    "full": "strokect_http_responses_total{route='/predict',status='429'}",
    "quick": "strokect_phase_seconds_bucket{phase='total',le='5.0'}",
    "slow": "strokect_phase_seconds_bucket{phase='total',le='60.0'}",
    "all": "strokect_phase_seconds_bucket{phase='total',le='+Inf'}",
    "normal": "strokect_decisions_total{route='/predict',decision='normal'}",
    "reject": "strokect_decisions_total{route='/predict',decision='reject'}",
    "refer": "strokect_decisions_total{route='/predict',decision='refer'}",
    "series normal": "strokect_decisions_total{route='/predict_series',decision='normal'}",
    "series reject": "strokect_decisions_total{route='/predict_series',decision='reject'}",
}
CALM = "0+100x60"
# Ten of a hundred an hour for a week, then forty.
STEADY, RISEN, FALLEN = "0+10x200", "0+10x186 1900+40x14", "0+90x186 16800+60x14"
NONE_THEN = "0+1x186 186+50x14"
CASES: dict[str, list[tuple[str, dict[str, str]]]] = {  # step → what should fire (a word of its name), series
    "1m": [
        (
            "",
            {
                "ready": "1x60",
                "up": "1x60",
                "ok": CALM,
                "failed": "0x60",
                "full": "0x60",
                "quick": CALM,
                "slow": CALM,
                "all": CALM,
            },
        ),
        ("NotReady", {"ready": "0x60", "ok": CALM}),
        ("Down", {"up": "0x60"}),
        ("Errors", {"ok": CALM, "failed": "0+5x60"}),
        ("Overloaded", {"ok": CALM, "full": "0+20x60"}),
        ("Slow", {"quick": "0x60", "slow": CALM, "all": CALM}),
    ],
    "1h": [
        ("", {"normal": "0+80x200", "reject": STEADY, "refer": STEADY}),
        ("RejectShareDrifts", {"normal": FALLEN, "reject": RISEN, "refer": "0x200"}),
        # More series than before, which are rejected more often than slices, is no drift; a share that moves among few is one.
        ("", {"normal": "0+90x200", "reject": STEADY, "series normal": NONE_THEN, "series reject": NONE_THEN}),
        ("RejectShareDrifts", {"normal": "0+900x200", "reject": "0+100x200", "series normal": FALLEN, "series reject": RISEN}),
        ("ReferShareDrifts", {"normal": FALLEN, "reject": "0x200", "refer": RISEN}),
    ],
}


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: apt-get install prometheus)")
@pytest.mark.parametrize("step", CASES)
def test_the_alerts_fire_when_they_should_and_not_before(tmp_path: Path, step: str) -> None:
    names = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    tests = []
    for expected, values in CASES[step]:
        firing = {name: int(name == f"Strokect{expected}") for name in names}
        assert sum(firing.values()) == bool(expected)
        expressions = [
            {
                "expr": f"count(ALERTS{{alertname='{name}',alertstate='firing'}}) or vector(0)",
                "eval_time": "30m" if step == "1m" else "8d",
                "exp_samples": [{"labels": "{}", "value": count}],
            }
            for name, count in firing.items()
        ]
        series = [{"series": SERIES[key], "values": numbers} for key, numbers in values.items()]
        tests.append({"interval": step, "input_series": series, "promql_expr_test": expressions})
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": step, "tests": tests}))
    done = subprocess.run([str(PROMTOOL), "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
