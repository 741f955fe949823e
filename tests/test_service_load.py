"""The service when too much is asked of it, when it is killed, and when it is told to end."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from fakes import REFERENCE, bombs, dicom_bytes, encode, fake_release, grey_slice
from serving import Server, serve
from test_fuzz_decoding import mutations
from test_service import COMMAND, PNG, ROOT, assert_error, predict

from strokect.lifecycle import EXIT_CODE

AT_ONCE = {"STROKECT_COMPUTING": "1", "STROKECT_QUEUE": "1"}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that computes for most of a second, one request at a time and one waiting."""
    folder = tmp_path_factory.mktemp("slow")
    release = fake_release(folder, work=4)
    with serve(COMMAND, ROOT, folder, STROKECT_RELEASE=str(release), **AT_ONCE) as running:
        predict(running, PNG)
        yield running


def until(holds: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Wait until something holds and return it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come to pass")


def gauge(server: Server, name: str) -> float:
    found = re.findall(
        rf"^strokect_{name}(?:{{.*}})? (\S+)$", requests.get(f"{server.url}/metrics", timeout=30).text, re.MULTILINE
    )
    assert found, f"no metric strokect_{name}"
    return sum(map(float, found))


def test_who_is_too_many_is_told_at_once_and_page_and_probes_answer(slow: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        inside: list[Future[requests.Response]] = [pool.submit(predict, slow, PNG) for _ in range(2)]
        until(lambda: gauge(slow, "computing") == 1 and gauge(slow, "queue_depth") == 1)
        refused = predict(slow, PNG)
        for path in ("/", "/livez", "/readyz", "/model", "/metrics"):
            assert requests.get(f"{slow.url}{path}", timeout=30).status_code == 200, path
        assert not any(future.done() for future in inside), "answered only after those inside"
        assert_error(refused, 429, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert [future.result().status_code for future in inside] == [200, 200]
    assert predict(slow, PNG).status_code == 200


def test_clients_that_hang_up_while_they_wait_leave_the_queue(slow: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        inside = pool.submit(predict, slow, PNG)
        until(lambda: gauge(slow, "computing") == 1)
        body = requests.Request("POST", f"{slow.url}/predict", files={"image": ("a", PNG)}).prepare()
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {body.headers['Content-Type']}\r\n"
        with socket.create_connection(("127.0.0.1", slow.port)) as waiting:
            waiting.sendall(f"{head}Content-Length: {len(body.body)}\r\n\r\n".encode() + body.body)  # type: ignore[arg-type, operator]
            until(lambda: gauge(slow, "queue_depth") == 1)
        until(lambda: gauge(slow, "queue_depth") == 0)
        assert not inside.done(), "the queue emptied because it was its turn"
        assert inside.result().status_code == 200
    assert predict(slow, PNG).status_code == 200


def test_a_series_that_nobody_waits_for_is_given_up(slow: Server) -> None:
    files = [("series", ("a", encode(grey_slice(seed=seed)))) for seed in range(40)]  # half a minute's work
    body = requests.Request("POST", f"{slow.url}/predict_series", files=files).prepare()
    head = f"POST /predict_series HTTP/1.1\r\nHost: x\r\nContent-Type: {body.headers['Content-Type']}\r\n"
    with socket.create_connection(("127.0.0.1", slow.port)) as client:
        client.sendall(f"{head}Content-Length: {len(body.body)}\r\n\r\n".encode() + body.body)  # type: ignore[arg-type, operator]
        until(lambda: gauge(slow, "computing") == 1)
    until(lambda: gauge(slow, "computing") == 0, 10)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@pytest.mark.slow
def test_after_fifty_timeouts_no_work_is_left(tmp_path: Path) -> None:
    release = fake_release(tmp_path, work=6)
    environment = {**AT_ONCE, "STROKECT_QUEUE": "8", "STROKECT_DEADLINE_S": "0.1"}
    with serve(COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(release), **environment) as server:
        assert_error(predict(server, PNG), 504, "timeout")
        (worker,) = server.workers()
        before = threads(worker)
        with ThreadPoolExecutor(5) as pool:
            for response in pool.map(lambda _: predict(server, PNG), range(50)):
                assert_error(response, 504, "timeout")
        until(lambda: gauge(server, "computing") == 0 and gauge(server, "queue_depth") == 0)
        used = cpu_ticks(worker)
        time.sleep(1.0)
        assert cpu_ticks(worker) - used < 0.3 * os.sysconf("SC_CLK_TCK"), "something is still computing"
        assert threads(worker) <= before + 5


@pytest.mark.slow
def test_a_killed_worker_is_back_and_no_answer_was_wrong(tmp_path: Path) -> None:
    release, stop = fake_release(tmp_path), threading.Event()
    with serve(COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(release), STROKECT_QUEUE="20") as server:
        right = predict(server, PNG).json()["probability"]
        wrong: list[Any] = []
        lost = answered = 0

        def client() -> None:
            nonlocal lost, answered
            while not stop.is_set():
                try:
                    response = predict(server, PNG)
                except requests.RequestException:
                    lost += 1
                    continue
                answered += 1
                if response.status_code != 200 or response.json()["probability"] != right:
                    wrong.append(response.text)

        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        until(lambda: answered > 20)
        (worker,) = server.workers()
        decoders = children(worker)
        began = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        until(lambda: server.workers() not in ([], [worker]))
        seen = answered
        until(lambda: answered > seen, 30)
        took = time.monotonic() - began
        stop.set()
        for thread in clients:
            thread.join()
        assert not wrong
        assert 0 < lost < 200
        assert took < 20, (
            f"{took:.1f} s until it answered again; 10 s and the model's loading are meant, with room for a busy machine"
        )
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in decoders))  # none outlives its service


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


@pytest.mark.slow
def test_a_request_in_flight_is_finished_when_the_service_is_told_to_end(tmp_path: Path) -> None:
    release = fake_release(tmp_path, work=6)
    with serve(COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(release)) as server, ThreadPoolExecutor(1) as pool:
        predict(server, PNG)
        decoders = [pid for worker in server.workers() for pid in children(worker)]
        assert decoders
        inside = pool.submit(predict, server, PNG)
        until(lambda: gauge(server, "computing") == 1)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert inside.result().status_code == 200
        assert server.process.wait(10) == 0 and time.monotonic() - began < 10
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in decoders))


