"""Fixtures and steps of the tests of the page: a browser, the server that plays the service, files to drop.

A plugin that test modules name (`pytest_plugins`), because conftest.py must not need selenium.
"""

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import CHROMIUM, DRIVER, Browser, chromium
from tests.page_scans import dicom, jpeg, patient, photo, png, series, zipped
from tests.page_server import Asked, PageServer

DECIDED = ("stroke", "normal", "referred", "rejected")
SIDE = 96  # pixels of a phantom slice
SCALE = 768 // SIDE  # pixels of the canvas for each


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
def url(request: pytest.FixtureRequest) -> str:
    """The service for the tests that hold for any."""
    return os.environ.get("STROKECT_PAGE_URL") or request.getfixturevalue("mock").url


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


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def asked_for(server: PageServer, path: str) -> list[Asked]:
    return [asked for asked in server.asked if asked.path == path]


def set_value(browser: Browser, selector: str, value: float) -> None:
    """Move a slider or type a number."""
    browser.script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", browser.one(selector), value
    )


def noted(files: dict[str, bytes]) -> list[float]:
    """The probabilities noted in the files of a series, whose names run from the top down."""
    return [json.loads(data.split(b"mock")[1].split(b"}")[0] + b"}")["probability"] for name, data in sorted(files.items())]


def drawn_on(browser: Browser, selector: str = "#canvas") -> np.ndarray:
    """(H, W, 3) int: what is drawn."""
    encoded = browser.script("return arguments[0].toDataURL()", browser.one(selector)).partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int)


def shows(browser: Browser, grey: np.ndarray, tolerance: float = 3.0) -> bool:
    """Whether the canvas, its map at 0 %, holds this picture. Its pixels are looked at in their middle: between, it is smooth."""
    drawn = drawn_on(browser)[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE, 0]
    return bool(np.abs(drawn - grey.astype(int)).mean() < tolerance)


def current(browser: Browser) -> int:
    selected = [item.get_attribute("aria-selected") for item in browser.all("#strip [role=option]")]
    assert selected.count("true") == 1
    return selected.index("true")
