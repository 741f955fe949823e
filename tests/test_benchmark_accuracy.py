"""The table of training steps: what is compared with what, on which split seeds, and what the page says of it."""

import shlex
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, composed

from benchmarks import accuracy
from benchmarks.accuracy_steps import BEST, HEADLINE_SEEDS, HEADLINES, PROFILE, STEPS, TUNING_SEED
from strokect.errors import DataError
from strokect.files import read_json, write_json
from strokect.params import load_params

FIGURE = {"value": 0.8, "ci95": [0.7, 0.9]}


def run(**fields: Any) -> dict[str, Any]:
    return {
        "command": "dvc exp run",
        "training_minutes": 3.0,
        "log_loss": FIGURE,
        "slice": {"roc_auc": FIGURE},
        "patient": {"roc_auc": FIGURE},
        "n_slices": 10,
        "n_patients": 5,
        "n_positive_patients": 2,
        "data_sha256": "d" * 64,
        "device": "cpu",
        "target": "bleed",
        "interval": "95 % interval",
    } | fields


def test_the_headline_uses_split_seeds_on_which_nothing_was_chosen() -> None:
    assert len(set(HEADLINE_SEEDS)) >= 3
    assert TUNING_SEED not in HEADLINE_SEEDS
    assert all(f"-S split.seed={TUNING_SEED}" in accuracy.command(name) for name in STEPS)
    for seed in HEADLINE_SEEDS:
        for name in HEADLINES:
            assert accuracy.command(f"{name}-{seed}") == accuracy.command(name).replace(
                f"split.seed={TUNING_SEED}", f"split.seed={seed}"
            )


def test_a_step_is_compared_with_an_earlier_one() -> None:
    names = list(STEPS)
    for name, step in STEPS.items():
        assert step.against is None or names.index(step.against) < names.index(name)
    assert set(HEADLINES) <= set(STEPS)


@pytest.mark.parametrize("name", STEPS)
def test_every_command_gives_params_that_load(name: str, tmp_path: Path) -> None:
    for part in accuracy.command(name).split(" && "):
        if part.startswith("dvc"):
            overrides = [word for before, word in pairwise(shlex.split(part)) if before == "-S"]
            (tmp_path / "params.yaml").write_text(yaml.safe_dump(composed(*overrides)))
            load_params(tmp_path / "params.yaml")


def test_what_a_step_needs_is_made_first_and_an_error_in_it_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accuracy, "check_raw_data", lambda *where: None)
    made: list[str] = []
    write_scores(STEPS["phantom-pretrained"].against)

    def fail_at_third(parts: list[str], check: bool) -> SimpleNamespace:
        made.append(" ".join(parts))
        return SimpleNamespace(returncode=len(made) == 3)

    monkeypatch.setattr(accuracy.subprocess, "run", fail_at_third)
    with pytest.raises(DataError, match=r"`dvc exp run tune_threshold .*phantom-200\.safetensors.*` failed"):
        accuracy.main(["phantom-pretrained"])
    step = STEPS["phantom-pretrained"]
    assert made[:2] == list(step.before) and len(made) == 3
    assert made[1].endswith(f" {step.overrides['model.weights']}")


def write_scores(name: str | None) -> None:
    accuracy.SCORES.mkdir(parents=True, exist_ok=True)
    (accuracy.SCORES / f"{name}.csv").touch()


