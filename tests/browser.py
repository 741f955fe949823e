"""Debian's Chromium, driven by selenium, for the tests of the page and its screenshots."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
WAIT_S = 20.0


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator["Browser"]:
    """A browser with a profile of its own that is gone afterwards."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, Service(DRIVER))
        try:
            browser = Browser(driver)
            browser.resize(width, height)
            yield browser
        finally:
            driver.quit()


class Browser:
    """What the tests do with the page."""

    def __init__(self, driver: webdriver.Chrome):
        self.driver = driver

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page's own area in CSS pixels; a headless window cannot be made narrower than 500."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def emulate(self, **features: str) -> None:
        """Media features, as `prefers_color_scheme="dark"`."""
        given = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": given})

    def open(self, url: str, state: str = "start") -> None:
        """Load the page anew, with nothing kept from before, and wait until it is in a state."""
        self.driver.get(url)
        self.driver.execute_script("sessionStorage.clear()")
        self.driver.get(url)
        self.wait_for(state)

    def one(self, selector: str) -> WebElement:
        """The element that a CSS selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """All of them."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What can be read there."""
        return self.one(selector).text

    def script(self, code: str, *arguments: Any) -> Any:
        """Run JavaScript in the page."""
        return self.driver.execute_script(code, *arguments)

    @property
    def state(self) -> str:
        """The state that the page is in."""
        return str(self.script("return document.body.dataset.state"))

    def until(self, condition: Callable[[], Any], message: str = "", timeout_s: float = WAIT_S) -> Any:
        """Wait until a condition holds."""
        return WebDriverWait(self.driver, timeout_s, 0.05).until(lambda _: condition(), message)

    def wait_for(self, *states: str) -> None:
        """Wait until the page is in one of these states and knows its model."""
        self.until(lambda: self.state in states, f"the page stays in another state than {states}")
        self.until(lambda: self.text("#target") != "…", "GET /model was not answered")

    def pick(self, paths: Sequence[Path], *states: str) -> None:
        """Pick files as in the file dialogue."""
        self.one("#files").send_keys("\n".join(str(path) for path in paths))
        self.wait_for(*states)

    def drop(self, paths: Sequence[Path], *states: str) -> None:
        """Drag files or folders onto the page and let go."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "x": 300, "y": 300, "data": data}
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)
        self.wait_for(*states)

    def ready(self) -> None:
        """Wait until picture and map of the slice are there."""
        self.until(lambda: "being made" not in self.text("#map-note") and self.text("#map-note"), "no map")
        self.until(lambda: self.text("#caption") or self.text("#no-picture"), "no picture")

    def problems(self) -> list[str]:
        """What the console says since the last call, answers other than 2xx left out: they are what some tests are about."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["source"] != "network"]

    def requested(self) -> list[str]:
        """Every address asked for since the last call."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