def test_a_service_that_cannot_become_ready_ends_and_says_why(tmp_path: Path) -> None:
    release = fake_release(tmp_path)
    (release / "safety" / "policy.json").write_text("{}")
    with serve(COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(release), STROKECT_EXIT_AFTER_S="2") as server:
        assert_error(requests.get(f"{server.url}/readyz", timeout=30), 503, "not_ready")
        assert server.process.wait(30) == EXIT_CODE
        log = server.log.read_text()
        assert "safety/policy.json does not match its SHA-256" in log and "giving up" in log


def test_settings_that_are_wrong_are_said_at_the_start(tmp_path: Path) -> None:
    environment = {**os.environ, "STROKECT_QUEU": "4", "BENTOML_HOME": str(tmp_path)}
    done = subprocess.run(
        [*COMMAND, "--port", "0"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0 and "STROKECT_QUEUE" in done.stdout + done.stderr


@pytest.mark.slow
def test_five_hundred_urls_at_once_fetch_nothing(tmp_path: Path) -> None:
    hits: list[str] = []
    with socket.create_server(("127.0.0.1", 0), backlog=600) as canary:

        def listen() -> None:
            while True:
                try:
                    connection, address = canary.accept()
                except OSError:
                    return
                hits.append(str(address))
                connection.close()

        threading.Thread(target=listen, daemon=True).start()
        url = f"http://127.0.0.1:{canary.getsockname()[1]}/a.png"
        with serve(COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(fake_release(tmp_path))) as server:
            ways: list[Callable[[str], requests.Response]] = [
                lambda target: requests.post(target, files={"image": (None, url), "series": (None, url)}, timeout=60),
                lambda target: requests.post(target, data={"image": url, "series": url}, timeout=60),
                lambda target: requests.post(target, json={"image": url, "series": [url]}, timeout=60),
                lambda target: requests.post(target, data=url, headers={"Content-Type": "text/plain"}, timeout=60),
                lambda target: requests.post(
                    target, files={"image": ("a", url.encode()), "series": ("a", url.encode())}, timeout=60
                ),
                lambda target: requests.post(f"{target}?image={url}&series={url}", timeout=60),
            ]
            routes = ("/predict", "/explain", "/view", "/predict_series")
            attempts = [(ways[i % len(ways)], f"{server.url}{routes[i % len(routes)]}") for i in range(500)]
            with ThreadPoolExecutor(500) as pool:
                statuses = set(pool.map(lambda attempt: attempt[0](attempt[1]).status_code, attempts))
            assert statuses <= {400, 413, 415, 422, 429}
    assert hits == []


@pytest.mark.slow
def test_no_bomb_in_a_name_goes_off_beside_the_models(tmp_path: Path) -> None:
    environment = {"STROKECT_DECODE_TIMEOUT_S": "5", "STROKECT_AUDIT_LOG": str(tmp_path / "audit.jsonl")}
    hounsfield = grey_slice() * (120 / 255) - 20  # the same grey levels in the brain window
    good = dicom_bytes(np.rint(hounsfield + 1024).astype(np.int16), **REFERENCE)
    with serve(COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(fake_release(tmp_path)), **environment) as server:

        def explain(data: bytes, form: str) -> int:
            url = f"{server.url}/explain?format={form}"
            return requests.post(url, files={"image": ("a", data)}, timeout=60).status_code

        assert [explain(good, form) for form in ("png", "dicom", "dicom-sr")] == [200] * 3
        (worker,) = server.workers()
        before = resident_mb(worker)
        for name, data in bombs().items():
            for form in ("dicom", "dicom-sr"):
                Path(f"/proc/{worker}/clear_refs").write_text("5")
                began = time.monotonic()
                assert explain(data, form) == 422, name
                assert time.monotonic() - began < 15
                assert peak_mb(worker) - before < 100, name
        assert explain(good, "dicom-sr") == 200 and server.workers() == [worker]
        judged = [line for line in (tmp_path / "audit.jsonl").read_text().splitlines() if '"decision"' in line]
        assert len(judged) == 4  # of what was refused no decision was written down


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_two_thousand_mixed_requests_leave_nothing_behind(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    slices = [encode(grey_slice(seed=seed)) for seed in range(10)]
    dicom = dicom_bytes(np.full((64, 64), 1064, np.int16))
    bad = [b"no picture", PNG[:100], b"PK\x03\x04 no zip", b""]
    with serve(
        COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(fake_release(tmp_path)), STROKECT_QUEUE="20", TMPDIR=str(temporary)
    ) as server:

        def request(number: int) -> int:
            name, data = f"Mustermann_{number}.png", slices[number % 10]
            route, field = (("/predict", "image"), ("/explain", "image"), ("/view", "image"), ("/predict_series", "series"))[
                number % 4
            ]
            if number % 7 == 0:
                data = bad[number % 4]
            elif number % 5 == 0:
                data = dicom
            files = [(field, (name, data))] * (3 if field == "series" else 1)
            return requests.post(f"{server.url}{route}", files=files, timeout=60).status_code

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(request, range(300)))  # until caches are filled
            (worker,) = server.workers()
            before, had = resident_mb(worker), threads(worker)
            left = {path for path in temporary.rglob("*") if path.is_file()}
            statuses = list(pool.map(request, range(2000)))
        assert max(statuses) < 500 and statuses.count(200) > 1000
        until(lambda: gauge(server, "computing") == 0)
        assert resident_mb(worker) < 1.05 * before, f"{before:.0f} → {resident_mb(worker):.0f} MB"
        assert threads(worker) <= had + 1 and server.workers() == [worker]
        assert {path for path in temporary.rglob("*") if path.is_file()} == left
        assert "Mustermann" not in server.log.read_text()


@pytest.mark.slow
def test_five_thousand_damaged_uploads_are_no_fault_of_the_service(tmp_path: Path) -> None:
    environment = {"STROKECT_QUEUE": "20", "STROKECT_DECODE_TIMEOUT_S": "5"}
    with serve(COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(fake_release(tmp_path)), **environment) as server:
        workers, session = server.workers(), threading.local()

        def upload(numbered: tuple[int, bytes]) -> int:
            if not hasattr(session, "http"):
                session.http = requests.Session()
            number, data = numbered
            route = ("/predict", "/predict_series", "/view", "/explain", "/explain?format=dicom-sr")[number % 5]
            field = "series" if route == "/predict_series" else "image"
            files = {field: (f"{number}", data)}
            return int(session.http.post(f"{server.url}{route}", files=files, timeout=60).status_code)

        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(upload, enumerate(mutations(5000, seed=5))))
        assert len(statuses) == 5000 and set(statuses) <= {200, 400, 413, 415, 422}, set(statuses)
        assert statuses.count(200) > 100 and statuses.count(422) > 100
        assert server.workers() == workers and predict(server, PNG).status_code == 200
        assert "Traceback" not in server.log.read_text()