def test_a_step_on_its_own_runs_what_it_is_compared_with_but_leaves_its_row_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Scores of single slices are not in the repository: a clone has none."""
    monkeypatch.chdir(tmp_path)
    made: list[str] = []
    monkeypatch.setattr(accuracy, "check_raw_data", lambda *where: None)
    monkeypatch.setattr(accuracy.subprocess, "run", lambda parts, check: SimpleNamespace(returncode=0))
    monkeypatch.setattr(accuracy, "render", lambda results: ", ".join(results))

    def collect(name: str) -> dict[str, Any]:
        made.append(name)
        write_scores(name)
        return run()

    monkeypatch.setattr(accuracy, "collect", collect)
    name, step = next((name, step) for name, step in STEPS.items() if step.against)
    for _ in range(2):
        accuracy.main([name])
    assert made == [step.against, name, name]
    assert [path.stem for path in accuracy.RESULTS.iterdir()] == [name]


def test_log_loss_of_worked_probabilities() -> None:
    scores = pd.DataFrame({"probability": [0.5, 0.2, 1.0], "label": [1, 0, 0]})
    expected = [np.log(2), -np.log(0.8), -np.log(1e-7)]
    np.testing.assert_allclose(accuracy.log_losses(scores), expected, rtol=1e-6)


def test_a_run_is_compared_slice_by_slice_whatever_the_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = {level: {"roc_auc": FIGURE} for level in ("slice", "patient")}
    write_json("metrics/oof.json", run() | metrics)
    for folder in ("models", accuracy.SCORES):
        (tmp_path / folder).mkdir(parents=True)
    other = pd.DataFrame(
        {"file": list("abcdefgh"), "patient": list("11223344"), "label": [0, 1] * 4, "probability": [0.2, 0.6, 0.4, 0.7] * 2}
    )
    better = other.assign(probability=[0.1, 0.7, 0.3, 0.9] * 2).iloc[::-1]
    name, step = next((name, step) for name, step in STEPS.items() if step.against)
    for made, table in ((step.against, other), (name, better)):
        table.to_csv(tmp_path / "models/oof.csv", index=False)
        found = accuracy.collect(str(made))
    difference = found["against"]["log_loss_difference"]
    assert found["against"]["log_loss"] == pytest.approx(-np.mean(np.log([0.8, 0.6, 0.6, 0.7])))
    expected = np.mean(np.log([0.8 / 0.9, 0.6 / 0.7, 0.6 / 0.7, 0.7 / 0.9]))
    assert difference["value"] == pytest.approx(expected)
    assert difference["ci95"][0] <= difference["value"] <= difference["ci95"][1] < 0
    assert accuracy.verdict(found) == "kept"


@pytest.mark.parametrize(
    ("value", "low", "high", "says"),
    [
        (-0.1, -0.2, -0.01, "kept"),
        (-0.1, -0.2, 0.1, "kept, could be chance"),
        (0.1, -0.1, 0.2, "dropped, could be chance"),
        (0.1, 0.01, 0.2, "dropped"),
    ],
)
def test_verdict(value: float, low: float, high: float, says: str) -> None:
    against = {"step": "base", "log_loss_difference": {"value": value, "ci95": [low, high]}}
    assert accuracy.verdict(run(against=against)) == says


def test_what_a_step_is_kept_for_is_said_only_where_its_log_loss_is_not_lower() -> None:
    def says(value: float) -> str:
        against = {"step": "base", "log_loss_difference": {"value": value, "ci95": [-0.2, 0.2]}}
        return accuracy.verdict(run(against=against), kept_for="its time")

    assert says(0.1) == "kept for its time, not its log loss, could be chance"
    assert says(-0.1) == "kept, could be chance"


def test_the_page_shows_every_run_and_its_command() -> None:
    name, step = next((name, step) for name, step in STEPS.items() if step.against)
    against = {"step": step.against, "log_loss_difference": {"value": -0.0123, "ci95": [-0.02, 0.001]}}
    page = accuracy.render({"base": run(), name: run(against=against, command="the command"), f"{HEADLINES[0]}-1": run()})
    assert f"| `{name}` | {step.change} | 0.800 [0.700, 0.900] | -0.0123 [-0.0200, +0.0010] to `{step.against}` |" in page
    assert f"\n# {name}\nthe command\n" in page
    assert f"| 1 | `{HEADLINES[0]}` | 0.800 [0.700, 0.900] |" in page
    assert f"Of `{HEADLINES[0]}` some seeds are still to be run" in page
    complete = accuracy.render({f"{HEADLINES[0]}-{seed}": run() for seed in HEADLINE_SEEDS})
    assert "still to be run" not in complete


@pytest.mark.parametrize(("log_loss", "which"), [(0.8, "`base`"), (0.81, "another run of `base` (0.810)")])
def test_a_difference_to_a_run_that_is_not_in_the_table_is_said_to_be_one(log_loss: float, which: str) -> None:
    against = {"step": "base", "log_loss": log_loss, "log_loss_difference": {"value": -0.0123, "ci95": [-0.02, 0.001]}}
    page = accuracy.render({"base": run(), "frozen": run(against=against)})
    assert f"| -0.0123 [-0.0200, +0.0010] to {which} |" in page


def test_what_series_change_is_said_of_slices_and_of_patients() -> None:
    def with_aucs(of_slices: float, of_patients: float) -> dict[str, Any]:
        return run(slice={"roc_auc": FIGURE | {"value": of_slices}}, patient={"roc_auc": FIGURE | {"value": of_patients}})

    alone, series = HEADLINES[:2]
    made = {"base": run(), f"{alone}-1": with_aucs(0.80, 0.80), f"{series}-1": with_aucs(0.86, 0.78)}
    made |= {f"{alone}-2": with_aucs(0.82, 0.80), f"{series}-2": with_aucs(0.84, 0.80), f"{alone}-3": with_aucs(0.1, 0.1)}
    page = accuracy.render(made)
    changes = "slice ROC AUC by +0.040 (+0.020 to +0.060), patient ROC AUC by -0.010 (-0.020 to +0.000)"
    assert f"\n- `{series}` instead of `{alone}`, 2 seeds: {changes}\n" in page
    assert "slice 0.850 (0.840 to 0.860; intervals from 0.700 to 0.900)" in page


def test_a_command_that_was_given_twice_is_shown_with_both_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accuracy, "REPEATS", tmp_path)
    name = f"{HEADLINES[0]}-1"
    write_json(tmp_path / f"{name}.json", run(log_loss=FIGURE | {"value": 0.25}, slice={"roc_auc": FIGURE | {"value": 0.9}}))
    page = accuracy.render({"base": run(), name: run()})
    assert f"\n- `{name}`: log loss 0.800 and 0.250, slice ROC AUC 0.800 and 0.900, patient ROC AUC 0.800 and 0.800\n" in page
    assert "given twice" not in accuracy.render({"base": run()})


def test_the_committed_page_is_that_of_the_committed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    made = accuracy.read_results()
    page = accuracy.RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    assert page == accuracy.render(made)
    earlier = [name for name, run in made.items() if "interval" not in run]
    assert ("are percentiles" in page) == bool(earlier) and all(f"`{name}`" in page for name in earlier)


def test_the_run_in_the_tables_is_the_one_that_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the tuning seed the run that was compared with the step before it: its repeat was not."""
    monkeypatch.chdir(ROOT)
    made = accuracy.read_results()
    repeats = {path.stem: read_json(path) for path in accuracy.REPEATS.glob("*.json")}
    assert repeats
    for name, repeat in repeats.items():
        assert repeat["command"] == made[name]["command"]
        assert repeat["log_loss"] != made[name]["log_loss"]
        assert name not in STEPS or ("against" in made[name] and "against" not in repeat)


