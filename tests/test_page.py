"""The page in a real browser. Against tests/page_server.py, or, where STROKECT_PAGE_URL names one, against a running service."""

import base64
import io
import json
import os
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.keys import Keys

from strokect.phantom import window
from tests.browser import CHROMIUM, DRIVER, Browser, chromium
from tests.page_scans import dicom, jpeg, patient, photo, png, series, zipped
from tests.page_server import REFER_ABOVE, TARGET, THRESHOLD, Asked, PageServer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Debian's chromium and chromium-driver are not installed"),
]

DECIDED = ("stroke", "normal", "referred", "rejected")
SIDE = 96  # pixels of a phantom slice
SCALE = 768 // SIDE  # pixels of the canvas for each


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def mock() -> Iterator[PageServer]:
    """The server whose answers are written into the files."""
    with PageServer() as server:
        yield server


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest) -> str:
    """The service for the tests that hold for any."""
    return os.environ.get("STROKECT_PAGE_URL") or request.getfixturevalue("mock").url


@pytest.fixture(autouse=True)
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
    return {name: _written(tmp_path / name, data) for name, data in files.items()}


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _asked(server: PageServer, path: str) -> list[Asked]:
    return [asked for asked in server.asked if asked.path == path]


def _set(browser: Browser, selector: str, value: float) -> None:
    """Move a slider or type a number."""
    browser.script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", browser.one(selector), value
    )


def _noted(files: dict[str, bytes]) -> list[float]:
    """The probabilities noted in the files of a series, whose names run from the top down."""
    return [json.loads(data.split(b"mock")[1].split(b"}")[0] + b"}")["probability"] for name, data in sorted(files.items())]


def _canvas(browser: Browser, selector: str = "#canvas") -> np.ndarray:
    """(H, W, 3) int: what is drawn."""
    encoded = browser.script("return arguments[0].toDataURL()", browser.one(selector)).partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int)


def _shows(browser: Browser, grey: np.ndarray, tolerance: float = 3.0) -> bool:
    """Whether the canvas, its map at 0 %, holds this picture. Its pixels are looked at in their middle: between, it is smooth."""
    drawn = _canvas(browser)[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE, 0]
    return bool(np.abs(drawn - grey.astype(int)).mean() < tolerance)


def _current(browser: Browser) -> int:
    selected = [item.get_attribute("aria-selected") for item in browser.all("#strip [role=option]")]
    assert selected.count("true") == 1
    return selected.index("true")


# ---- any service ----


@pytest.mark.parametrize("name", ["normal.png", "referred.jpg", "stroke.dcm", "series.zip"])
def test_every_kind_of_file_gets_an_answer(browser: Browser, url: str, scans: dict[str, Path], name: str) -> None:
    browser.open(url)
    browser.pick([scans[name]], *DECIDED)
    browser.ready()
    assert "not a medical device" in browser.text(".notice")
    assert browser.text("#target") and browser.text("#scan-name") == name
    assert browser.text("#scan .verdict") in ("Stroke", "Normal", "Refer", "Rejected")
    assert len(browser.all("#strip [role=option]")) == (11 if name == "series.zip" else 0)


def test_nothing_leaves_the_machine_and_nothing_is_stored(browser: Browser, url: str, scans: dict[str, Path]) -> None:
    browser.requested()
    browser.open(url)
    for name in ("stroke.dcm", "series.zip", "broken.png"):
        browser.pick([scans[name]], *DECIDED, "error")
    asked = [address for address in browser.requested() if not address.startswith(("data:", "blob:"))]
    assert len(asked) > 10 and [address for address in asked if not address.startswith(url.rstrip("/") + "/")] == []
    stored = browser.script(
        "return [localStorage.length, sessionStorage.length, document.cookie, (await indexedDB.databases()).length, "
        "(await caches.keys()).length, (await navigator.serviceWorker.getRegistrations()).length]"
    )
    assert stored == [0, 0, "", 0, 0, 0]


def test_no_script_and_no_style_of_the_page_is_inline() -> None:
    text = (ROOT / "page/index.html").read_text(encoding="utf-8")
    assert "<style" not in text and " style=" not in text and "javascript:" not in text and text.count("<script") == 1
    for path in (ROOT / "page").glob("*.js"):
        code = path.read_text(encoding="utf-8")
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "eval(",
            "new Function",
            "localStorage",
            "http:",
            "https:",
        ):
            assert forbidden not in code.replace("http://www.w3.org/2000/svg", ""), f"{path.name}: {forbidden}"


