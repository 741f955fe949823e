"""The page and a whole series: every way in, zips, the strip, keys and wheel."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.keys import Keys

from strokect.phantom import window
from tests.browser import Browser
from tests.page_scans import dicom, patient, png, series, zipped
from tests.page_server import PageServer
from tests.page_steps import asked_for, current, drawn_on, noted, set_value, shows, written

pytest_plugins = ["tests.page_fixtures"]
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("undisturbed")]


# ---- series ----


def test_a_zip_becomes_a_strip_from_low_to_high(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["series.zip"]], "stroke")
    browser.ready()
    assert browser.text("#series-card .verdict") == "Stroke" and "The series, 11 slices" in browser.text("#series-card")
    assert asked_for(start, "/predict_series")[0].names == [f"slice-{number}" for number in range(12)]
    items = browser.all("#strip [role=option]")
    shown = [item.get_attribute("aria-label") for item in items]
    assert shown[0] == "Slice 1, Rejected"  # the photo has no place in the series; the played service puts it first
    wanted = noted(series())[::-1]
    bars = [float(browser.script("return arguments[0].firstChild.style.getPropertyValue('--probability')", i)) for i in items[1:]]
    assert bars == wanted
    assert current(browser) == 1 + int(np.argmax(bars))
    assert "1 file left out" in browser.text("#left-out summary")
    assert "notes.txt: Neither PNG nor JPEG nor DICOM." in browser.text("#left-out li")


def test_each_slice_of_a_zip_has_its_own_picture(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["series.zip"]], "stroke")
    set_value(browser, "#opacity", 0)
    items = browser.all("#strip [role=option]")
    for place in (1, 4, 10):
        items[place].click()
        hu = patient()[place - 1].hu
        browser.until(lambda hu=hu: shows(browser, window(hu)), f"slice {place} shows another picture")
        assert f"Slice {place + 1} of 11" in browser.text("#caption")
        assert f"Slice {place + 1} of 11" in browser.text("#slice-card")
    browser.until(lambda: drawn_on(browser, "#strip li:nth-child(5) canvas").max() > 200, "the strip stays black")


def test_a_late_picture_does_not_replace_the_one_that_is_looked_at(browser: Browser, start: PageServer, tmp_path: Path) -> None:
    parts = patient()
    slow = dicom(parts[4].hu, 1, fault="slow_view", probability=0.8)
    paths = [written(tmp_path / "a.dcm", slow), written(tmp_path / "b.dcm", dicom(parts[9].hu, 2, probability=0.1))]
    browser.pick(paths, "stroke", "normal")
    set_value(browser, "#opacity", 0)
    assert current(browser) == 0  # its picture is on the way
    browser.all("#strip [role=option]")[1].click()
    browser.until(lambda: shows(browser, window(parts[9].hu)))
    browser.until(lambda: drawn_on(browser, "#strip li:first-child canvas").max() > 200, "the slow picture never came")
    assert shows(browser, window(parts[9].hu))


def test_a_series_of_which_nothing_is_left(browser: Browser, start: PageServer, scans: dict[str, Path], tmp_path: Path) -> None:
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.pick([written(tmp_path / name, b"no picture") for name in ("a.txt", "b.txt")], "rejected")
    assert browser.text("#series-card .verdict") == "Rejected" and "2 files left out" in browser.text("#left-out summary")
    assert not browser.one("#viewing").is_displayed() and not browser.one("#slice-card").is_displayed()
    browser.all("#history-list button")[1].click()
    assert browser.one("#viewing").is_displayed() and browser.text("#slice-card .verdict") == "Stroke"


@pytest.mark.parametrize("way", ["files", "folder", "dropped folder", "dropped zip"])
def test_the_same_series_by_every_way_in(browser: Browser, start: PageServer, tmp_path: Path, way: str) -> None:
    paths = [written(tmp_path / "head" / name, data) for name, data in series().items()]
    if way == "files":
        browser.pick(paths, "stroke")
    elif way == "folder":
        browser.one("#folder").send_keys(str(tmp_path / "head"))
        browser.wait_for("stroke")
    elif way == "dropped folder":
        browser.drop([tmp_path / "head"], "stroke")
    else:
        browser.drop([written(tmp_path / "head.zip", zipped(series()))], "stroke")
    browser.ready()
    assert len(browser.all("#strip [role=option]")) == 10 and not browser.one("#left-out").is_displayed()
    assert browser.text("#series-card [data-figure=probability]") == f"{np.mean(sorted(noted(series()))[-3:]):.2f}"
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


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("encrypted", "it is encrypted"),
        ("larger than it says", "a file in it is larger than the zip says"),
        ("another checksum", "it is damaged"),
        ("too large together", "what it holds is too large"),
    ],
)
def test_a_zip_that_the_page_cannot_open_is_sent_as_it_is(
    browser: Browser, start: PageServer, tmp_path: Path, what: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in series().items():
            archive.writestr(name, data)
    # The played service opens it all the same, as if only the page were unable to.
    monkeypatch.setattr("tests.page_server._opened", lambda data: list(series().values()))
    browser.pick([written(tmp_path / "scan.zip", _damaged(stream.getvalue(), what))], "stroke")
    browser.ready()
    assert asked_for(start, "/predict_series")[0].names == ["slice-0"]
    assert len(browser.all("#strip [role=option]")) == 10
    assert f"could not open the zip itself ({why})" in browser.text("#no-picture")
    assert asked_for(start, "/view") == [] and not browser.one("#window-control").is_displayed()


def test_files_are_sent_in_the_order_of_the_numbers_in_their_names(browser: Browser, start: PageServer, tmp_path: Path) -> None:
    probabilities = {"im10.png": 0.3, "im9.png": 0.2, "im1.png": 0.1}
    paths = [written(tmp_path / name, png(patient()[0].hu, probability=value)) for name, value in probabilities.items()]
    browser.pick(paths, "normal")
    shown = [item.get_attribute("aria-label").split()[-1] for item in browser.all("#strip [role=option]")]
    assert shown == ["0.10", "0.20", "0.30"]


def test_a_stored_zip_is_opened_too(browser: Browser, start: PageServer, tmp_path: Path) -> None:
    browser.pick([written(tmp_path / "scan.zip", zipped(series(), zipfile.ZIP_STORED))], "stroke")
    assert len(asked_for(start, "/predict_series")[0].names) == 10


def test_a_large_series_is_packed_and_a_larger_one_not_sent(browser: Browser, tmp_path: Path) -> None:
    files = series(size=256)  # 10 × 128 KiB
    path = written(tmp_path / "scan.zip", zipped(files))
    with PageServer(max_body_mb=1) as server:
        browser.open(server.url)
        browser.pick([path], "stroke")
        browser.ready()
        assert asked_for(server, "/predict_series")[0].names == ["slice-0"]
        assert len(browser.all("#strip [role=option]")) == 10 and len(asked_for(server, "/view")) > 0
        noise = np.random.default_rng(0).uniform(-1000, 3000, (800, 800))
        browser.pick([written(tmp_path / "noise.dcm", dicom(noise)), written(tmp_path / "b.dcm", dicom(noise))], "error")
        assert "the service takes 1 MiB at a time" in browser.text("#problem-text")
        assert len(asked_for(server, "/predict_series")) == 1


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
        assert current(browser) == place
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
        browser.until(lambda place=place: current(browser) == place, f"not at slice {place}")
        assert browser.script("return scrollY") == before
