"""reports/report.html: everything that is known about a run on one self-contained page, for a phone and for paper."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

TEMPLATE = Path(__file__).with_name("report_page.html")
# File name in reports/plots → what it shows; in the order of the page.
CAPTIONS = {
    "roc.png": "ROC curve, slices",
    "pr.png": "Precision and recall, slices",
    "calibration.png": "Calibration before and after: what a probability means",
    "net_benefit.png": "Decision curve, slices (not patients): acting on the model, on everybody, on nobody",
    "risk_coverage.png": "Answering less: the error rate among the slices that are still answered",
    "confusion.png": "Decisions, slices: out-of-fold at thresholds chosen on other patients, test at the one that ships",
    "probabilities.png": "Calibrated probabilities by class",
    "training.png": "Training of the folds; the held-out loss is watched, and decides nothing",
}
SEVERAL_PANELS = 1.6  # a picture that is wider by this than high has several, and may be as wide as the page
SECTIONS = (
    ("headline", "Headline"),
    ("notes", "Notes"),
    ("not-for", "Must not be used for"),
    ("cohort", "Cohort and split"),
    ("audit", "Audit of the data"),
    ("plots", "Plots"),
)
LAST_SECTIONS = (("reproduce", "Reproduce"), ("checklists", "Checklists"))


def render_report(
    facts: dict[str, Any],
    plots: Path,
    extras: list[dict[str, Any]],
    checklists: dict[str, list[dict[str, str]]],
    params_text: str,
) -> str:
    """The page. `facts` are those of `report_facts`; `extras` are sections {"id", "title", "paragraphs", "tables"}, where a table
    is {"caption", "head", "rows"} of text cells. Raises jinja2.UndefinedError where a fact is missing.
    """
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        facts,
        plots=[
            {"data": data_uri(plots / name), "caption": text, "panels": _proportion(plots / name) > SEVERAL_PANELS}
            for name, text in CAPTIONS.items()
            if (plots / name).is_file()
        ],
        extras=extras,
        sections=[*SECTIONS, *((extra["id"], extra["title"]) for extra in extras), *LAST_SECTIONS],
        checklists=checklists,
        params_text=params_text,
    )


def _proportion(path: Path) -> float:
    with Image.open(path) as picture:
        return picture.width / picture.height


def data_uri(path: Path) -> str:
    """A PNG as a data URI: the page must not need a second file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