# ---- answers ----


@pytest.mark.parametrize(
    ("name", "state", "word", "probability"),
    [
        ("stroke.dcm", "stroke", "Stroke", "0.83"),
        ("normal.png", "normal", "Normal", "0.06"),
        ("referred.jpg", "referred", "Refer", "0.45"),
    ],
)
def test_the_answer_is_in_words_and_numbers(
    browser: Browser, start: PageServer, scans: dict[str, Path], name: str, state: str, word: str, probability: str
) -> None:
    browser.pick([scans[name]], state)
    card = browser.text("#slice-card")
    assert browser.text("#slice-card .verdict") == word
    assert browser.text("[data-figure=probability]") == probability
    assert f"threshold {THRESHOLD}" in card and "refer 0.40–0.60" in card and f"limit {REFER_ABOVE:.3f}" in card
    assert "0.021 under dropout, 0.083 between the models" in card
    assert ("A person has to read it" in card) == (state == "referred")
    assert ("The probability is too near a half." in card) == (state == "referred")
    assert ("does not rule out a stroke" in card) == (state == "normal")
    assert (TARGET in card) == (state != "referred") and browser.text("#target") == TARGET
    track = browser.one(".gauge.probability").size["width"]
    browser.until(lambda: abs(browser.one(".gauge.probability .fill").size["width"] / track - float(probability)) < 0.02)
    assert word in browser.one("#announce").get_attribute("textContent")


def test_a_rejected_picture_has_reasons_and_no_number(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["rejected.png"]], "rejected")
    browser.ready()
    assert "Colour picture." in browser.text("#slice-card")
    assert browser.all(".gauge") == [] and browser.all("[data-figure]") == []
    assert not browser.one("#opacity").is_displayed() and _asked(start, "/explain") == []


def test_files_go_out_under_neutral_names(browser: Browser, start: PageServer, scans: dict[str, Path], tmp_path: Path) -> None:
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.ready()
    browser.pick([_written(tmp_path / "Planted^Name.png", scans["normal.png"].read_bytes()), scans["stroke.dcm"]], "stroke")
    browser.ready()
    posted = [asked for asked in start.asked if asked.names]
    assert {asked.path for asked in posted} == {"/predict", "/predict_series", "/explain", "/view"}
    for asked in posted:
        assert asked.names == [f"slice-{number}" for number in range(len(asked.names))]


def test_a_name_with_markup_is_text(browser: Browser, start: PageServer, scans: dict[str, Path], tmp_path: Path) -> None:
    name = "<img src=x onerror=document.title='owned'>.png"
    browser.pick([_written(tmp_path / name, scans["normal.png"].read_bytes())], "normal")
    browser.ready()
    assert browser.text("#scan-name") == name and name in browser.text("#history-list")
    assert browser.all("main img") == [] and browser.driver.title != "owned"


# ---- series ----


def test_a_zip_becomes_a_strip_from_low_to_high(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["series.zip"]], "stroke")
    browser.ready()
    assert browser.text("#series-card .verdict") == "Stroke" and "The series, 11 slices" in browser.text("#series-card")
    assert _asked(start, "/predict_series")[0].names == [f"slice-{number}" for number in range(12)]
    items = browser.all("#strip [role=option]")
    shown = [item.get_attribute("aria-label") for item in items]
    assert shown[0] == "Slice 1, Rejected"  # the photo has no place in the series; the played service puts it first
    wanted = _noted(series())[::-1]
    bars = [float(browser.script("return arguments[0].firstChild.style.getPropertyValue('--probability')", i)) for i in items[1:]]
    assert bars == wanted
    assert _current(browser) == 1 + int(np.argmax(bars))
    assert "1 file left out" in browser.text("#left-out summary")
    assert "notes.txt: Neither PNG nor JPEG nor DICOM." in browser.text("#left-out li")


def test_each_slice_of_a_zip_has_its_own_picture(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["series.zip"]], "stroke")
    _set(browser, "#opacity", 0)
    items = browser.all("#strip [role=option]")
    for place in (1, 4, 10):
        items[place].click()
        hu = patient()[place - 1].hu
        browser.until(lambda hu=hu: _shows(browser, window(hu)), f"slice {place} shows another picture")
        assert f"Slice {place + 1} of 11" in browser.text("#caption")
        assert f"Slice {place + 1} of 11" in browser.text("#slice-card")
    browser.until(lambda: _canvas(browser, "#strip li:nth-child(5) canvas").max() > 200, "the strip stays black")


