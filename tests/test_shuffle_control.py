"""The shuffle control: flags slices of one patient on both sides, passes what is grouped, and keeps its error rate."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, composed, run, tiny_params, workspace
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from stages.split import count_parts
from strokect import shuffle_control as control_module
from strokect.errors import AuditError
from strokect.files import read_json
from strokect.manifest import Prepared
from strokect.params import SplitParams
from strokect.phantom import make_cohort, window
from strokect.reporting import read_audit
from strokect.shuffle_control import chance_test, permuted_aucs, shuffle_control, thumbnails
from strokect.splits import make_split

NO_LINKS = np.zeros((0, 2), np.int64)
GROUPED = SplitParams(group_by="patient", test_fraction=0.2, folds=(0, 1, 2), seed=0)


@pytest.fixture(scope="module")
def phantom() -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """24 patients of 6 slices at 48 px."""
    pieces = list(make_cohort(patients=24, slices=6, size=48, seed=3))
    rows = [(f"{piece.patient}/{piece.slice}.png", piece.patient, int(piece.lesion != "")) for piece in pieces]
    images = np.stack([window(piece.hu) for piece in pieces])[:, None]
    return images, pd.DataFrame(rows, columns=["file", "patient", "label"])


@pytest.mark.parametrize("seed", range(3))
def test_slices_dealt_out_one_by_one_are_flagged_and_grouped_patients_pass(
    phantom: tuple[NDArray[np.uint8], pd.DataFrame], seed: int
) -> None:
    images, manifest = phantom
    params = dataclasses.replace(GROUPED, seed=seed)
    grouped = shuffle_control(images, manifest, make_split(manifest, NO_LINKS, params), seed)
    dealt = make_split(manifest, NO_LINKS, dataclasses.replace(params, group_by="none"))
    leaking = shuffle_control(images, manifest, dealt, seed)
    assert grouped.passed and grouped.p >= 0.01 and 0.44 < grouped.auc_mean < 0.56
    assert not leaking.passed and leaking.p < 1e-6 and leaking.auc_mean > 0.7
    assert leaking.permutations == 2 * control_module.PERMUTATIONS  # confirmed by a second set
    assert (grouped.patients, grouped.slices) == (24, 144)


def test_a_leak_of_a_quarter_of_the_patients_is_enough(phantom: tuple[NDArray[np.uint8], pd.DataFrame]) -> None:
    images, manifest = phantom
    split = make_split(manifest, NO_LINKS, GROUPED)
    scattered = split["patient"].isin(sorted(set(split.loc[split["part"] != "test", "patient"]))[:6])
    split.loc[scattered, "part"] = np.resize(["0", "1", "2"], int(scattered.sum()))
    assert not shuffle_control(images, manifest, split, 0).passed


def test_same_seed_same_answer_and_labels_of_the_slices_play_no_part(
    phantom: tuple[NDArray[np.uint8], pd.DataFrame],
) -> None:
    images, manifest = phantom
    split = make_split(manifest, NO_LINKS, GROUPED)
    first = shuffle_control(images, manifest, split, 0)
    by_patient = manifest.assign(label=manifest.groupby("patient")["label"].transform("max"))
    assert shuffle_control(images, by_patient, split, 0) == first
    assert shuffle_control(images, manifest, split, 1) != first


def test_without_two_classes_of_patients_labels_are_dealt_half_and_half(
    phantom: tuple[NDArray[np.uint8], pd.DataFrame],
) -> None:
    images, manifest = phantom
    dealt = make_split(manifest, NO_LINKS, dataclasses.replace(GROUPED, group_by="none"))
    control = shuffle_control(images, manifest.assign(label=1), dealt, 0)
    assert not control.passed and "half and half" in control.labels


def test_a_large_cohort_is_looked_at_in_whole_patients(
    phantom: tuple[NDArray[np.uint8], pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "MAX_SLICES", 100)
    images, manifest = phantom
    control = shuffle_control(images, manifest, make_split(manifest, NO_LINKS, GROUPED), 0)
    assert (control.patients, control.slices) == (16, 96)


def test_auc_is_that_of_patient_pairs_and_parts_without_both_classes_say_nothing() -> None:
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(6), [1, 2, 3, 4, 1, 2])
    part = np.repeat(["0", "0", "0", "1", "1", "test"], [1, 2, 3, 4, 1, 2])
    pictures = rng.normal(size=(13, 256))
    labels = np.stack([np.isin(who, chosen).astype(int) for chosen in ((0, 3), (1, 2), (5,))], axis=1)
    aucs = permuted_aucs(pictures, who, labels, part)
    # The third permutation's only positive patient is in the test part, alone: no part has both classes.
    assert len(aucs) == 2

    from sklearn.kernel_ridge import KernelRidge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def by_pairs(part_name: str, column: int) -> float:
        trained, judged = (part != part_name) & (part != "test"), part == part_name
        probe = make_pipeline(StandardScaler(), KernelRidge(alpha=0.01, kernel="rbf", gamma=2 / 256))
        y = labels[:, column]
        scores = probe.fit(pictures[trained], y[trained] - y[trained].mean()).predict(pictures[judged])
        pairs = [
            roc_auc_score([1] * (who[judged] == a).sum() + [0] * (who[judged] == b).sum(),
                          np.r_[scores[who[judged] == a], scores[who[judged] == b]])
            for a in set(who[judged & (y == 1)]) for b in set(who[judged & (y == 0)])
        ]  # fmt: skip
        return float(np.mean(pairs))

    assert aucs[0] == pytest.approx((by_pairs("0", 0) + by_pairs("1", 0)) / 2)
    assert aucs[1] == pytest.approx(by_pairs("0", 1))


def test_type_one_error_is_the_nominal_one() -> None:
    """200 honest splits of noise with a patient's own signature, patients of unequal size, one t-test of 20 permutations each."""
    rng = np.random.default_rng(0)
    flagged = 0
    sizes = rng.integers(1, 8, 20)
    who = np.repeat(np.arange(20), sizes)
    for _ in range(200):
        pictures = rng.normal(size=(20, 256))[who] + 0.3 * rng.normal(size=(len(who), 256))
        part = rng.permutation(np.arange(20) % 4).astype(str)[who]
        labels = np.stack([rng.permutation(np.arange(20) < 7) for _ in range(20)], axis=1)[who].astype(np.int64)
        flagged += chance_test(permuted_aucs(pictures, who, labels, part))[2] < 0.05
    assert binom.ppf(0.001, 200, 0.05) <= flagged <= binom.ppf(0.999, 200, 0.05)


