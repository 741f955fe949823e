"""The page of the four CT-ICH runs: its command line, and that it says what the metrics say."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import ct_ich
from strokect.files import read_json


def test_without_arguments_every_run_is_made_and_the_honest_one_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[str] = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/raw/kaggle_ct_ich").mkdir(parents=True)

    def run(command: list[str], check: bool) -> SimpleNamespace:
        made.extend(word for word in command if word.startswith("profile="))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(ct_ich.subprocess, "run", run)
    monkeypatch.setattr(ct_ich, "collect", lambda profile: {"profile": profile})
    monkeypatch.setattr(ct_ich, "render", lambda runs, answers: "page")
    ct_ich.main([])
    assert {name.removeprefix("profile=") for name in made} == set(ct_ich.RUNS)
    assert made[-1] == "profile=ct_ich"
    with pytest.raises(SystemExit):
        ct_ich.main(["ct_ich_folderlabels"])


def test_the_page_holds_the_figures_of_every_run(pipeline: Path) -> None:
    metrics = read_json(pipeline / "metrics/evaluate.json")
    run = {
        "command": "dvc exp run -S profile=x",
        "training_minutes": 1.5,
        "params": {"data": {"image_size": 48}, "train": {"epochs": 2}, "hnm": {"enabled": True, "epochs": 1}},
        "metrics": metrics,
    }
    page = ct_ich.render(dict.fromkeys(ct_ich.RUNS, run), [])
    low, high = metrics["patient"]["roc_auc"]["ci95"]
    assert f"{metrics['patient']['roc_auc']['value']:.3f} [{low:.3f}, {high:.3f}]" in page
    assert metrics["data_sha256"][:12] in page
    assert "48, 2 + 1" in page