@pytest.mark.parametrize("way", ["files", "folder", "dropped folder", "dropped zip"])
def test_the_same_series_by_every_way_in(browser: Browser, start: PageServer, tmp_path: Path, way: str) -> None:
    paths = [_written(tmp_path / "head" / name, data) for name, data in series().items()]
    if way == "files":
        browser.pick(paths, "stroke")
    elif way == "folder":
        browser.one("#folder").send_keys(str(tmp_path / "head"))
        browser.wait_for("stroke")
    elif way == "dropped folder":
        browser.drop([tmp_path / "head"], "stroke")
    else:
        browser.drop([_written(tmp_path / "head.zip", zipped(series()))], "stroke")
    browser.ready()
    assert len(browser.all("#strip [role=option]")) == 10 and not browser.one("#left-out").is_displayed()
    assert browser.text("#series-card [data-figure=probability]") == f"{np.mean(sorted(_noted(series()))[-3:]):.2f}"
    assert not browser.script("return document.body.classList.contains('dragging')")


def _damaged(content: bytes, what: str) -> bytes:
    """A zip that the page must not open itself."""
    content = bytearray(content)
    entry = content.index(b"PK\x01\x02")
    if what == "encrypted":
        content[entry + 8] |= 1
    elif what == "larger than it says":
        content[entry + 24 : entry + 28] = struct.pack("<I", 100)
    elif what == "another checksum":
        content[entry + 16] ^= 0xFF
    elif what == "too large together":
        content[entry + 24 : entry + 28] = struct.pack("<I", 0x7FFFFFFF)
    return bytes(content)


