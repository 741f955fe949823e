"""Over HTTP: who may ask, what is written down about an answer, and that nothing of a patient goes anywhere else."""

import fcntl
import json
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import requests
from fakes import dicom_bytes, fake_release
from serving import Server, serve
from test_service import COMMAND, PNG, ROOT, assert_error

TOKEN, OTHER = "a-token-of-the-router", "a-token-of-the-page-00"
ORIGIN = "https://pacs.example.org"
PLANTED = ("Mustermann", "MUSTERMANN", "Erika", "4711-0815", "19640229", "1.2.276.0.7230010")  # name, id, date, UID
SLICE = dicom_bytes(
    np.random.default_rng(0).integers(1000, 1100, (64, 64)).astype(np.int16),
    PatientName="Mustermann^Erika",
    PatientID="4711-0815",
    PatientBirthDate="19640229",
    StudyDate="19640229",
    StudyInstanceUID="1.2.276.0.7230010.3.1.2",
    SeriesInstanceUID="1.2.276.0.7230010.3.1.3",
    ImagePositionPatient=[0, 0, 0],
    ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
)
NAME = "Mustermann_Erika_19640229.dcm"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A service with two tokens, an audit log and one web origin; and the folder that it may write to."""
    folder = tmp_path_factory.mktemp("closed")
    (folder / "tmp").mkdir()
    (folder / "tokens").write_text(f"# ours\nrouter:{TOKEN}\npage:{OTHER}\n")
    environment = {"STROKECT_TOKEN_FILE": str(folder / "tokens"), "STROKECT_AUDIT_LOG": str(folder / "audit.jsonl")}
    environment |= {"STROKECT_CORS_ORIGINS": ORIGIN, "TMPDIR": str(folder / "tmp"), "STROKECT_QUEUE": "20"}
    with serve(COMMAND, ROOT, folder, STROKECT_RELEASE=str(fake_release(folder)), **environment) as running:
        yield running, folder


def post(server: Server, route: str, token: str = TOKEN, data: bytes = PNG, name: str = "a.png") -> requests.Response:
    field = "series" if route.startswith("/predict_series") else "image"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.post(f"{server.url}{route}", files={field: (name, data)}, headers=headers, timeout=60)


def test_without_a_token_there_are_probes_and_the_page_and_nothing_else(closed: tuple[Server, Path]) -> None:
    server, _ = closed
    for path in ("/livez", "/readyz", "/", *(f"/{file.name}" for file in (ROOT / "page").glob("*.js"))):
        assert requests.get(f"{server.url}{path}", timeout=30).status_code == 200, path
    for path in ("/model", "/metrics", "/docs.json", "/schema.json", "/nope"):
        response = requests.get(f"{server.url}{path}", timeout=30)
        assert_error(response, 401, "unauthorised")
        assert response.headers["www-authenticate"].startswith("Bearer")
    for route in ("/predict", "/explain", "/view", "/predict_series"):
        assert_error(post(server, route, token=""), 401, "unauthorised")
        assert_error(post(server, route, token=TOKEN[:-1]), 401, "unauthorised")
        assert post(server, route, token=OTHER).status_code == 200


def test_every_answer_is_in_the_audit_log_with_whose_it_was(closed: tuple[Server, Path]) -> None:
    server, folder = closed
    body = post(server, "/predict", OTHER).json()
    lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == body["request_id"]]
    assert (line["token_id"], line["route"]) == ("page", "/predict") and "status" not in line  # nobody knows it yet
    assert all(line[key] == body[key] for key in ("input_sha256", "model_version", "decision"))
    command = [sys.executable, "-m", "strokect.audit_log", str(folder / "audit.jsonl")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    changed = (folder / "audit.jsonl").read_text().replace(f'"{body["decision"]}"', '"reject"')
    (folder / "changed.jsonl").write_text(changed)
    done = subprocess.run([*command[:-1], str(folder / "changed.jsonl")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "line" in done.stderr + done.stdout


def test_while_another_process_holds_the_audit_log_there_is_no_answer_and_the_refusal_is_quick(
    closed: tuple[Server, Path],
) -> None:
    server, folder = closed
    with (folder / "audit.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        began = time.monotonic()
        assert_error(post(server, "/predict"), 500, "internal_error")
        assert time.monotonic() - began < 6
    assert post(server, "/predict").status_code == 200


def test_a_page_of_the_allowed_origin_may_ask_and_no_other(closed: tuple[Server, Path]) -> None:
    server, _ = closed
    question = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = requests.options(f"{server.url}/predict", headers=question, timeout=30)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == ORIGIN
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    other = requests.get(f"{server.url}/livez", headers={"Origin": "https://evil.example"}, timeout=30)
    assert "access-control-allow-origin" not in other.headers


def test_every_answer_has_the_security_headers(closed: tuple[Server, Path]) -> None:
    server, _ = closed
    addresses = (f"{server.url}/", f"{server.url}/nope")
    for response in (*(requests.get(address, timeout=30) for address in addresses), post(server, "/view")):
        headers = response.headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer" and headers["cache-control"] == "no-store"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert "server" not in headers and not any(name.lower().startswith("x-bentoml") for name in headers)


def test_nothing_of_a_patient_reaches_log_metrics_files_or_answers(closed: tuple[Server, Path]) -> None:
    server, folder = closed
    scan = BytesIO()
    with zipfile.ZipFile(scan, "w") as archive:
        archive.writestr(f"Mustermann^Erika/{NAME}", SLICE)
        archive.writestr("Mustermann^Erika/report.txt", "Mustermann")
    damaged = SLICE.replace(b"CT", b"C\xff").replace(b"-1024", b"Erika")
    routes = ("/predict", "/explain", "/explain?map=json", "/view?level=40&width=80", "/predict_series")
    files = (SLICE, damaged, SLICE[:900], scan.getvalue())
    answers = [post(server, route, data=data, name=NAME) for data in files for route in routes]
    answers.append(requests.get(f"{server.url}/{NAME}?name=Mustermann", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30))
    assert {200, 404, 422} <= {answer.status_code for answer in answers} and max(answer.status_code for answer in answers) < 500
    requests.request("MUSTERMANN", f"{server.url}/model", timeout=30)
    last = post(server, "/predict").json()["request_id"]
    deadline = time.monotonic() + 10  # the last line is written after the answer has gone out
    while last not in (log := server.log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    metrics = requests.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30).text
    written = {str(path): path.read_bytes() for path in (folder / "tmp").rglob("*") if path.is_file()}
    places = [log, metrics, (folder / "audit.jsonl").read_text(), *written, *(repr(content) for content in written.values())]
    places += [answer.content.decode("latin-1") + str(answer.headers) for answer in answers]
    for word in PLANTED:
        assert not any(word in place for place in places), word
    assert not re.search("Traceback|pydicom|PIL", log)
    for token in (TOKEN, OTHER):
        assert not any(token in place for place in places), "a token is written somewhere"


def test_a_token_that_asks_too_often_waits(tmp_path: Path) -> None:
    environment = {"STROKECT_TOKEN": f"router:{TOKEN}", "STROKECT_RATE_PER_MINUTE": "5"}
    with serve(COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(fake_release(tmp_path)), **environment) as server:
        answers = [post(server, "/predict") for _ in range(8)]
        assert [answer.status_code for answer in answers[:5]] == [200] * 5
        assert_error(answers[-1], 429, "rate_limited")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert requests.get(f"{server.url}/readyz", timeout=30).status_code == 200
