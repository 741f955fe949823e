"""Steps that several tests of the page take."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.browser import Browser
from tests.page_server import Asked, PageServer

DECIDED = ("stroke", "normal", "referred", "rejected")
SIDE = 96  # pixels of a phantom slice
SCALE = 768 // SIDE  # pixels of the canvas for each


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
