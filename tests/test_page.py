"""The page in a real browser: what it answers, what it says when things go wrong, what it keeps."""

import time
from pathlib import Path

import numpy as np
import pytest
import requests
from conftest import ROOT

pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys

from strokect.phantom import window
from tests.browser import Browser
from tests.page_scans import dicom, patient
from tests.page_server import REFER_ABOVE, TARGET, THRESHOLD, PageServer
from tests.page_steps import DECIDED, asked_for, drawn_on, set_value, shows, written

pytest_plugins = ["tests.page_fixtures"]
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("undisturbed")]


# ---- any service ----


@pytest.mark.parametrize("name", ["normal.png", "referred.jpg", "stroke.dcm", "series.zip"])
def test_every_kind_of_file_gets_an_answer(browser: Browser, url: str, scans: dict[str, Path], name: str) -> None:
    browser.open(url)
    browser.pick([scans[name]], *DECIDED)
    browser.ready()
    assert "not a medical device" in browser.text(".notice")
    assert browser.text("#target") and browser.text("#scan-name") == name
    assert browser.text("#scan .verdict") in ("Stroke", "Normal", "Refer", "Rejected")
    assert (len(browser.all("#strip [role=option]")) >= 10) == (name == "series.zip")


def test_nothing_leaves_the_machine_and_nothing_is_stored(browser: Browser, url: str, scans: dict[str, Path]) -> None:
    browser.requested()
    browser.open(url)
    for name in ("stroke.dcm", "series.zip", "broken.png"):
        browser.pick([scans[name]], *DECIDED, "error")
    asked = [address for address in browser.requested() if not address.startswith(("data:", "blob:"))]
    policy = requests.get(url, timeout=10).headers["content-security-policy"]
    for part in (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
    ):
        assert part in policy.split("; ")
    assert len(asked) > 10 and [address for address in asked if not address.startswith(url.rstrip("/") + "/")] == []
    stored = browser.script(
        "return [localStorage.length, sessionStorage.length, document.cookie, (await indexedDB.databases()).length, "
        "(await caches.keys()).length, (await navigator.serviceWorker.getRegistrations()).length]"
    )
    assert stored == [0, 0, "", 0, 0, 0]