@pytest.mark.parametrize("what", ["encrypted", "larger than it says", "another checksum", "too large together"])
def test_a_zip_that_the_page_cannot_open_is_sent_as_it_is(
    browser: Browser, start: PageServer, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in series().items():
            archive.writestr(name, data)
    # The played service opens it all the same, as if only the page were unable to.
    monkeypatch.setattr("tests.page_server._opened", lambda data: list(series().values()))
    browser.pick([_written(tmp_path / "scan.zip", _damaged(stream.getvalue(), what))], "stroke")
    browser.ready()
    assert _asked(start, "/predict_series")[0].names == ["slice-0"]
    assert len(browser.all("#strip [role=option]")) == 10
    assert "could not open the zip itself" in browser.text("#no-picture")
    assert _asked(start, "/view") == [] and not browser.one("#window-control").is_displayed()


def test_a_stored_zip_is_opened_too(browser: Browser, start: PageServer, tmp_path: Path) -> None:
    browser.pick([_written(tmp_path / "scan.zip", zipped(series(), zipfile.ZIP_STORED))], "stroke")
    assert len(_asked(start, "/predict_series")[0].names) == 10


def test_a_large_series_is_packed_and_a_larger_one_not_sent(browser: Browser, tmp_path: Path) -> None:
    files = series(size=256)  # 10 × 128 KiB
    path = _written(tmp_path / "scan.zip", zipped(files))
    with PageServer(max_body_mb=1) as server:
        browser.open(server.url)
        browser.pick([path], "stroke")
        browser.ready()
        assert _asked(server, "/predict_series")[0].names == ["slice-0"]
        assert len(browser.all("#strip [role=option]")) == 10 and len(_asked(server, "/view")) > 0
        noise = np.random.default_rng(0).uniform(-1000, 3000, (800, 800))
        browser.pick([_written(tmp_path / "noise.dcm", dicom(noise)), _written(tmp_path / "b.dcm", dicom(noise))], "error")
        assert "the service takes 1 MiB at a time" in browser.text("#problem-text")
        assert len(_asked(server, "/predict_series")) == 1


def test_keys_walk_the_strip_and_only_one_slice_is_a_tab_stop(
    browser: Browser, start: PageServer, scans: dict[str, Path]
) -> None:
    browser.pick([scans["series.zip"]], "stroke")
    items = browser.all("#strip [role=option]")
    items[4].click()
    for key, place in [
        (Keys.ARROW_RIGHT, 5),
        (Keys.ARROW_UP, 6),
        (Keys.ARROW_LEFT, 5),
        (Keys.ARROW_DOWN, 4),
        (Keys.HOME, 0),
        (Keys.ARROW_LEFT, 0),
        (Keys.PAGE_UP, 5),
        (Keys.END, 10),
        (Keys.PAGE_DOWN, 5),
    ]:
        browser.driver.switch_to.active_element.send_keys(key)
        assert _current(browser) == place
        assert [item.get_attribute("tabindex") for item in items].count("0") == 1
        assert browser.driver.switch_to.active_element == items[place]
        assert f"Slice {place + 1} of 11" in browser.text("#slice-card")


@pytest.mark.parametrize("over", ["#strip", "#canvas"])
def test_the_wheel_walks_the_slices(browser: Browser, start: PageServer, scans: dict[str, Path], over: str) -> None:
    browser.pick([scans["series.zip"]], "stroke")
    browser.all("#strip [role=option]")[4].click()
    origin = ScrollOrigin.from_element(browser.one(over))
    for turned, place in [(120, 5), (120, 6), (-120, 5)]:
        before = browser.script("return scrollY")
        ActionChains(browser.driver).scroll_from_origin(origin, 0, turned).perform()
        browser.until(lambda place=place: _current(browser) == place, f"not at slice {place}")
        assert browser.script("return scrollY") == before


# ---- map and window ----


def test_the_opacity_changes_the_map_and_only_the_map(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.ready()
    assert "Class activation map, 8 × 8 cells: not a localisation" in browser.text("#map-note")
    drawn = {}
    for opacity in (0, 50, 100):
        _set(browser, "#opacity", opacity)
        drawn[opacity] = _canvas(browser)
    assert _shows_grey(drawn[0])
    hot = (int(0.6875 * 768) + 48, int(0.1875 * 768) + 48)  # middle of the cell that the hill is on: column 5 or 6, row 1 or 2
    column, row = hot
    assert np.abs(drawn[100][row, column] - [254, 232, 56]).max() < 40, "the highest value is not cividis yellow"
    halfway = (drawn[0][row, column] + drawn[100][row, column]) / 2
    assert np.abs(drawn[50][row, column] - halfway).max() <= 3
    assert (drawn[100][700, 60] == drawn[0][700, 60]).all(), "a cell that is not positive is tinted"


def _shows_grey(drawn: np.ndarray) -> bool:
    return bool((np.ptp(drawn, axis=-1) <= 1).all())


def test_a_slice_without_a_map_is_still_shown(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["no_map.png"]], "normal")
    browser.until(lambda: "No map could be made" in browser.text("#map-note"))
    assert "5f0c27ee6d3b4b1c9a7f2d8e1b604a95" in browser.text("#map-note")
    assert not browser.one("#opacity").is_enabled()


def test_window_controls_ask_for_the_picture_anew(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.ready()
    _set(browser, "#opacity", 0)
    hu = patient()[5].hu
    assert _asked(start, "/view")[-1].query == {"level": "40", "width": "120"}
    for name, level, width in [("Bone", 700, 3200), ("Subdural", 80, 200), ("Stroke", 40, 40), ("Brain narrow", 40, 80)]:
        button = next(one for one in browser.all("#presets button") if one.text.startswith(f"{name}\n"))
        button.click()
        noise = max(3.0, 3.0 * 120 / width)  # which a narrow window makes louder
        browser.until(lambda v=(level, width), n=noise: _shows(browser, window(hu, *v), n), f"{name} is not shown")
        assert _asked(start, "/view")[-1].query == {"level": str(level), "width": str(width)}
        assert button.get_attribute("aria-pressed") == "true"
        assert (browser.one("#level").get_attribute("value"), browser.one("#width").get_attribute("value")) == (
            str(level),
            str(width),
        )
    _set(browser, "#width", 0)  # no window
    _set(browser, "#width", 400)
    browser.until(lambda: _shows(browser, window(hu, 40, 400)))
    assert [asked.query["width"] for asked in _asked(start, "/view")] == ["120", "3200", "200", "40", "80", "400"]
    assert [one for one in browser.all("#presets button") if one.get_attribute("aria-pressed") == "true"] == []
    assert "always sees the brain window 40/120" in browser.text("#window-control")
    assert len(_asked(start, "/predict")) == 1


def test_a_picture_has_no_window(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["normal.png"]], "normal")
    browser.ready()
    assert not browser.one("#window-control").is_displayed() and _asked(start, "/view") == []
    _set(browser, "#opacity", 0)
    browser.until(lambda: _shows(browser, window(patient()[0].hu)))


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("name", "state", "title", "again"),
    [
        ("broken.png", "error", "This cannot be read", False),
        ("no_result.png", "error", "No result", True),
        ("deadline.png", "error", "No answer in time", True),
        ("not_ready.png", "not-ready", "The model is not ready", True),
    ],
)
def test_an_error_says_what_and_which_request(
    browser: Browser, start: PageServer, scans: dict[str, Path], name: str, state: str, title: str, again: bool
) -> None:
    browser.pick([scans[name]], state)
    assert browser.text("#problem-title") == title and browser.text("#problem-name") == name
    assert "5f0c27ee6d3b4b1c9a7f2d8e1b604a95" in browser.text("#problem-id")
    assert browser.one("#again").is_displayed() == again
    assert not browser.one("#scan").is_displayed() and title in browser.one("#announce").get_attribute("textContent")