def test_a_step_in_series_is_judged_by_what_was_seen_in_series(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    write_json("metrics/oof.json", run())
    for folder in ("models", accuracy.SCORES):
        (tmp_path / folder).mkdir(parents=True)
    scores = pd.DataFrame(
        {"file": list("abcd"), "patient": list("1122"), "label": [0, 1, 0, 1], "probability": [0.9, 0.1, 0.9, 0.1]}
    )
    scores.assign(in_series=[0.1, 0.9, 0.2, 0.8]).to_csv(tmp_path / "models/oof.csv", index=False)
    found = accuracy.collect("sequence")
    assert found["slice"]["roc_auc"]["value"] == 1.0
    assert found["log_loss"]["value"] == pytest.approx(-np.mean(np.log([0.9, 0.9, 0.8, 0.8])))
    assert "-S tune_threshold.patient_rule=sequence" in found["command"]


def test_the_best_profile_is_the_first_headline() -> None:
    step = STEPS[HEADLINES[0]]
    seed = f"split.seed={HEADLINE_SEEDS[0]}"
    expected = composed(f"profile={PROFILE}", *(f"{key}={value}" for key, value in step.overrides.items()), seed)
    # hnm.epochs has no effect where mining is off.
    best = composed(*(f"{key}={value}" for key, value in BEST.items()))
    expected["hnm"]["epochs"] = best["hnm"]["epochs"]
    assert best == expected
