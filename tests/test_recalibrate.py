"""stages.recalibrate: a site's cases make a complete new release with another calibration, and the old one stays what it was."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import workspace
from fakes import TARGET, fake_release
from site_fixtures import hashes, site_params

from examples.make_site import site_slices, write_site
from stages import external, recalibrate
from stages.build_bento import self_test_slice
from strokect.calibration import Calibrator, sigmoid
from strokect.calibration_fit import fit_calibrator, log_loss
from strokect.comparison import verdict
from strokect.errors import DataError, NotEstimableError
from strokect.files import read_json, write_json
from strokect.predictor import Predictor
from strokect.recalibration import Answers, Cases, after, before, check_cases, fit_ensemble, fit_site
from strokect.recalibration_figures import of_the_second, paired_figures
from strokect.release import OperatingPoint, load_release
from strokect.release_writer import write_release

SLICES = site_slices(patients=44, slices=3, seed=5, size=64, brighter=10)
SCORES, OUT = Path("reports/external/folder"), Path("models/site_releases/north")
GOALS = ("f2", "f2")
OWN = Calibrator("affine", 0.8, -0.1)
POINT = OperatingPoint(
    OWN, ("identity",), {"threshold": 0.5, "goal": "f2"}, {"threshold": 0.4, "top_k": 2, "sequence": None}, "patient", (0, 1), {}
)


def cases(patients: int = 80, slices: int = 5, models: int = 3, steep: float = 0.5, shift: float = 1.5, seed: int = 0) -> Cases:
    """Slices whose label has the log odds steep · (mean logit) + shift: the models' probabilities are wrong by that."""
    rng = np.random.default_rng(seed)
    n = patients * slices
    common = rng.normal(-3, 1, patients).repeat(slices) + rng.normal(0, 1.5, n)
    logits = common[:, None] + rng.normal(0, 0.2, (n, models))
    labels = (rng.random(n) < sigmoid(steep * logits.mean(axis=1) + shift)).astype(np.int64)
    # Half of the patients without any positive slice.
    healthy = (np.arange(patients) % 2 == 0).repeat(slices)
    who = np.array([f"p{i:03d}" for i in range(patients)]).repeat(slices)
    sampled = (logits[..., None] + rng.normal(0, 0.3, (n, models, 10))).astype(np.float32)
    return Cases(
        logits, np.where(healthy, 0, labels), who, np.tile(np.arange(slices), patients), np.ones(n, bool), np.zeros(n), sampled
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a release, a site's files, and what stages.external wrote about them."""
    folder = tmp_path_factory.mktemp("site")
    release = fake_release(folder / "fake", policy={"refer_above": 0.05})
    shutil.move(release, folder / "models" / "release")
    write_site(folder / "data/raw/folder", SLICES)
    with workspace(folder, site_params(TARGET)):
        external.main(["--source", "folder"])
    return folder


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it to work in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    with workspace(tmp_path, site_params(TARGET)) as folder:
        yield folder


def run(*arguments: str) -> None:
    recalibrate.main(["--scores", str(SCORES), "--site", "north", "--refer-rate", "0.1", *arguments])


def test_the_new_release_loads_serves_and_says_where_it_comes_from(site: Path) -> None:
    before_it = hashes(site / "models/release")
    old = Predictor(site / "models/release")
    run()
    assert hashes(site / "models/release") == before_it
    new = Predictor(OUT)
    assert new.release.version != old.release.version and load_release("models/release").version == old.release.version
    described = new.describe()
    assert described["site"] == {
        "name": "north",
        "parent": old.release.version,
        "n_slices": 132,
        "n_accepted_slices": 132,
        "n_patients": 44,
        "n_positive_patients": 22,
        "data_sha256": read_json(SCORES / "external.json")["data_sha256"],
        "overlap_checked": False,
        "target_differs": None,
    }
    assert old.describe()["site"] is None
    assert described["metrics"]["slice"] == old.describe()["metrics"]["slice"]
    assert "Recalibrated for north" in (OUT / "model_card.md").read_text()
    point, policy = new.release.operating_point, new.release.policy
    probability = point.calibrator(pd.read_csv(SCORES / "scores.csv")[["logit_0", "logit_1"]].to_numpy()).mean(axis=1)
    table = pd.read_csv(SCORES / "scores.csv").assign(new=probability).set_index("file")
    referred = 0
    for name, label, data in SLICES:
        answer = new.predict(data)
        assert answer.probability == pytest.approx(table.loc[f"{'stroke' if label else 'normal'}/{name}", "new"])
        assert answer.threshold == policy.threshold
        referred += answer.decision == "refer"
    assert 0 < referred <= 0.1 * len(SLICES)  # mc_std under the new calibration, as it was computed from dropout.npy


def test_what_is_rejected_does_not_change(site: Path) -> None:
    run()
    old, new = (load_release(folder).policy for folder in ("models/release", OUT))
    same = {"threshold": 0.5, "refer_above": 0.0, "operating_point_sha256": ""}
    assert replace(old, **same) == replace(new, **same) and old.operating_point_sha256 != new.operating_point_sha256
    gates = [Path(folder) / "safety" / "gates" / "0.npz" for folder in ("models/release", OUT)]
    assert gates[0].read_bytes() == gates[1].read_bytes() and not gates[0].samefile(gates[1])


def test_a_release_is_never_overwritten(site: Path) -> None:
    run()
    with pytest.raises(DataError, match="is there already"):
        run("--out", "models/release")
    with pytest.raises(DataError, match="is there already"):
        run()
    run("--out", "models/site_releases/second", "--goal", "sensitivity >= 0.9")
    assert load_release("models/site_releases/second").operating_point.slice["goal"] == "sensitivity >= 0.9"


def test_a_site_may_ask_for_a_promise_about_what_ships(site: Path) -> None:
    """19 positive patients are enough for it, the site has 22, and four fifths of them would not do."""
    run("--goal", "guaranteed sensitivity >= 0.85 confidence 0.95")
    point = read_json(OUT / "operating_point.json")
    promised = {"sensitivity": 0.85, "confidence": 0.95, "positive_patients": 22, "misses_allowed": 0}
    assert point["patient"]["promise"] == {**promised, "models": "the models that ship"}
    assert point["chosen_on"].endswith("of the patient threshold a sensitivity is promised")
    run("--out", "models/site_releases/empirical", "--goal", "f2")
    empirical = read_json("models/site_releases/empirical/operating_point.json")
    assert empirical["patient"]["promise"] is None and empirical["chosen_on"].endswith("no guarantee")


def test_nothing_is_promised_where_nobody_knows_whose_the_slices_are(site: Path) -> None:
    write_json(SCORES / "external.json", read_json(SCORES / "external.json") | {"patient_level_verifiable": False})
    with pytest.raises(NotEstimableError, match="not available: the data name no patients"):
        run("--goal", "guaranteed sensitivity >= 0.85 confidence 0.95")


def test_scores_of_something_else_are_refused(site: Path) -> None:
    original = read_json(SCORES / "external.json")

    def changed(**values: Any) -> None:
        write_json(SCORES / "external.json", original | values)

    changed(release={"version": "another"})
    with pytest.raises(DataError, match="was judged by release another"):
        run()
    changed(overlap={"checked": True, "identical": 3, "near_duplicates": 0})
    with pytest.raises(DataError, match="pictures that the release was made from"):
        run()
    changed(n_slices=3)
    with pytest.raises(DataError, match="not of one run"):
        run()
    changed()
    table = pd.read_csv(SCORES / "scores.csv")
    table.assign(label=[2, *table["label"][1:]]).to_csv(SCORES / "scores.csv", index=False)
    with pytest.raises(DataError, match="row 2: label is 2"):
        run()
    table.assign(logit_1=[np.nan, *table["logit_1"][1:]]).to_csv(SCORES / "scores.csv", index=False)
    with pytest.raises(DataError, match="1 slices have a logit that is not a number"):
        run()
    table.drop(columns="logit_0").to_csv(SCORES / "scores.csv", index=False)
    with pytest.raises(DataError, match="missing or damaged"):
        run()
    assert not OUT.exists()


def test_without_a_refer_rate_it_must_be_given(site: Path) -> None:
    with pytest.raises(DataError, match="give --refer-rate"):
        recalibrate.main(["--scores", str(SCORES), "--site", "north"])
    (site / "params.yaml").write_text(yaml.safe_dump(site_params(TARGET)))
    with pytest.raises(SystemExit):
        recalibrate.main(["--scores", str(SCORES), "--site", "../north"])


def test_too_few_patients_are_told_how_many_are_needed() -> None:
    few = cases(patients=30)
    with pytest.raises(NotEstimableError, match=r"at least 20 patients .* collect \d+ and \d+ more"):
        check_cases(few)
    check_cases(cases())
    with pytest.raises(NotEstimableError, match="there are 0 and 80"):
        check_cases(replace(cases(), labels=np.zeros(400, np.int64)))
    mostly = np.arange(400) % 5 == 0
    mostly[:300] = False
    with pytest.raises(NotEstimableError, match=r"collect .* more\. The release rejects 95% of these slices: ask first why"):
        check_cases(replace(cases(), accepted=mostly))


def test_a_site_whose_pictures_are_all_rejected_is_not_told_to_collect_more() -> None:
    with pytest.raises(NotEstimableError, match=r"rejects all 400 slices.* does not accept this site's pictures") as refused:
        check_cases(replace(cases(), accepted=np.zeros(400, bool)))
    assert "collect" not in str(refused.value)


def test_the_average_is_what_is_calibrated() -> None:
    """Of one model it is the pipeline's calibration; of several it loses less than calibrating each model for itself."""
    one = cases(models=1)
    for method in ("temperature", "affine", "isotonic"):
        single = fit_calibrator(method, one.logits[:, 0], one.labels)
        z = np.linspace(-6, 3, 7)
        assert fit_ensemble(method, one.logits, one.labels, OWN)(z) == pytest.approx(single(z), abs=1e-3)
    many = cases(models=3)
    spread = many.logits + np.random.default_rng(1).normal(0, 3, many.logits.shape)
    apart = fit_calibrator("affine", spread.ravel(), np.repeat(many.labels, 3))
    together = fit_ensemble("affine", spread, many.labels, OWN)
    losses = [log_loss(calibrator(spread).mean(axis=1), many.labels) for calibrator in (together, apart)]
    assert losses[0] < losses[1]


def test_wrong_probabilities_are_mended_and_right_ones_are_left() -> None:
    wrong = cases(patients=200)
    figures = paired_figures(wrong, before(wrong, POINT), after(wrong, POINT, GOALS, 0), resamples=200, seed=0)
    assert figures["slice"]["log_loss"]["verdict"] == "better" and figures["slice"]["brier"]["verdict"] == "better"
    fitted = fit_site(wrong, POINT, GOALS, 0)
    assert fitted.log_loss[fitted.method] == min(fitted.log_loss.values()) < fitted.log_loss["keep"]
    right = OperatingPoint(**{**POINT.__dict__, "calibrator": fitted.calibrator})
    again = fit_site(wrong, right, GOALS, 0)
    assert again.log_loss["keep"] <= fitted.log_loss[fitted.method]


def test_nobody_is_judged_by_what_was_fitted_on_them() -> None:
    """Another label of one patient's slice changes nothing that is said of that patient."""
    first = cases(patients=60)
    number = next(i for i in range(60) if 0 < first.labels[first.patients == f"p{i:03d}"].sum() < 5)
    mine = first.patients == f"p{number:03d}"  # positive before and after: the same stratum, so the same groups
    row = np.flatnonzero(mine & (first.labels == 0))[0]
    turned = replace(first, labels=np.where(np.arange(300) == row, 1, first.labels))
    one, two = (after(c, POINT, GOALS, 0) for c in (first, turned))
    assert one.probability[mine].tolist() == two.probability[mine].tolist()
    assert (
        one.decision[mine].tolist() == two.decision[mine].tolist()
        and one.patient_decision[number] == two.patient_decision[number]
    )
    assert one.probability[~mine].tolist() != two.probability[~mine].tolist()


def test_from_the_pipeline_to_a_site_and_back(pipeline: Path, tmp_path: Path) -> None:
    """A real tiny release with its reference: a brighter scanner is told from the development data, and a site release serves."""
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    target = read_json(tmp_path / "data/prepared/cohort.json")["target"]
    with workspace(tmp_path, site_params(target)):
        models, metrics = Path("models"), Path("metrics")
        names = read_json(models / "operating_point.json")["exports"]
        files = {name: metrics / name for name in ("safety.json", "audit.json")}
        files |= {"metrics.json": metrics / "evaluate.json", "operating_point.json": models / "operating_point.json"}
        files |= {"safety/policy.json": models / "safety/policy.json"}
        exports = {name: models / "export" / name for name in names}
        write_release(models / "release", exports, models / "safety/gates", files, "# card", self_test_slice(48))
        write_site(Path("data/raw/folder"), site_slices(patients=48, slices=4, seed=77, size=48, brighter=25))
        external.main(["--source", "folder"])
        found = read_json(SCORES / "external.json")
        assert found["overlap"] == {
            "checked": True, "identical": 0, "near_duplicates": 0, "slices": 192, "patients": 0, "of_patients": 48
        }  # fmt: skip
        shift = found["shift"]
        assert shift["intensity"]["head_grey_levels"]["verdict"] == "differs"
        assert shift["intensity"]["brain_level"]["verdict"] == "differs"
        assert (
            shift["intensity"]["head_grey_levels"]["mean_grey"]["external"]
            > 10 + (shift["intensity"]["head_grey_levels"]["mean_grey"]["development"])
        )
        assert shift["intensity"]["aspect_ratio"]["verdict"] == "cannot tell"  # square here and there
        assert shift["calibration"]["slope"]["development"]["value"] is not None
        external.main(["--source", "phantom", "--out", "reports/external/own", "--allow-overlap"])
        own = read_json("reports/external/own/external.json")
        assert own["overlap"]["identical"] == own["n_slices"] and own["notes"][0].startswith("NOT external")
        assert own["shift"]["intensity"]["head_grey_levels"]["verdict"] == "cannot tell"
        write_site(Path("data/raw/similar"), site_slices(patients=48, slices=4, seed=78, size=48, brighter=0))
        external.main(["--source", "folder", "--raw", "data/raw/similar"])
        recalibrate.main(["--scores", str(SCORES), "--site", "north"])
        assert Predictor(OUT).describe()["site"]["name"] == "north"


@pytest.mark.parametrize(
    ("name", "interval", "said"),
    [
        ("ece", [-0.2, -0.1], "better"),
        ("ece", [0.1, 0.2], "worse"),
        ("ece", [-0.1, 0.2], "cannot tell"),
        ("sensitivity", [0.1, 0.2], "better"),
        ("ece", None, "not estimable"),
    ],
)
def test_what_is_said_of_a_change(name: str, interval: list[float] | None, said: str) -> None:
    assert of_the_second(verdict(name, interval)) == said


def test_a_calibration_error_that_is_mended_is_said_to_be_better() -> None:
    wrong = cases(patients=200)
    labels, p = wrong.labels, np.where(wrong.labels == 1, 0.6, 0.4)
    rng = np.random.default_rng(0)
    right = labels.mean() + 0.01 * rng.random(len(labels))
    whole = np.full(200, 0.5), np.zeros(200, np.int64)
    old, new = Answers(1 - p, labels, *whole), Answers(right, labels, *whole)
    found = paired_figures(wrong, old, new, resamples=200, seed=0)
    ece = found["slice"]["ece"]
    assert ece["verdict"] == "better" and ece["ci95"][0] < ece["difference"] < ece["ci95"][1] < 0
    assert paired_figures(wrong, new, old, resamples=200, seed=0)["slice"]["ece"]["verdict"] == "worse"
    assert found["slice"]["sensitivity"] == {
        "before": 1.0,
        "after": 1.0,
        "difference": 0.0,
        "ci95": None,
        "verdict": "cannot tell",
    }
    one = replace(wrong, labels=np.where(wrong.patients == wrong.patients[labels == 1][0], labels, 0))
    alone = paired_figures(one, old, new, resamples=200, seed=0)["slice"]
    assert alone["ece"]["verdict"] == alone["sensitivity"]["verdict"] == alone["log_loss"]["verdict"] == "not estimable"
    none = paired_figures(replace(wrong, labels=labels * 0), old, new, resamples=200, seed=0)["slice"]["sensitivity"]
    assert none["ci95"] is None and none["verdict"] == "not estimable" and none["difference"] is None