def test_an_old_answer_is_not_left_beside_a_new_error(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.pick([scans["broken.png"]], "error")
    assert not browser.one("#scan").is_displayed()
    browser.one("#dismiss").click()
    assert browser.state == "stroke" and browser.text("#scan-name") == "stroke.dcm"


def test_a_busy_service_is_asked_again_after_the_wait_it_names(
    browser: Browser, start: PageServer, scans: dict[str, Path]
) -> None:
    began = time.monotonic()
    browser.pick([scans["busy_once.png"]], "overload")
    assert "The service is busy. Trying again in 1 s (1 of 3)." in browser.text("#loading")
    browser.wait_for("normal")
    assert time.monotonic() - began >= 1.0
    assert [asked.status for asked in _asked(start, "/predict")] == [429, 200]


def test_a_service_that_stays_busy_is_asked_four_times(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["busy.png"]], "overload")
    browser.until(lambda: browser.one("#problem").is_displayed())
    assert browser.state == "overload" and browser.text("#problem-title") == "The service is busy"
    assert len(_asked(start, "/predict")) == 4
    assert browser.one("#again").is_displayed()


def test_a_cancelled_scan_never_shows_up(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["slow.png"]], "loading")
    assert browser.one("#loading-bar").is_displayed()
    browser.one("#cancel").click()
    assert browser.state == "start"
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.until(lambda: len(_asked(start, "/predict")) == 2)
    time.sleep(0.3)
    assert browser.state == "stroke" and len(browser.all("#history-list li")) == 1


def test_a_newer_scan_takes_the_place_of_one_that_is_being_read(
    browser: Browser, start: PageServer, scans: dict[str, Path]
) -> None:
    browser.pick([scans["slow.png"]], "loading")
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.until(lambda: len(_asked(start, "/predict")) == 2)
    time.sleep(0.3)
    assert browser.text("#scan-name") == "stroke.dcm"


def test_a_service_that_is_gone(browser: Browser, scans: dict[str, Path]) -> None:
    with PageServer() as server:
        browser.open(server.url)
    browser.pick([scans["stroke.dcm"]], "error")
    assert browser.text("#problem-title") == "The service cannot be reached"


def test_not_ready_is_said_at_once_and_can_be_tried_again(browser: Browser) -> None:
    with PageServer(ready=False) as server:
        browser.open(server.url, "not-ready")
        assert browser.text("#problem-title") == "The model is not ready" and not browser.one("#intake").is_displayed()
        server.ready = True
        browser.one("#again").click()
        browser.wait_for("start")
        assert browser.text("#target") == TARGET


def test_the_token_is_asked_for_once_and_kept_for_this_tab_only(browser: Browser, scans: dict[str, Path]) -> None:
    with PageServer(token="correct horse") as server:
        browser.open(server.url, "token")
        field = browser.one("#token-field")
        assert field.get_attribute("type") == "password" and browser.driver.switch_to.active_element == field
        field.send_keys("wrong", Keys.ENTER)
        browser.until(lambda: browser.one("#token-wrong").is_displayed())
        browser.one("#token-field").send_keys("correct horse", Keys.ENTER)
        browser.wait_for("start")
        browser.pick([scans["stroke.dcm"]], "stroke")
        browser.ready()
        assert browser.script("return [localStorage.length, document.cookie, Object.values(sessionStorage)]") == [
            0,
            "",
            ["correct horse"],
        ]
        assert "correct horse" not in browser.script("return document.documentElement.outerHTML")
        browser.driver.refresh()
        browser.wait_for("start")
        server.token = "another"  # rotated: the scan is judged once the new one is given
        browser.pick([scans["normal.png"]], "token")
        browser.one("#token-field").send_keys("another", Keys.ENTER)
        browser.wait_for("normal")