@pytest.mark.parametrize(("value", "p"), [(1.0, 0.0), (0.5, 1.0), (0.4, 1.0)])
def test_aucs_that_are_all_the_same_are_no_division_by_zero(value: float, p: float) -> None:
    assert chance_test(np.full(20, value)) == (pytest.approx(value), (pytest.approx(value),) * 2, p)


def test_thumbnails_are_means_of_blocks() -> None:
    image = np.zeros((1, 1, 32, 32), np.uint8)
    image[0, 0, :2, :2] = [[10, 20], [30, 40]]
    assert thumbnails(image, np.array([0]))[0, :2].tolist() == [25, 0]


def test_parts_are_counted_as_pandas_counts_them(phantom: tuple[NDArray[np.uint8], pd.DataFrame]) -> None:
    manifest = pd.DataFrame({"patient": list("aabbcc"), "label": [0, 1, 0, 0, 1, 1]})
    split = manifest.assign(part=["0", "0", "1", "1", "test", "test"])
    table = count_parts(Prepared(phantom[0][:6], manifest, {}), split)
    assert table.to_dict("index") == {
        "0": {"patients": 1, "positive_patients": 1, "slices": 2, "positive_slices": 1},
        "1": {"patients": 1, "positive_patients": 0, "slices": 2, "positive_slices": 0},
        "test": {"patients": 1, "positive_patients": 1, "slices": 2, "positive_slices": 2},
    }


def test_the_stage_stops_at_a_leaking_split_and_goes_on_with_a_knowing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = tiny_params()
    params["split"].update(group_by="none")
    with workspace(tmp_path, params):
        run("prepare")
        run("audit")
        (tmp_path / "data/splits.csv").write_text("of an earlier run")
        with pytest.raises(AuditError, match=r"the split leaks.*split.group_by: patient.*shuffle_control to audit.allow"):
            run("split")
        assert not (tmp_path / "data/splits.csv").exists()
        report = read_json("metrics/split.json")
        assert (report["passed"], report["allowed"], report["control"]["passed"]) == (False, [], False)
        assert not read_audit()["passed"]

    params["audit"]["allow"] = ["shuffle_control"]
    with workspace(tmp_path, params):
        run("audit")
        run("split")
        report = read_json("metrics/split.json")
        assert (report["passed"], report["allowed"], report["control"]["passed"]) == (True, ["shuffle_control"], False)
        assert [finding["check"] for finding in report["findings"]] == ["shuffle_control"]
        assert read_audit()["allowed"] == ["shuffle_control"]
        assert (tmp_path / "data/splits.csv").exists()
    assert "WARNING" in capsys.readouterr().out


def test_a_grouped_split_reports_itself_without_naming_anybody(pipeline: Path) -> None:
    report = read_json(pipeline / "metrics/split.json")
    split = pd.read_csv(pipeline / "data/splits.csv", dtype=str)
    assert report["passed"] and report["allowed"] == report["findings"] == []
    assert (report["group_by"], report["seed"], report["patient_level_verifiable"]) == ("patient", 0, True)
    assert {part: counts["slices"] for part, counts in report["parts"].items()} == split["part"].value_counts().to_dict()
    assert not any(patient in str(report) for patient in split["patient"])


@pytest.mark.parametrize("profile", sorted(path.stem for path in (ROOT / "conf/profile").glob("*.yaml")))
def test_profiles_allow_the_control_where_they_leak_and_nowhere_else(profile: str) -> None:
    params = composed(f"profile={profile}")
    assert ("shuffle_control" in params["audit"]["allow"]) == (params["split"]["group_by"] == "none")


@pytest.mark.realdata
@pytest.mark.parametrize("group_by", ["patient", "none"])
def test_real_slices(group_by: str, realdata: Path, tmp_path: Path) -> None:
    from stages.prepare import prepare
    from strokect.manifest import load_prepared
    from strokect.params import load_params

    params = composed("profile=ct_ich")
    params["data"]["image_size"] = 48
    with workspace(tmp_path, params):
        prepare(load_params().data, realdata / "brain-stroke-ct", tmp_path / "prepared")
    prepared = load_prepared(tmp_path / "prepared")
    split = make_split(prepared.manifest, NO_LINKS, SplitParams(group_by, 0.0, (0, 1, 2, 3, 4), 0))  # type: ignore[arg-type]
    assert shuffle_control(prepared.images, prepared.manifest, split, 0).passed == (group_by == "patient")
