"""No number in the README that the metrics files do not hold, and none of this data's or machine's private matters in git."""

import json
import re
import subprocess

import pytest
from conftest import ROOT

from docs.phantom_examples import SITE, without_notes
from docs.update_readme import EXTERNAL, PHANTOM, README, fill, pages, safety_runs
from strokect.hounsfield import BRAIN_ONLY
from strokect.predictor import Prediction
from strokect.safety_report import notes


def test_blocks_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = README.read_text(encoding="utf-8")
    assert fill(text) == text, "run `make readme`"
    text = EXTERNAL.read_text(encoding="utf-8")
    assert fill(text, EXTERNAL) == text, "run `make readme`"
    for path, content in pages().items():
        assert path.read_text(encoding="utf-8") == content, f"{path}: run `make readme`"
    for name, run in safety_runs().items():
        assert run["notes"] == notes({"group_by": "patient"}, BRAIN_ONLY), (
            f"metrics/safety.json of {name} is of another state of the code"
        )


def test_the_answer_it_shows_is_one_of_today() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```json\n(\{.*?^\})\n```", text, re.DOTALL | re.MULTILINE)
    assert len(shown) == 1
    answer = Prediction.model_validate_json(shown[0])
    assert json.loads(shown[0]).keys() == Prediction.model_fields.keys()
    assert answer.decision == "stroke" and None not in (answer.probability, answer.ood.score, answer.uncertainty.mc_std)


def test_the_examples_are_all_of_one_release_and_name_no_folder_of_anybody() -> None:
    version = json.loads((ROOT / PHANTOM / "answer.json").read_text())["slice"]["model_version"]
    outside, site = ((ROOT / PHANTOM / f"{name}.txt").read_text(encoding="utf-8") for name in ("external", "recalibrated"))
    assert outside.startswith(f"release {version} on ") and f"for north, from {version}, in {SITE};" in site
    assert "note:" not in outside + site and "/tmp" not in outside + site
    table = without_notes("    head  \nnote: long\n/tmp/x: wrote\n row\n\n", "/tmp/x")
    assert table == "    head\n row\n"  # columns stay where they are


def test_it_says_what_it_is_not() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "not a medical device" in text


def test_no_picture_and_no_dicom_of_anybody_is_in_git() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    tracked = done.stdout.splitlines()
    pictures = (".dcm", ".jpg", ".jpeg", ".png", ".npy", ".npz", ".onnx")
    of_nobody = ("docs/phantom/", "docs/page/")  # plots, and the page with phantom slices: docs/page_screenshots.py
    assert [name for name in tracked if name.lower().endswith(pictures) and not name.startswith(of_nobody)] == []
