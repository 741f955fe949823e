"""The page for every eye and hand: contrast, phone, keyboard, reduced motion, forced colours, paper."""

from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser import Browser
from tests.page_server import PageServer

pytest_plugins = ["tests.page_fixtures"]
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("undisturbed")]


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
  const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const own = text || element.matches("input:not([type=range])");
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
    browser.pick([scans["slow.png"]], "loading")
    browser.until(lambda: "looking at it" in browser.text("#loading-step"))
    assert not browser.one("#loading-bar").is_displayed()


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
