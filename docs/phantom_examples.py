"""What the phantom's release answers, for README.md and docs/external.md.

`make readme` writes docs/phantom/{answer.json,external.txt,recalibrated.txt} anew when models/release is another release than
they are of: the example scan judged as the service judges it, and the made-up hospital of docs/external.md, with the commands
that stand there. A minute on two cores. Where the release is the same and what is printed is not, remove
answer.json first.
"""

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples import make_scan, make_site
from stages import external, recalibrate
from strokect.files import read_json, write_json, write_text
from strokect.predictor import Predictor
from strokect.series import read_series

RELEASE, PHANTOM = Path("models/release"), Path("docs/phantom")
SITE = Path("models/site_releases/north")  # as the commands in docs/external.md have it
MAX_SLICES = 100


def is_current() -> bool:
    """Whether the examples are of the release in models/release."""
    known = PHANTOM / "answer.json"
    version = read_json(RELEASE / "manifest.json")["version"]
    return known.is_file() and read_json(known)["slice"]["model_version"] == version


def make_examples() -> None:
    """Write the three files."""
    with tempfile.TemporaryDirectory(prefix="strokect-examples-") as scratch:
        folder = Path(scratch)
        write_json(PHANTOM / "answer.json", answers(folder / "scan"))
        site, scores, made = folder / "site", folder / "scores", folder / "north"
        printed(make_site.main, str(site))
        where = ["--raw", str(site / "slices"), "--params", str(site / "site.yaml")]
        text = printed(lambda: external.main(["--source", "folder", *where, "--out", str(scores)]))
        write_text(PHANTOM / "external.txt", without_notes(text, str(scores)))
        text = printed(lambda: recalibrate.main(["--scores", str(scores), "--site", made.name, "--out", str(made)]))
        write_text(PHANTOM / "recalibrated.txt", without_notes(text.replace(str(made), str(SITE))))


def answers(folder: Path) -> dict[str, Any]:
    """The answers to the example slice, whole, and to its series, in short; the request has no id of its own."""
    printed(make_scan.main, str(folder))
    predictor, request = Predictor(RELEASE), "0" * 32
    data = (folder / "slice.png").read_bytes()
    predictor.predict(data)  # so that the time is that of a service at work
    series = predictor.predict_series(read_series([(folder / "scan.zip").read_bytes()], MAX_SLICES), request)
    short = {key: getattr(series, key) for key in ("decision", "probability", "threshold")} | {"slices": len(series.slices)}
    return {"slice": json.loads(predictor.predict(data, request).model_dump_json()), "series": short}


def printed(main: Callable[[], None], *arguments: str) -> str:
    """What a command prints."""
    stream, argv = io.StringIO(), sys.argv
    sys.argv = [argv[0], *arguments]
    try:
        with contextlib.redirect_stdout(stream):
            main()
    finally:
        sys.argv = argv
    return stream.getvalue()


def without_notes(text: str, folder: str = "\0") -> str:
    """The output without its notes and the line that names `folder`, which the page says in its own words."""
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith(("note: ", folder))]
    return "\n".join(lines).strip("\n") + "\n"


def answer_block() -> str:
    """README.md: the answer to the slice as JSON, and what the series is answered in a sentence."""
    made = read_json(PHANTOM / "answer.json")
    series, said = made["series"], json.dumps(made["slice"], indent=2)
    probability = "no probability" if series["probability"] is None else f"{series['probability']:.3f}"
    return (
        f"```json\n{said}\n```\n\nThe series of that phantom patient is answered `{series['decision']}`, {probability} against "
        f"the patient threshold {series['threshold']:.3f}, with its {series['slices']} slices in the order of their positions."
    )


def external_blocks() -> dict[str, str]:
    """The marked blocks of docs/external.md."""
    names = ("external", "recalibrated")
    return {name: f"```text\n{(PHANTOM / f'{name}.txt').read_text(encoding='utf-8')}```" for name in names}
