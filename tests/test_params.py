"""params.yaml: strict, and the same as conf/ composes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, committed, composed, tiny_params

from stages.evaluate import opens_test
from strokect.errors import ParamsError
from strokect.param_ranges import EIGHT_BIT
from strokect.params import load_params
from strokect.readers import READERS


def write(tmp_path: Path, params: dict[str, Any]) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


def test_committed_params_load_and_equal_what_conf_composes(tmp_path: Path) -> None:
    assert yaml.safe_load(committed("params.yaml")) == composed()
    assert load_params(write(tmp_path, composed())).split.folds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("profile", sorted(path.stem for path in (ROOT / "conf/profile").glob("*.yaml")))
@pytest.mark.parametrize("model", sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml")))
def test_every_profile_with_every_model_is_valid(profile: str, model: str, tmp_path: Path) -> None:
    load_params(write(tmp_path, composed(f"profile={profile}", f"model={model}")))


@pytest.mark.parametrize("profile", sorted(path.stem for path in (ROOT / "conf/profile").glob("*.yaml")))
@pytest.mark.parametrize("source", READERS)
def test_no_default_opens_the_test_part_of_real_data(profile: str, source: str, tmp_path: Path) -> None:
    if profile == "windows" and source in EIGHT_BIT:
        pytest.skip("8-bit pictures have one window")
    params = load_params(write(tmp_path, composed(f"profile={profile}", f"data.source={source}")))
    assert not opens_test(params.evaluate, {"synthetic": False})
    assert opens_test(params.evaluate, {"synthetic": True})


def test_unknown_key_is_named_with_its_path_and_a_suggestion(tmp_path: Path) -> None:
    params = tiny_params()
    params["train"]["learning_rat"] = 0.1
    with pytest.raises(ParamsError) as caught:
        load_params(write(tmp_path, params))
    assert str(caught.value) == "params.yaml: train.learning_rat is not a known key; did you mean train.learning_rate?"


def test_missing_key_is_named_with_its_path(tmp_path: Path) -> None:
    params = tiny_params()
    del params["train"]["augment"]["noise"]
    with pytest.raises(ParamsError, match=r"train\.augment\.noise is missing"):
        load_params(write(tmp_path, params))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.epochs", "ten", "train.epochs must be int"),
        ("train.epochs", True, "train.epochs must be int"),
        ("train.learning_rate", "1e-3", "YAML reads 1e-3 as text"),
        ("train.loss", "hinge", "allowed: focal, cross_entropy"),
        ("split.folds", [0], "at least 2 folds"),
        ("data.windows", [{"level_hu": 40}], r"data\.windows\[0\]\.width_hu is missing"),
        ("data.windows", [{"level_hu": 40, "width_hu": 80}] * 2, "one window or of three"),
        ("data.windows", [{"level_hu": 40, "width_hu": 0}], r"widths in \(1\.0, 4200\.0\) HU"),
        ("data.windows", [{"level_hu": float("nan"), "width_hu": 80}], r"levels in \(-1100\.0, 3100\.0\)"),
        ("split.folds", [1, 2], "0, 1, 2"),
        ("split.folds", 5, "must be a list"),
        ("split.test_fraction", 1.5, "below 0.9"),
        ("hnm.mine_epoch", 99, "between 1 and train.epochs"),
        ("export.views", ["upside_down"], "allowed: identity"),
        ("export.views", ["mirror", "identity"], "a list that starts with identity"),
        ("export.precision", "int4", "allowed: fp32, int8"),
        ("export.student_epochs", 0, "1 or more"),
        ("export.tolerance", {"roc_auc": -0.1, "ece": 0, "sensitivity": 0}, "0 or more in each figure"),
        ("data", None, "must be a section"),
        ("data.source", "pacs", "data.source is 'pacs'; it must be one of phantom, kaggle_ct_ich, "),
        ("data.dicom.negative", ["0", "1"], "data.dicom.positive is .* apart from data.dicom.negative"),
        ("data.nifti.labels", "folder", "allowed: masks, table"),
        ("tune_threshold.goal", "sensitivity > 0.9", "allowed: f2; youden; 'sensitivity >= 0.95'"),
        ("data.folder.negative", ["normal", "stroke"], "apart from data.folder.negative"),
        ("evaluate.open_test", 1, "allowed: True, False, synthetic"),
    ],
)
def test_wrong_value_says_what_is_allowed(tmp_path: Path, key: str, value: object, message: str) -> None:
    params = copy.deepcopy(tiny_params())
    *sections, name = key.split(".")
    section = params
    for part in sections:
        section = section[part]
    section[name] = value
    with pytest.raises(ParamsError, match=message):
        load_params(write(tmp_path, params))


def test_absent_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="repository root"):
        load_params(tmp_path / "params.yaml")