def test_it_says_what_the_model_is(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.one("#about summary").click()
    shown, model = browser.text("#about"), requests.get(f"{url}/model", timeout=10).json()
    assert browser.text("#target") == model["target"]
    assert model["version"] in shown and model["intended_use"].replace("`", "") in shown
    for level in ("slice", "patient"):
        assert f"Threshold of a {level}\n{model['thresholds'][level]['threshold']:.2f}" in shown


def test_figures_that_are_not_estimable_are_said_to_be(browser: Browser) -> None:
    with PageServer() as server:
        described = server.describe()
        described["metrics"]["slice"] = described["metrics"]["slice"] | {"specificity": {"value": None, "ci95": None}}
        described["metrics"]["patient"] = described["metrics"]["patient"] | {"specificity": {"value": 0.5, "ci95": None}}
        server.describe = lambda: described  # type: ignore[method-assign]
        browser.open(server.url)
        browser.one("#about summary").click()
        assert "Specificity not estimable 0.50 [no interval]" in browser.text("#about")


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
    assert not browser.one("#opacity").is_displayed() and asked_for(start, "/explain") == []


def test_files_go_out_under_neutral_names(browser: Browser, start: PageServer, scans: dict[str, Path], tmp_path: Path) -> None:
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.ready()
    browser.pick([written(tmp_path / "Planted^Name.png", scans["normal.png"].read_bytes()), scans["stroke.dcm"]], "stroke")
    browser.ready()
    posted = [asked for asked in start.asked if asked.names]
    assert {asked.path for asked in posted} == {"/predict", "/predict_series", "/explain", "/view"}
    for asked in posted:
        assert asked.names == [f"slice-{number}" for number in range(len(asked.names))]


def test_a_name_with_markup_is_text(browser: Browser, start: PageServer, scans: dict[str, Path], tmp_path: Path) -> None:
    name = "<img src=x onerror=document.title='owned'>.png"
    browser.pick([written(tmp_path / name, scans["normal.png"].read_bytes())], "normal")
    browser.ready()
    assert browser.text("#scan-name") == name and name in browser.text("#history-list")
    assert browser.all("main img") == [] and browser.driver.title != "owned"


# ---- map and window ----


def test_the_opacity_changes_the_map_and_only_the_map(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.ready()
    assert "Class activation map, 8 × 8 cells: not a localisation" in browser.text("#map-note")
    drawn = {}
    for opacity in (0, 50, 100):
        set_value(browser, "#opacity", opacity)
        drawn[opacity] = drawn_on(browser)
    assert _shows_grey(drawn[0])
    hot = (int(0.6875 * 768) + 48, int(0.1875 * 768) + 48)  # middle of the cell that the hill is on: column 5 or 6, row 1 or 2
    column, row = hot
    assert np.abs(drawn[100][row, column] - [253, 231, 37]).max() < 40, "the highest value is not yellow"
    halfway = (drawn[0][row, column] + drawn[100][row, column]) / 2
    assert np.abs(drawn[50][row, column] - halfway).max() <= 3
    assert (drawn[100][700, 60] == drawn[0][700, 60]).all(), "a cell that is not positive is tinted"


def test_a_map_of_a_part_of_the_slice_is_laid_on_that_part(browser: Browser, start: PageServer, tmp_path: Path) -> None:
    hu = patient()[5].hu
    scale, (left, top, side) = 768 / len(hu), (len(hu) // 2, len(hu) // 4, len(hu) // 4)
    browser.pick([written(tmp_path / "cut.dcm", dicom(hu, probability=0.83, square=[left, top, side]))], "stroke")
    browser.ready()
    set_value(browser, "#opacity", 100)
    rows, columns = np.nonzero(np.ptp(drawn_on(browser), axis=-1) > 20)
    for found, edge in ((rows, top), (columns, left)):
        first, last = scale * edge, scale * (edge + side)
        assert first - 1 <= found.min() and found.max() <= last + 1
        assert found.mean() == pytest.approx((first + last) / 2, abs=8)  # of a hill in its middle


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
    set_value(browser, "#opacity", 0)
    hu = patient()[5].hu
    assert asked_for(start, "/view")[-1].query == {"level": "40", "width": "120"}
    for name, level, width in [("Bone", 700, 3200), ("Subdural", 80, 200), ("Stroke", 40, 40), ("Brain narrow", 40, 80)]:
        button = next(one for one in browser.all("#presets button") if one.text.startswith(f"{name}\n"))
        button.click()
        noise = max(3.0, 3.0 * 120 / width)  # which a narrow window makes louder
        browser.until(lambda v=(level, width), n=noise: shows(browser, window(hu, *v), n), f"{name} is not shown")
        assert asked_for(start, "/view")[-1].query == {"level": str(level), "width": str(width)}
        assert button.get_attribute("aria-pressed") == "true"
        assert (browser.one("#level").get_attribute("value"), browser.one("#width").get_attribute("value")) == (
            str(level),
            str(width),
        )
    set_value(browser, "#width", 0)  # no window
    set_value(browser, "#width", 400)
    browser.until(lambda: shows(browser, window(hu, 40, 400)))
    assert [asked.query["width"] for asked in asked_for(start, "/view")] == ["120", "3200", "200", "40", "80", "400"]
    assert [one for one in browser.all("#presets button") if one.get_attribute("aria-pressed") == "true"] == []
    assert "does not change what the model sees" in browser.text("#window-control")
    assert len(asked_for(start, "/predict")) == 1


def test_a_picture_has_no_window(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["normal.png"]], "normal")
    browser.ready()
    assert not browser.one("#window-control").is_displayed() and asked_for(start, "/view") == []
    set_value(browser, "#opacity", 0)
    browser.until(lambda: shows(browser, window(patient()[0].hu)))


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
    assert [asked.status for asked in asked_for(start, "/predict")] == [429, 200]


def test_a_service_that_stays_busy_is_asked_four_times(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["busy.png"]], "overload")
    browser.until(lambda: browser.one("#problem").is_displayed())
    assert browser.state == "overload" and browser.text("#problem-title") == "The service is busy"
    assert len(asked_for(start, "/predict")) == 4
    assert browser.one("#again").is_displayed()


def test_a_cancelled_scan_never_shows_up(browser: Browser, start: PageServer, scans: dict[str, Path]) -> None:
    browser.pick([scans["slow.png"]], "loading")
    assert browser.one("#loading-bar").is_displayed()
    browser.one("#cancel").click()
    assert browser.state == "start"
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.until(lambda: len(asked_for(start, "/predict")) == 2)
    time.sleep(0.3)
    assert browser.state == "stroke" and len(browser.all("#history-list li")) == 1


def test_a_newer_scan_takes_the_place_of_one_that_is_being_read(
    browser: Browser, start: PageServer, scans: dict[str, Path]
) -> None:
    browser.pick([scans["slow.png"]], "loading")
    browser.pick([scans["stroke.dcm"]], "stroke")
    browser.until(lambda: len(asked_for(start, "/predict")) == 2)
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
    asked = len(asked_for(start, "/predict_series"))
    second.click()
    browser.wait_for("stroke")
    assert len(browser.all("#strip [role=option]")) == 11 and len(asked_for(start, "/predict_series")) == asked
    browser.one("#clear").click()
    assert browser.state == "start" and not browser.one("#history").is_displayed()
    left = browser.script("return document.body.textContent")
    assert "series.zip" not in left and "normal.png" not in left
