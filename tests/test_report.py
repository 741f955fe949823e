"""The report: from the files of a run, without the network, with every figure that of the metrics."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from jinja2 import UndefinedError

from benchmarks.accuracy_steps import HEADLINE_SEEDS, HEADLINES
from strokect.checklists import AUTHOR, CHECKLISTS, CLAIM, TRAINING, TRIPOD_AI, Item, fill
from strokect.error_sheet import PER_PATIENT, SHOWN, with_map, worst
from strokect.files import read_json
from strokect.openings import OPENINGS, hash_of_part, openings_of
from strokect.report_facts import opened, revision
from strokect.split_seeds import RESULTS, seeds_section
from tests.conftest import run


class Page(HTMLParser):
    """Text, ids, links and what would be fetched."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if name := given.get("id"):
            self.ids.add(name)
        if tag == "a":
            self.links.append(given["href"] or "")
        self.fetched += [
            value or "" for name, value in given.items() if name in ("src", "srcset") or (tag == "link" and name == "href")
        ]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def reported(pipeline: Path) -> Path:
    """The tiny run with its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pipeline)
        run("report")
    return pipeline


@pytest.fixture(scope="module")
def page(reported: Path) -> Page:
    return Page((reported / "reports/report.html").read_text(encoding="utf-8"))


def test_it_needs_no_network_and_its_links_lead_somewhere(page: Page, reported: Path) -> None:
    assert page.fetched and all(source.startswith("data:image/png;base64,") for source in page.fetched)
    assert page.links and {link.removeprefix("#") for link in page.links} <= page.ids
    text = (reported / "reports/report.html").read_text(encoding="utf-8")
    assert "http:" not in text and "https:" not in text and "<script" not in text and "@import" not in text and "url(" not in text


def test_every_figure_of_the_headline_is_that_of_the_metrics(page: Page, reported: Path) -> None:
    metrics = read_json(reported / "metrics/evaluate.json")
    for level in ("slice", "patient"):
        for name in ("roc_auc", "sensitivity", "specificity", "f2", "ece", "brier", "log_loss", "average_precision"):
            figure = metrics[level][name]
            assert f"{figure['value']:.3f} [{figure['ci95'][0]:.3f}, {figure['ci95'][1]:.3f}]" in page.text, name
    for text in (metrics["target"], *metrics["notes"], metrics["interval"]):
        assert text in page.text


def test_it_says_what_it_is_not_for_how_often_the_test_was_opened_and_how_to_reproduce(page: Page, reported: Path) -> None:
    assert "not a medical device" in page.text and "Must not be used for" in page.text
    assert "The test part was opened as often as anybody liked: the data are synthetic" in page.text
    cohort = read_json(reported / "data/prepared/cohort.json")
    assert cohort["data_sha256"] in page.text and "epochs: 2" in page.text and "torch 2." in page.text
    assert "Shuffle control: labels permuted between patients" in page.text


def test_subgroups_ablations_and_guarantees_are_those_of_the_metrics(page: Page, reported: Path) -> None:
    metrics = read_json(reported / "metrics/evaluate.json")
    assert metrics["subgroups"]["groups"] and metrics["ablation"] and metrics["guarantees"]
    for group in metrics["subgroups"]["groups"]:
        assert f"{group['n_slices']} ({group['n_positive_slices']})" in page.text
    for row in metrics["ablation"]:
        assert row["what"] in page.text and row["verdict"] in page.text
    for entry in metrics["guarantees"]:
        wanted = f"{entry['threshold']:.3f}" if entry["available"] else f"needs ≥ {entry['needs_positive_patients']} positive"
        assert wanted in page.text


def test_exceptions_of_the_audit_and_its_findings_are_repeated(reported: Path, tmp_path: Path) -> None:
    audit = {"passed": True, "allowed": ["label_conflict"], "findings": []}
    audit["findings"] = [
        {"check": "label_conflict", "severity": "error", "message": "<b>five</b> patients", "files": ["manifest.csv row 7"]}
    ]
    metrics = read_json(reported / "metrics/evaluate.json") | {"audit_allowed": ["label_conflict"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(reported)
        kept = {name: Path("metrics", name).read_text() for name in ("audit.json", "evaluate.json")}
        try:
            Path("metrics/audit.json").write_text(json.dumps(audit))
            Path("metrics/evaluate.json").write_text(json.dumps(metrics))
            run("report")
            text = Path("reports/report.html").read_text(encoding="utf-8")
        finally:
            for name, content in kept.items():
                Path("metrics", name).write_text(content)
            run("report")
    assert "exceptions in force: <b>label_conflict</b>" in text and "&lt;b&gt;five&lt;/b&gt; patients" in text


def test_the_error_sheet_shows_the_worst_with_their_maps(reported: Path) -> None:
    oof = pd.read_csv(reported / "models/oof.csv", dtype={"file": str, "patient": str})
    expected = worst(oof)
    page = Page((reported / "reports/errors.html").read_text(encoding="utf-8"))
    shown = sum(len(rows) for rows in expected.values())
    assert shown > 0 and len(page.fetched) == 2 * shown
    for rows in expected.values():
        for entry in rows.itertuples():
            assert f"probability {entry.probability:.3f}, fold {entry.fold}, {entry.file}" in page.text


def test_worst_means_surest_and_wrong_and_no_patient_fills_the_sheet() -> None:
    rows = [(f"p{i % 3}", 1, 0, i / 100) for i in range(30)] + [(f"q{i}", 0, 1, i / 100) for i in range(30)]
    oof = pd.DataFrame([*rows, ("r", 1, 1, 0.9), ("r", 0, 0, 0.1)], columns=["patient", "label", "decision", "probability"])
    found = worst(oof)
    assert found["missed"]["probability"].tolist() == [i / 100 for i in range(3 * PER_PATIENT)]
    assert found["false alarms"]["probability"].tolist() == [(29 - i) / 100 for i in range(SHOWN)]


def test_the_checklists_are_complete_and_the_pipeline_answers_no_authors_question() -> None:
    assert [item.number for item in CLAIM] == [str(i) for i in range(1, 45)]
    assert len({item.number for item in TRIPOD_AI}) == len(TRIPOD_AI) and {re.sub(r"\D", "", i.number) for i in TRIPOD_AI} == {
        str(i) for i in range(1, 28)
    }
    for items in CHECKLISTS.values():
        unanswered = {item.topic.lower() for item in items if item.answer is None}
        assert any("funding" in topic for topic in unanswered) and any("registration" in topic for topic in unanswered)


def test_an_answer_without_its_fact_is_an_error_not_a_blank() -> None:
    assert fill((Item("1", "Title"), Item("2", "Data", "{{ n }} slices")), {"n": 3}) == [
        {"number": "1", "topic": "Title", "answer": AUTHOR},
        {"number": "2", "topic": "Data", "answer": "3 slices"},
    ]
    with pytest.raises(UndefinedError):
        fill((Item("2", "Data", "{{ n }} slices"),), {})


def test_openings_are_counted_for_this_test_part_only(tmp_path: Path) -> None:
    path = tmp_path / "test_openings.csv"
    assert "opened not once" in opened(path, "t", "a", False)
    lines = ["date,model,data_sha256,test_sha256", "1,x,a,", "2,y,b,t", "3,z,c,t", "4,w,a,other"]
    path.write_text("\n".join(lines) + "\n")
    # The line from before test parts had hashes is known by its data, the others whatever size their pixels had.
    assert "opened 3 times, each with another model" in opened(path, "t", "a", False)
    assert "opened 2 times" in opened(path, "t", "d", False) and "opened once" in opened(path, "other", "d", False)
    assert "as often as anybody liked" in opened(path, "t", "a", True)
    assert opened(path, None, "a", False).startswith("There is no test part (split.test_fraction: 0)")


def test_another_image_size_and_other_labels_are_the_same_test_part() -> None:
    files = ["b", "a", "c"]
    assert hash_of_part("dicom", files) == hash_of_part("dicom", sorted(files)) != hash_of_part("folder", files)
    assert hash_of_part("dicom", files) != hash_of_part("dicom", files[:2])


def test_the_committed_openings_are_readable() -> None:
    old = pd.read_csv(ROOT / OPENINGS, dtype=str).iloc[0]
    assert len(openings_of(ROOT / OPENINGS, "of no part", old["data_sha256"])) == 1


def test_the_commit_is_named_and_whether_code_differs_from_it(tmp_path: Path) -> None:
    assert revision(tmp_path) == ("unknown", False)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "metrics").mkdir()
    for name in ("code.py", "dvc.lock", "params.yaml", "metrics/oof.json"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-qm", "a")
    head = git("rev-parse", "HEAD")
    assert revision(tmp_path) == (head, False)
    for name in ("dvc.lock", "params.yaml", "metrics/oof.json"):  # what a run writes while its report is made
        (tmp_path / name).write_text("2")
    assert revision(tmp_path) == revision(tmp_path / "metrics") == (head, False)
    (tmp_path / "code.py").write_text("2")
    assert revision(tmp_path) == (head, True)


def test_both_parts_show_predictive_values_and_analytic_intervals(page: Page, reported: Path) -> None:
    for path in ("metrics/evaluate.json", "metrics/oof.json"):
        metrics = read_json(reported / path)
        for level in ("slice", "patient"):
            for figure in (metrics[level]["roc_auc_analytic"], metrics[level]["at_prevalence"][0]["ppv"]):
                shown = f"{figure['value']:.3f} [{figure['ci95'][0]:.3f}, " if figure["ci95"] else "not estimable"
                assert shown in page.text, (path, level)
    for note in read_json(reported / "metrics/safety.json")["notes"]:
        assert note in page.text


def test_classes_are_named_by_the_target_not_as_stroke_and_normal(page: Page, reported: Path) -> None:
    assert re.search(r"positive \d+ \d\.\d{3} \[", page.text)
    header = (reported / "reports/plots/probabilities_oof.csv").read_text().splitlines()[0]
    assert header == "probability,negative,positive"
    confusion = pd.read_csv(reported / "reports/plots/confusion_oof.csv")
    assert set(confusion["actual"]) == {"negative", "positive"}


def test_the_training_that_is_answered_is_the_one_that_ran(page: Page, reported: Path) -> None:
    facts: dict[str, Any] = {"params": yaml.safe_load((reported / "params.yaml").read_text()), "views": "identity, mirror"}
    assert "epochs of fine-tuning with the hardest" in page.text and "Distillation" not in page.text
    facts["params"]["hnm"]["enabled"], facts["params"]["export"]["student"] = False, "tf_efficientnet_lite0"
    answer = fill((Item("25", "Training", TRAINING),), facts)[0]["answer"]
    assert "No fine-tuning on hard slices. Distillation: students of tf_efficientnet_lite0" in answer
    assert "the data name no site" in page.text


def test_a_map_in_which_nothing_speaks_for_the_target_is_said_to_be_blank() -> None:
    class Silent:
        def run_whole(self, image: np.ndarray) -> Any:
            return SimpleNamespace(activation=np.full((4, 4), -1.0, np.float32))

    plain, _, blank = with_map(np.full((1, 8, 8), 100, np.uint8), Silent())  # type: ignore[arg-type]
    assert blank and plain.startswith("data:image/png")


def test_figures_that_are_not_estimable_are_said_to_be(reported: Path) -> None:
    from strokect.report_sections import sections

    metrics: dict[str, Any] = read_json(reported / "metrics/evaluate.json")
    metrics["slice"]["at_prevalence"][0]["ppv"] = {"value": None, "ci95": None}
    given = [read_json(reported / path) for path in ("metrics/oof.json", "metrics/safety.json", "models/operating_point.json")]
    made = {section["id"]: section for section in sections(metrics, *given)}
    assert made["prevalence"]["tables"][0]["rows"][0][2] == "not estimable"


def test_other_split_seeds_are_shown_for_the_same_pictures_and_labels_only(reported: Path, tmp_path: Path) -> None:
    known = read_json(ROOT / RESULTS / f"{HEADLINES[0]}-1.json")
    section = seeds_section(known, ROOT / RESULTS)
    assert section is not None
    rows = section["tables"][0]["rows"]
    for seed in HEADLINE_SEEDS:
        area = read_json(ROOT / RESULTS / f"{HEADLINES[0]}-{seed}.json")["patient"]["roc_auc"]
        shown = f"{area['value']:.3f} [{area['ci95'][0]:.3f}, {area['ci95'][1]:.3f}]"
        assert [row[3] for row in rows if row[:2] == [HEADLINES[0], str(seed)]] == [shown]
    assert all(row[1] != "100" for row in rows)  # the seed that the steps were chosen on
    assert seeds_section(known | {"data_sha256": "other"}, ROOT / RESULTS) is None
    assert seeds_section(known | {"target": "other"}, ROOT / RESULTS) is None
    cohort = read_json(reported / "data/prepared/cohort.json")
    for seed in range(1, 4):
        path = tmp_path / RESULTS / f"made-up-{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known | {key: cohort[key] for key in ("data_sha256", "target")}))
        if seed < 3:
            assert seeds_section(cohort, path.parent) is None  # two seeds are too few
    shutil.copytree(reported, tmp_path, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        run("report")
    made = Page((tmp_path / "reports/report.html").read_text(encoding="utf-8"))
    assert (
        {"seeds"} <= made.ids
        and made.links.count("#seeds") == 2
        and f"made-up 3 {known['slice']['roc_auc']['value']:.3f}" in made.text
    )
    assert "seeds" not in Page((reported / "reports/report.html").read_text(encoding="utf-8")).ids
