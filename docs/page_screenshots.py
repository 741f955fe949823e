"""Screenshots of the page in its states, into docs/page (`python -m docs.page_screenshots`; needs Debian's chromium and -driver).

Nobody's pictures: the slices are the phantom's, and the answers those that tests/page_server.py plays. But for served.png: with
`--served URL [ZIP]` it is taken of a running service, of what `python -m examples.make_scan` made.
"""

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser import Browser, chromium
from tests.page_scans import dicom, jpeg, patient, png, series, zipped
from tests.page_server import PageServer

FOLDER = Path("docs/page")
SLICES, SIZE = 24, 208
MAX_BYTES = 150_000
BONE = (700, 3200)  # level and width in HU
DESK, PHONE = (1160, 780), (360, 1500)
# Picture: what is dropped, the state it leads to, the size of the page, the colour scheme.
SHOTS: dict[str, tuple[str, str, tuple[int, int], str]] = {
    "start": ("", "start", DESK, "light"),
    "stroke": ("slice.dcm", "stroke", DESK, "light"),
    "normal": ("slice.png", "normal", DESK, "light"),
    "refer": ("slice.jpg", "referred", DESK, "light"),
    "reject": ("bone.png", "rejected", DESK, "light"),
    "series": ("head.zip", "stroke", DESK, "light"),
    "error": ("truncated.png", "error", (1160, 460), "light"),
    "overload": ("busy.png", "overload", (1160, 460), "light"),
    "phone": ("slice.dcm", "stroke", PHONE, "light"),
    "dark": ("head.zip", "stroke", DESK, "dark"),
}


def scans() -> dict[str, bytes]:
    """The files to drop."""
    parts = patient(0, SLICES, SIZE)
    lesion = max(parts, key=lambda part: int((part.mask > 0).sum()))
    return {
        "slice.dcm": dicom(lesion.hu, probability=0.83, at=[0.72, 0.3]),
        "slice.png": png(parts[6].hu, probability=0.06, at=[0.3, 0.6]),
        "slice.jpg": jpeg(parts[10].hu, probability=0.45, at=[0.7, 0.35]),
        "bone.png": png(parts[8].hu, BONE, reject=["window"]),
        "truncated.png": png(parts[6].hu)[:2000],
        "busy.png": png(parts[6].hu, fault="busy"),
        "head.zip": zipped(series(0, SLICES, SIZE) | {"notes.txt": b"no picture"}),
    }


def take(browser: Browser, url: str, folder: Path, shot: tuple[str, str, tuple[int, int], str]) -> Image.Image:
    """One state of the page as a picture."""
    name, state, size, scheme = shot
    browser.resize(*size)
    browser.emulate(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    browser.open(url)
    if name:
        browser.drop([folder / name], state)
    if state in ("stroke", "normal", "referred", "rejected"):
        browser.ready()
        browser.until(lambda: _settled(browser))
    browser.script("document.activeElement.blur(); scrollTo(0, 0)")
    return Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")


def _settled(browser: Browser) -> bool:
    """Whether every small picture in sight has been drawn."""
    drawn = browser.script(
        "const strip = document.getElementById('strip').getBoundingClientRect();"
        "return [...document.querySelectorAll('#strip canvas')].filter((canvas) => {"
        "  const place = canvas.getBoundingClientRect();"
        "  return place.right > strip.left && place.left < strip.right;"
        "}).every((canvas) => canvas.getContext('2d').getImageData(0, 0, 96, 96).data.some((value) => value > 0))"
    )
    return bool(drawn)


def save(picture: Image.Image, path: Path) -> None:
    """As PNG with as many colours as fit into MAX_BYTES."""
    for colours in (256, 192, 128, 64):
        stream = io.BytesIO()
        picture.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
        if len(stream.getvalue()) <= MAX_BYTES:
            break
    path.write_bytes(stream.getvalue())
    print(f"{path}: {len(stream.getvalue()) // 1000} kB, {colours} colours")


def main() -> None:
    """Take them all, or served.png alone."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--served", nargs="+", metavar=("URL", "ZIP"))
    if served := parser.parse_args().served:
        scan = Path(served[1] if len(served) > 1 else "example/scan.zip").absolute()
        with chromium() as browser:
            save(take(browser, served[0], scan.parent, (scan.name, "stroke", DESK, "light")), FOLDER / "served.png")
        return
    with tempfile.TemporaryDirectory() as temporary, PageServer() as server, chromium() as browser:
        for name, data in scans().items():
            (Path(temporary) / name).write_bytes(data)
        for name, shot in SHOTS.items():
            save(take(browser, server.url, Path(temporary), shot), FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
