"""stages.compare: paired differences against a plain loop, and what may be said about them."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from stages import compare as stage
from strokect.comparison import Run, compare, verdict
from strokect.errors import DataError


def made_run(name: str, noise: float, seed: int, patients: int = 40, slices: int = 8) -> Run:
    """A run whose scores follow the label up to `noise`; the labels do not depend on `noise` or `seed`."""
    truth = np.random.default_rng(7)
    who = np.repeat([f"p{i:03d}" for i in range(patients)], slices)
    label = (truth.random(patients * slices) < np.repeat(truth.choice([0.0, 0.5], patients), slices)).astype(int)
    logit = 2.0 * label - 1 + np.random.default_rng(seed).normal(0, noise, len(label))
    probability = 1 / (1 + np.exp(-logit))
    table = pd.DataFrame({"file": [f"{p}/{i}" for i, p in enumerate(who)], "patient": who, "label": label})
    table = table.assign(probability=probability, ranking=logit, decision=(probability >= 0.5).astype(int))
    whole = table.groupby("patient", as_index=False)[["label", "probability", "ranking", "decision"]].max()
    return Run(name, table, whole)


def test_values_and_intervals_are_those_of_a_plain_loop() -> None:
    a, b = made_run("a", 1.0, 0), made_run("b", 2.0, 1)
    found = compare(a, b, resamples=60, seed=3)
    figures = {
        "log_loss": lambda t: log_loss(t["label"], t["probability"]),
        "brier": lambda t: brier_score_loss(t["label"], t["probability"]),
        "roc_auc": lambda t: roc_auc_score(t["label"], t["ranking"]),
        "average_precision": lambda t: average_precision_score(t["label"], t["ranking"]),
        "sensitivity": lambda t: t["decision"][t["label"] == 1].mean(),
        "specificity": lambda t: 1 - t["decision"][t["label"] == 0].mean(),
    }
    names = np.unique(a.slices["patient"])
    drawn = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), size=60)
    for level, tables in {"slice": (a.slices, b.slices), "patient": (a.patients, b.patients)}.items():
        for name, figure in figures.items():
            got = found[level][name]
            assert got["first"] == pytest.approx(figure(tables[0])) and got["second"] == pytest.approx(figure(tables[1]))
            assert got["difference"] == pytest.approx(got["second"] - got["first"])
            rows = [np.repeat(np.arange(len(tables[0])), c[np.searchsorted(names, tables[0]["patient"])]) for c in drawn]
            loop = [figure(tables[1].iloc[r].reset_index()) - figure(tables[0].iloc[r].reset_index()) for r in rows]
            fewer = tables[0].groupby("label")["patient"].nunique()
            of = {"sensitivity": fewer[1], "specificity": fewer[0]}.get(name, fewer.min())
            half = t.ppf(0.975, of - 1) * np.std(loop, ddof=1)
            low, high = got["difference"] - half, got["difference"] + half
            assert got["ci95"] == (pytest.approx([low, high]) if np.std(loop) else None)


def test_the_order_of_the_rows_does_not_matter() -> None:
    a, b = made_run("a", 1.0, 0), made_run("b", 2.0, 1)
    mixed = Run("b", b.slices.sample(frac=1, random_state=0), b.patients.sample(frac=1, random_state=1))
    assert compare(a, mixed, resamples=20, seed=0) == compare(a, b, resamples=20, seed=0)


def test_a_better_run_is_named_and_turning_the_two_round_turns_the_answer_round() -> None:
    good, bad = made_run("good", 0.8, 0), made_run("bad", 4.0, 1)
    assert compare(bad, good, resamples=200, seed=0)["verdict"] == "second better"
    assert compare(good, bad, resamples=200, seed=0)["verdict"] == "first better"


def test_a_run_and_itself_cannot_be_told_apart() -> None:
    found = compare(made_run("a", 1.0, 0), made_run("b", 1.0, 0), resamples=50, seed=0)
    assert found["verdict"] == "cannot tell"
    assert {entry["verdict"] for level in ("slice", "patient") for entry in found[level].values()} == {"cannot tell"}


def test_two_equally_good_runs_are_rarely_told_apart() -> None:
    """The promise of a 95 % interval: 60 pairs of equals, on average 3 wrong verdicts; more than 9 has probability 0.001."""
    wrong = sum(
        compare(made_run("a", 2.0, 2 * i), made_run("b", 2.0, 2 * i + 1), resamples=200, seed=i)["verdict"] != "cannot tell"
        for i in range(60)
    )
    assert wrong <= 9


@pytest.mark.parametrize(
    ("name", "interval", "said"),
    [
        ("roc_auc", [0.01, 0.2], "second better"),
        ("roc_auc", [-0.2, -0.01], "first better"),
        ("log_loss", [0.01, 0.2], "first better"),
        ("log_loss", [-0.2, -0.01], "second better"),
        ("log_loss", [-0.2, 0.01], "cannot tell"),
        ("log_loss", [0.0, 0.01], "cannot tell"),
        ("log_loss", None, "not estimable"),
    ],
)
def test_verdict(name: str, interval: list[float] | None, said: str) -> None:
    assert verdict(name, interval) == said


def test_one_class_is_not_estimable() -> None:
    a, b = made_run("a", 1.0, 0), made_run("b", 2.0, 1)
    for run in (a, b):
        run.slices["label"] = 0
        run.patients["label"] = 0
    found = compare(a, b, resamples=20, seed=0)
    assert found["slice"]["roc_auc"]["verdict"] == "not estimable" and found["slice"]["sensitivity"]["difference"] is None
    assert found["slice"]["specificity"]["difference"] is not None


def test_other_slices_labels_patients_and_scores_are_refused() -> None:
    a = made_run("a", 1.0, 0)
    for change, message in (
        (lambda t: t.iloc[1:], "1 only in the first, 0 only in the second"),
        (lambda t: t.assign(label=1 - t["label"]), "different labels for 320 slices"),
        (lambda t: t.assign(patient="p000"), "to different patients"),
        (lambda t: t.assign(probability=[np.nan, *t["probability"][1:]]), "1 of 320 slices have a score that is not a number"),
        (lambda t: pd.concat([t, t.iloc[:2]]), "2 slices occur twice"),
        (lambda t: t.drop(columns="ranking"), "lack the column ranking"),
    ):
        with pytest.raises(DataError, match=message):
            compare(a, Run("b", change(a.slices), a.patients), resamples=5, seed=0)


def write(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run.slices.to_csv(folder / "oof.csv", index=False)
    run.patients.to_csv(folder / "oof_patients.csv", index=False)


def test_folders_revisions_and_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    run("git", "init", "-q")
    run("git", "config", "user.email", "a@b.c")
    run("git", "config", "user.name", "a")
    run("dvc", "init", "-q")
    for tag, noise in (("bad", 4.0), ("good", 0.8)):
        write(made_run(tag, noise, 5), Path("models"))
        run("dvc", "add", "-q", "models/oof.csv", "models/oof_patients.csv")
        run("git", "add", "-A")
        run("git", "commit", "-qm", tag)
        run("git", "tag", tag)
    stage.main(["bad", "good", "--resamples", "100", "--out", "reports/compare.json"])
    of_revisions = capsys.readouterr().out
    assert "slice log loss, the figure that this project chooses models by: second better" in of_revisions
    assert Path("reports/compare.json").is_file()
    stage.main(["bad", "workspace", "--resamples", "100"])
    assert capsys.readouterr().out.splitlines()[2:] == of_revisions.splitlines()[2:]
    write(made_run("good", 0.8, 5), Path("elsewhere"))
    stage.main(["elsewhere", "good", "--resamples", "100"])
    assert "models by: cannot tell" in capsys.readouterr().out
    with pytest.raises(DataError, match="'other' is neither a folder nor a revision"):
        stage.main(["other", "good"])
    Path("elsewhere/oof_patients.csv").unlink()
    with pytest.raises(DataError, match=r"oof_patients\.csv is missing"):
        stage.main(["elsewhere", "good"])
    run("git", "rm", "-qr", "--cached", "models")
    run("git", "commit", "-qm", "without")
    with pytest.raises(DataError, match=r"HEAD has no models/oof\.csv"):
        stage.main(["HEAD", "good"])


def test_too_few_resamples_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stage.main(["a", "b", "--resamples", "99"])
    assert "--resamples is 99; it must be 100 or more" in capsys.readouterr().err


def test_the_table_prints_a_difference_without_interval() -> None:
    a, b = made_run("a", 1.0, 0), made_run("b", 2.0, 1)
    one = a.slices["patient"].isin([a.slices.loc[a.slices["label"] == 1, "patient"].iloc[0]])
    runs = []
    for run in (a, b):
        kept = run.slices[one | (run.slices["label"] == 0)]
        whole = run.patients.assign(label=(run.patients["patient"] == a.slices.loc[one, "patient"].iloc[0]).astype(int))
        runs.append(Run(run.name, kept, whole))
    lines = stage.table(compare(*runs, resamples=100, seed=0)).splitlines()
    (line,) = [line for line in lines if line.startswith("slice sensitivity")]
    assert line.endswith("not estimable") and "[" not in line and line.split()[2:4] != []