# ---- session ----


def test_the_history_leads_back_and_can_be_cleared(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["series.zip"]], "stroke")
    browser.pick([scans["normal.png"]], "normal")
    browser.ready()
    first, second = browser.all("#history-list button")
    assert "Normal 0.06" in first.text and "series.zip" in second.text
    assert [one.get_attribute("aria-current") is not None for one in (first, second)] == [True, False]
    asked = len(_asked(start, "/predict_series"))
    second.click()
    browser.wait_for("stroke")
    assert len(browser.all("#strip [role=option]")) == 11 and len(_asked(start, "/predict_series")) == asked
    browser.one("#clear").click()
    assert browser.state == "start" and not browser.one("#history").is_displayed()
    left = browser.script("return document.body.textContent")
    assert "series.zip" not in left and "normal.png" not in left


def test_everything_can_be_done_with_the_keyboard(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["series.zip"]], "stroke")  # the file dialogue itself is the browser's
    browser.ready()
    browser.script("document.querySelector('.skip').focus()")
    assert browser.one(".skip").location["y"] >= 0, "the skip link stays out of sight"
    reached = []
    for _ in range(40):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        focused = browser.driver.switch_to.active_element
        if focused.tag_name == "body":
            break
        what = focused.get_attribute("id") or focused.get_attribute("data-window") or focused.text.split("\n")[0]
        reached.append(what or focused.get_attribute("role"))
        outline = browser.script("const s = getComputedStyle(arguments[0]); return [s.outlineStyle, s.outlineWidth]", focused)
        assert outline == ["solid", "3px"], f"the focus on {what} cannot be seen"
    strip_item = next(place for place, what in enumerate(reached) if what.isdigit())
    for wanted in ("pick-files", "pick-folder", "print", "opacity", "40/120", "700/3200", "level", "width", "clear"):
        assert wanted in reached, f"{wanted} is no tab stop: {reached}"
    assert sum(what.isdigit() for what in reached) == 1, "the strip is more than one tab stop"
    assert reached.index("print") < strip_item < reached.index("opacity")


def test_the_file_buttons_open_the_dialogues(browser: Browser, start: PageServer) -> None:
    browser.script(
        "window.opened = []; for (const id of ['files', 'folder'])"
        " document.getElementById(id).addEventListener('click', (event) => { event.preventDefault(); opened.push(id); })"
    )
    for button in ("#pick-files", "#pick-folder"):
        browser.one(button).send_keys(Keys.ENTER)
    assert browser.script("return opened") == ["files", "folder"]


