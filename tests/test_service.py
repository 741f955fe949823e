"""The service over real HTTP: what a client sends, what it gets, and that every error has one shape."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jpeg_lossless
import numpy as np
import pytest
import requests
from fakes import TARGET, dicom_bytes, encode, fake_release, grey_slice
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1
from serving import Server, serve

from strokect.files import sha256_bytes
from strokect.predictor import Predictor

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "bentoml", "serve", "service:StrokeCT"]
PNG = encode(grey_slice())
NAME = "Erika_Mustermann_1964.png"  # a patient's name in a file name must end up nowhere


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    with serve(COMMAND, ROOT, folder, STROKECT_RELEASE=str(fake_release(folder)), STROKECT_QUEUE="20") as running:
        yield running


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("broken")
    release = fake_release(folder)
    (release / "folds" / "1" / "model.onnx").write_bytes(b"truncated")
    with serve(COMMAND, ROOT, folder, STROKECT_RELEASE=str(release)) as running:
        yield running


def predict(server: Server, data: bytes, name: str = NAME) -> requests.Response:
    return requests.post(f"{server.url}/predict", files={"image": (name, data)}, timeout=30)


def assert_error(response: requests.Response, status: int, code: str) -> str:
    body = response.json()
    assert (response.status_code, list(body), sorted(body["error"])) == (status, ["error"], ["code", "message", "request_id"])
    assert body["error"]["code"] == code and body["error"]["message"]
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    assert "Mustermann" not in response.text and str(ROOT) not in response.text
    return str(body["error"]["message"])


def test_prediction_has_every_field_of_the_contract(server: Server) -> None:
    response = predict(server, PNG)
    assert response.status_code == 200
    body = response.json()
    assert list(body) == [
        *("request_id", "model_version", "target", "input_sha256", "decision", "reasons"),
        *("probability", "threshold", "uncertainty", "ood", "latency_ms"),
    ]
    assert body["input_sha256"] == sha256_bytes(PNG) and body["target"] == TARGET and body["decision"] in ("stroke", "normal")
    assert list(body["uncertainty"]) == ["mc_std", "fold_std", "measure", "value", "refer_above"]
    assert all(body["uncertainty"].values()) and isinstance(body["ood"]["score"], float) and body["ood"]["flags"] == []
    assert body["request_id"] == response.headers["x-request-id"]


def test_the_service_says_what_the_predictor_says(server: Server, tmp_path: Path) -> None:
    expected = Predictor(fake_release(tmp_path)).predict(PNG)
    body = predict(server, PNG).json()
    assert body["probability"] == expected.probability and body["model_version"] == expected.model_version


def test_same_bytes_same_answer_also_under_load(server: Server) -> None:
    def answer(data: bytes) -> dict[str, Any]:
        body = predict(server, data).json()
        return {k: v for k, v in body.items() if k not in ("request_id", "latency_ms")}

    other = encode(grey_slice(seed=1))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, [PNG, other] * 10))
    assert all(a == answers[i % 2] for i, a in enumerate(answers)) and answers[0] != answers[1]


def test_jpeg_and_dicom_are_judged(server: Server) -> None:
    assert predict(server, encode(grey_slice(), "JPEG")).status_code == 200
    stored = np.full((64, 64), 1064, np.int16)
    assert predict(server, dicom_bytes(stored)).status_code == 200
    lossless = encapsulate([jpeg_lossless.encode(stored, 16)])
    assert predict(server, dicom_bytes(stored, JPEGLosslessSV1, PixelData=lossless)).status_code == 200


def test_pictures_that_cannot_be_judged(server: Server) -> None:
    assert_error(predict(server, b"no picture"), 415, "unknown_format")
    assert_error(predict(server, b""), 400, "empty_file")
    assert_error(predict(server, PNG[:200]), 422, "unreadable_image")
    assert_error(predict(server, encode(grey_slice().astype(np.uint16) * 256)), 422, "sixteen_bit")
    assert_error(predict(server, encode(np.zeros((6000, 6000), np.uint8))), 413, "too_many_pixels")
    lossy = b"\0" * 128 + b"DICM\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.4.50"
    assert "JPEG Baseline" in assert_error(predict(server, lossy), 415, "unsupported_transfer_syntax")


def test_a_colour_picture_is_an_answer_with_a_reason_and_no_label(server: Server) -> None:
    colour = np.zeros((64, 64, 3), np.uint8)
    colour[..., 0] = grey_slice()
    response = predict(server, encode(colour))
    body = response.json()
    assert response.status_code == 200 and (body["decision"], body["reasons"]) == ("reject", ["colour picture"])
    assert body["probability"] is None and body["ood"]["flags"] == ["colour"]


class Counter(BaseHTTPRequestHandler):
    """Counts who fetches from it."""

    hits = 0

    def do_GET(self) -> None:
        """Serve a good picture, so that a service that fetches would answer 200."""
        Counter.hits += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PNG)

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""


def test_no_url_is_ever_fetched(server: Server) -> None:
    web = HTTPServer(("127.0.0.1", 0), Counter)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    url, target = f"http://127.0.0.1:{web.server_port}/a.png", f"{server.url}/predict"
    try:
        assert_error(requests.post(target, files={"image": (None, url)}, timeout=30), 400, "not_a_file")
        assert_error(requests.post(target, data={"image": url}, timeout=30), 415, "unsupported_media_type")
        assert_error(requests.post(target, json={"image": url}, timeout=30), 415, "unsupported_media_type")
        assert_error(requests.post(target, data=url, timeout=30), 415, "unsupported_media_type")
        assert_error(predict(server, url.encode()), 415, "unknown_format")
        both = [("image", (NAME, PNG)), ("image", (None, url))]
        assert_error(requests.post(target, files=both, timeout=30), 400, "too_many_files")
        extra = [("image", (NAME, PNG)), ("url", (None, url))]
        assert requests.post(target, files=extra, timeout=30).status_code == 200
        # A second content type that another parser might prefer.
        mixed = {"Content-Type": "application/json;multipart/form-data"}
        assert_error(requests.post(target, data=url, headers=mixed, timeout=30), 415, "unsupported_media_type")
    finally:
        web.shutdown()
    assert Counter.hits == 0


def test_malformed_requests(server: Server) -> None:
    target = f"{server.url}/predict"
    assert_error(requests.post(target, timeout=30), 415, "unsupported_media_type")
    assert_error(requests.post(target, files={"picture": (NAME, PNG)}, timeout=30), 400, "missing_field")
    assert_error(
        requests.post(target, data=PNG, headers={"Content-Type": "image/png"}, timeout=30), 415, "unsupported_media_type"
    )
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        response = requests.post(target, data=PNG, headers={"Content-Type": content_type}, timeout=30)
        assert response.status_code == 400 and response.json()["error"]["code"] in ("malformed_multipart", "missing_field")
    pickled = {"Content-Type": "application/vnd.bentoml+pickle"}
    assert_error(requests.post(target, data=b"cos\nsystem\n", headers=pickled, timeout=30), 415, "unsupported_media_type")
    many = [("image", (NAME, b""))] * 50
    assert_error(requests.post(target, files=many, timeout=30), 400, "malformed_multipart")


def test_addresses_and_methods(server: Server) -> None:
    assert_error(requests.get(f"{server.url}/nope", timeout=30), 404, "not_found")
    assert_error(requests.post(f"{server.url}/nope", data=b"x", timeout=30), 404, "not_found")
    response = requests.get(f"{server.url}/predict", timeout=30)
    assert_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert_error(requests.post(f"{server.url}/model", timeout=30), 405, "method_not_allowed")
    for path in ("/livez", "/readyz", "/docs.json", "/metrics", "/"):
        assert requests.get(f"{server.url}{path}", timeout=30).status_code == 200, path


def test_a_body_over_the_cap_is_answered_and_not_kept(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(2**20)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    target = f"{server.url}/predict"
    assert_error(predict(server, bytes(32 * 2**20)), 413, "too_large")
    assert_error(requests.post(target, data=chunks(), headers=headers, timeout=60), 413, "too_large")
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:  # a size that is only announced
        raw.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")
    assert predict(server, PNG).status_code == 200


def test_model_says_what_it_is(server: Server) -> None:
    about = requests.get(f"{server.url}/model", timeout=30).json()
    assert (
        about["target"] == TARGET
        and about["backbone"] == "fake"
        and about["version"] == predict(server, PNG).json()["model_version"]
    )
    assert about["metrics"]["slice"]["roc_auc"] == {"value": 0.8, "ci95": [0.7, 0.9]}
    assert about["thresholds"]["slice"] == {"threshold": 0.5, "goal": "f2"} and about["calibration"]["method"] == "affine"
    assert about["data"]["data_sha256"] == "d" * 64 and about["audit"]["allowed"] == ["near_duplicates"]
    assert "not a medical device" in about["intended_use"] and about["out_of_scope"] and about["warnings"] == []
    assert about["settings"]["STROKECT_RELEASE"] == "set" and about["settings"]["STROKECT_QUEUE"] == 20
    assert "/" not in json.dumps(about["settings"])


def test_nothing_personal_is_logged(server: Server) -> None:
    predict(server, PNG)
    predict(server, b"garbage")
    requests.get(f"{server.url}/predict/{NAME}", timeout=30)
    requests.post(f"{server.url}/{NAME}", data=b"x", headers={"Content-Type": f"image/png; name={NAME}"}, timeout=30)
    line = f"{predict(server, PNG).json()['request_id']}: POST /predict 200"
    deadline = time.monotonic() + 10  # the line is written after the answer has gone out
    while line not in (log := server.log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert line in log
    assert "GET (unknown) 404" in log and "Mustermann" not in log and "Traceback" not in log


def test_a_corrupt_model_is_alive_but_not_ready(broken: Server) -> None:
    assert requests.get(f"{broken.url}/livez", timeout=30).status_code == 200
    assert_error(requests.get(f"{broken.url}/readyz", timeout=30), 503, "not_ready")
    assert_error(predict(broken, PNG), 503, "not_ready")
    assert_error(requests.get(f"{broken.url}/model", timeout=30), 503, "not_ready")
    log = broken.log.read_text()
    assert "folds/1/model.onnx does not match its SHA-256" in log and "dvc repro build_bento" in log
