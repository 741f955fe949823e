"""Fixtures of the tests of the page: a browser, the server that plays the service, files to drop.

A plugin that test modules name (`pytest_plugins`), because conftest.py must not need selenium.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from conftest import ROOT

from tests.browser import CHROMIUM, DRIVER, Browser, chromium
from tests.fakes import fake_release
from tests.page_scans import dicom, jpeg, patient, photo, png, series, zipped
from tests.page_server import PageServer
from tests.page_steps import written
from tests.serving import serve


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests of the page; each opens the page anew."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("Debian's chromium and chromium-driver are not installed")
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def mock() -> Iterator[PageServer]:
    """The server whose answers are written into the files."""
    with PageServer() as server:
        yield server


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the service itself, with a model that knows nothing."""
    folder = tmp_path_factory.mktemp("page_service")
    command = [sys.executable, "-m", "bentoml", "serve", "service:StrokeCT"]
    with serve(command, ROOT, folder, STROKECT_RELEASE=str(fake_release(folder))) as running:
        deadline = time.monotonic() + 60
        while not requests.get(f"{running.url}/readyz", timeout=5).ok and time.monotonic() < deadline:
            time.sleep(0.2)
        yield running.url


@pytest.fixture(scope="session", params=["mock", "service"])
def url(request: pytest.FixtureRequest) -> str:
    """For what must hold whoever answers."""
    found = request.getfixturevalue(request.param)
    return str(getattr(found, "url", found))


@pytest.fixture
def undisturbed(browser: Browser) -> Iterator[None]:
    """Every test begins at a desk in daylight and ends without a word in the console."""
    browser.resize(1280, 900)
    browser.emulate()
    browser.problems()
    yield
    assert browser.problems() == []


@pytest.fixture
def start(browser: Browser, mock: PageServer) -> PageServer:
    """The page as it opens; its server has forgotten what it was asked before."""
    browser.open(mock.url)
    mock.asked.clear()
    return mock


@pytest.fixture
def scans(tmp_path: Path) -> dict[str, Path]:
    """Files by what becomes of them."""
    parts = patient()
    files = {
        "stroke.dcm": dicom(parts[5].hu, probability=0.83, at=[0.75, 0.25]),
        "normal.png": png(parts[0].hu, probability=0.06),
        "referred.jpg": jpeg(parts[3].hu, probability=0.45),
        "rejected.png": photo(),
        "broken.png": b"\x89PNG\r\n\x1a\n, and no more",
        "busy.png": png(parts[0].hu, fault="busy"),
        "busy_once.png": png(parts[0].hu, fault="busy_once"),
        "slow.png": png(parts[0].hu, fault="slow"),
        "no_result.png": png(parts[0].hu, fault="no_result"),
        "deadline.png": png(parts[0].hu, fault="deadline"),
        "not_ready.png": png(parts[0].hu, fault="not_ready"),
        "no_map.png": png(parts[0].hu, fault="no_map"),
        "series.zip": zipped(series() | {"notes.txt": b"no picture", "photo.png": photo()}),
    }
    return {name: written(tmp_path / name, data) for name, data in files.items()}