def test_a_drag_is_seen_and_a_drag_that_leaves_forgotten(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    data = {"items": [], "files": [str(scans["stroke.dcm"])], "dragOperationsMask": 1}
    browser.driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": "dragEnter", "x": 300, "y": 300, "data": data})
    browser.until(lambda: browser.one("#drop-veil").is_displayed())
    leave = "document.body.dispatchEvent(new DragEvent('dragleave', { bubbles: true, relatedTarget: arguments[0] }))"
    browser.script(leave, browser.one("main"))  # from one element to the next
    assert browser.one("#drop-veil").is_displayed()
    browser.script(leave, None)  # out of the window; the driver has no drag that does this
    assert not browser.one("#drop-veil").is_displayed()
    assert browser.state == "start"


# ---- looks ----

CONTRAST = """
const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const luminance = ([r, g, b]) => [r, g, b].map((c) => linear(c / 255))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
const ground = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const poor = [];
let texts = 0;
for (const element of document.querySelectorAll("body *")) {
  if (!element.checkVisibility({ visibilityProperty: true }) || element.closest(":disabled, .unseen, noscript")) continue;
  const style = getComputedStyle(element);
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) || element.matches("input:not([type=range])");
  if (own) {
    texts += 1;
    const found = ratio(over(parse(style.color), ground(element)), ground(element));
    if (found < 4.5) poor.push([element.tagName, element.textContent.slice(0, 40), found]);
  }
  if (element.matches("button, input[type=number], input[type=password]")) {
    const edge = ratio(parse(style.borderTopColor), ground(element.parentElement));
    const face = ratio(ground(element), ground(element.parentElement));
    if (Math.max(edge, face) < 3) poor.push(["edge of", element.textContent || element.id, edge]);
  }
}
return [texts, poor];
"""
STATES = {
    "start": None,
    "stroke": "stroke.dcm",
    "normal": "normal.png",
    "referred": "referred.jpg",
    "rejected": "rejected.png",
    "series": "series.zip",
    "error": "broken.png",
    "loading": "slow.png",
}


def _enter(browser: Browser, url: str, scans: dict[str, Path], state: str) -> None:
    browser.open(url)
    name = STATES[state]
    if name is None:
        browser.script("document.getElementById('about').open = true")
        return
    browser.pick([scans[name]], "stroke" if state == "series" else state)
    if state not in ("error", "loading"):
        browser.ready()
    browser.script("for (const one of document.querySelectorAll('details')) one.open = true")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_contrast(browser: Browser, mock: PageServer, scans: dict[str, Path], state: str, scheme: str) -> None:
    browser.emulate(prefers_color_scheme=scheme)
    _enter(browser, mock.url, scans, state)
    dark = browser.script("return getComputedStyle(document.body).backgroundColor") == "rgb(15, 21, 27)"
    assert dark == (scheme == "dark")
    texts, poor = browser.script(CONTRAST)
    assert texts > 8 and poor == []


@pytest.mark.parametrize("state", STATES)
def test_it_fits_a_phone(browser: Browser, mock: PageServer, scans: dict[str, Path], state: str) -> None:
    browser.resize(360, 740)
    _enter(browser, mock.url, scans, state)
    width = browser.script("return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    assert width == 360
    small = browser.script(
        "return [...document.querySelectorAll('button')].filter((b) => b.checkVisibility())"
        ".map((b) => b.getBoundingClientRect()).filter((r) => r.height < 24 || r.width < 24).length"
    )
    assert small == 0  # WCAG 2.2, target size
    assert browser.one(".notice").is_displayed() and "not a medical device" in browser.text(".notice")


def test_the_notice_stays_when_the_page_is_scrolled(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.script("scrollTo(0, document.body.scrollHeight)")
    top, bottom = browser.script("const r = document.querySelector('.notice').getBoundingClientRect(); return [r.top, r.bottom]")
    assert top == 0 and bottom > 0 and browser.script("return scrollY") > 0


def test_nothing_moves_for_those_who_ask_for_that(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["stroke.dcm"]], "stroke")
    moving = "return getComputedStyle(document.querySelector('.gauge .fill')).transitionDuration"
    assert browser.script(moving) == "0.25s"
    browser.emulate(prefers_reduced_motion="reduce")
    assert browser.script(moving) == "0s"


def test_bars_can_be_seen_in_forced_colours(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["series.zip"]], "stroke")
    browser.emulate(forced_colors="active")
    for part in (".gauge .fill", "#strip .bar .fill"):
        colours = browser.script(
            "const e = document.querySelector(arguments[0]); return [getComputedStyle(e).backgroundColor,"
            " getComputedStyle(document.body).backgroundColor]",
            part,
        )
        assert colours[0] not in (colours[1], "rgba(0, 0, 0, 0)"), part


def test_on_paper_there_is_the_answer_and_nothing_to_press(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.ready()
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert [one for one in browser.all("button, input") if one.is_displayed()] == []
        assert browser.one("#slice-card").is_displayed() and browser.one("#canvas").is_displayed()
        assert "not a medical device" in browser.text(".notice")
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("state", STATES)
def test_axe_finds_nothing(browser: Browser, mock: PageServer, scans: dict[str, Path], state: str) -> None:
    axe = ROOT / "node_modules/axe-core/axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not installed (npm install axe-core --no-save)")
    _enter(browser, mock.url, scans, state)
    browser.script(axe.read_text(encoding="utf-8") + ";window.axe = axe")
    found: dict[str, Any] = browser.driver.execute_async_script(
        "const done = arguments[0]; axe.run({ resultTypes: ['violations'] }).then(done, (e) => done({ violations: [String(e)] }))"
    )
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []
