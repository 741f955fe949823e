"""The release folder: same content → same version, and nothing that was tampered with, incomplete or mixed ever loads."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import FEATURES, encode, fake_inputs, fake_release, grey_slice, reseal, reseal_manifest

from strokect.calibration import Calibrator
from strokect.errors import DeadlineError, ImageError, NoResultError, ReleaseError
from strokect.feature_gate import SCORES
from strokect.files import read_json, sha256_bytes, write_json
from strokect.hounsfield import BRAIN_ONLY
from strokect.predictor import UNGROUPED, UNVERIFIABLE, Predictor
from strokect.release import load_release
from strokect.release_writer import write_release
from strokect.slices import load_slice
from strokect.texture import TEXTURE_REASON
from strokect.uncertainty import dropout_masks
from strokect.views import make_views


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_release(tmp_path_factory.mktemp("pristine"), folds=3)


@pytest.fixture
def release(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "release"))


def edit(path: Path, **changes: object) -> None:
    write_json(path, read_json(path) | changes)


def test_a_good_release_loads(release: Path) -> None:
    loaded = load_release(release)
    assert len(loaded.models) == 3 and loaded.operating_point.slice_threshold == 0.5
    assert loaded.version == read_json(release / "manifest.json")["version"] and len(loaded.version) == 12


def test_the_version_is_the_content(tmp_path: Path) -> None:
    versions = []
    for name in ("a", "b"):
        inputs = fake_inputs(tmp_path / name)
        versions.append(write_release(tmp_path / name / "release", **inputs))
    assert versions[0] == versions[1]
    assert write_release(tmp_path / "c" / "release", **fake_inputs(tmp_path / "c", policy={"refer_above": 0.1})) != versions[0]


def test_links_become_real_files(tmp_path: Path) -> None:
    inputs = fake_inputs(tmp_path)
    for path in [*(e / "model.onnx" for e in inputs["models"].values()), inputs["files"]["metrics.json"]]:
        path.rename(path.with_suffix(".cache"))
        path.symlink_to(path.with_suffix(".cache"))
    write_release(tmp_path / "release", **inputs)
    assert not any(path.is_symlink() for path in (tmp_path / "release").rglob("*"))


def test_a_release_that_cannot_be_served_does_not_replace_a_good_one(tmp_path: Path) -> None:
    inputs = fake_inputs(tmp_path)
    version = write_release(tmp_path / "release", **inputs)
    edit(inputs["files"]["operating_point.json"], exports={"0": "0" * 64, "1": "1" * 64})
    with pytest.raises(ReleaseError, match=r"operating_point\.json was tuned on another model than folds/0/model\.onnx"):
        write_release(tmp_path / "release", **inputs)
    assert load_release(tmp_path / "release").version == version
    assert sorted(p.name for p in tmp_path.iterdir() if "partial" in p.name) == []


def test_inputs_that_are_missing_are_named(tmp_path: Path) -> None:
    inputs = fake_inputs(tmp_path)
    with pytest.raises(ReleaseError, match="no exported model"):
        write_release(tmp_path / "release", **(inputs | {"models": {}}))
    inputs["files"]["audit.json"].unlink()
    with pytest.raises(ReleaseError, match=r"audit\.json is missing"):
        write_release(tmp_path / "release", **inputs)


FILES = [
    *("folds/1/model.onnx", "folds/1/head.npz", "folds/1/model.json", "safety/policy.json", "safety/gates/1.npz"),
    *("self_test/slice.png", "self_test/expected.json", "model_card.md"),
    *("operating_point.json", "metrics.json", "safety.json", "audit.json"),
]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(release: Path, name: str) -> None:
    data = bytearray((release / name).read_bytes())
    data[len(data) // 2] ^= 1
    (release / name).write_bytes(data)
    with pytest.raises(ReleaseError, match=f"{name} does not match its SHA-256"):
        load_release(release)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    (release / name).unlink()
    with pytest.raises(ReleaseError, match=f"{name} is missing"):
        load_release(release)


def test_an_extra_file_is_named(release: Path) -> None:
    (release / "folds" / "1" / "notes.txt").write_text("x")
    with pytest.raises(ReleaseError, match=r"folds/1/notes\.txt is not in manifest\.json"):
        load_release(release)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"manifest\.json is missing"):
        load_release(tmp_path / "nowhere")


SEALED = ["operating_point.json", "folds/2/model.json", "safety/policy.json", "self_test/expected.json"]


@pytest.mark.parametrize("name", ["manifest.json", *SEALED])
def test_a_newer_schema_is_refused(release: Path, name: str) -> None:
    newer = read_json(release / name)["schema"] + 1
    edit(release / name, schema=newer)
    if name != "manifest.json":
        reseal(release)
    with pytest.raises(ReleaseError, match=f"schema {newer}, this version reads {newer - 1}"):
        load_release(release)


def test_a_policy_of_another_model_is_refused(release: Path, tmp_path: Path) -> None:
    other = fake_inputs(tmp_path / "other", folds=3, slice={"threshold": 0.3, "goal": "f2"})
    shutil.copy(other["files"]["safety/policy.json"], release / "safety/policy.json")
    reseal_manifest(release)
    with pytest.raises(ReleaseError, match=r"policy\.json was fitted for another operating point"):
        load_release(release)
    fewer = fake_inputs(tmp_path / "fewer", folds=2)
    shutil.copy(fewer["files"]["safety/policy.json"], release / "safety/policy.json")
    reseal_manifest(release)
    with pytest.raises(ReleaseError, match=r"policy\.json was fitted for the models \['0', '1'\]"):
        load_release(release)


@pytest.mark.parametrize(
    ("file", "what"),
    [("folds/1/head.npz", "head.npz"), ("folds/1/model.json", "model.json"), ("safety/gates/1.npz", "gate")],
)
def test_a_part_of_another_release_is_refused_even_when_the_manifest_knows_it(release: Path, file: str, what: str) -> None:
    shutil.copy(release / file.replace("1", "2"), release / file)
    reseal_manifest(release)
    with pytest.raises(ReleaseError, match=f"fitted for another {what} of model 1"):
        load_release(release)


def test_a_policy_with_another_threshold_is_refused(release: Path) -> None:
    edit(release / "safety/policy.json", threshold=0.4)
    reseal(release)
    with pytest.raises(ReleaseError, match=r"has threshold 0\.4"):
        load_release(release)


def test_a_version_that_is_not_that_of_the_files_is_refused(release: Path) -> None:
    edit(release / "manifest.json", version="0" * 12)
    with pytest.raises(ReleaseError, match="version 000000000000 is not that of these files"):
        load_release(release)


@pytest.mark.parametrize(
    ("name", "value"),
    [("logits", [0.0, 0.0, 0.0]), ("gate_scores", [1.0]), ("probabilities", [0.5, 0.5, 0.9]), ("mc_std", [0.0])],
)
def test_a_machine_that_computes_something_else_is_refused(release: Path, name: str, value: object) -> None:
    edit(release / "self_test/expected.json", **{name: value})
    reseal(release)
    with pytest.raises(ReleaseError, match=f"self-test failed: {name}"):
        load_release(release)


def test_other_pixel_checks_fail_the_self_test(release: Path) -> None:
    edit(release / "self_test/expected.json", flags=["colour"])
    reseal(release)
    with pytest.raises(ReleaseError, match="self-test failed: pixel checks"):
        load_release(release)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 64},
        {"crop": "head"},
        {"target": "stroke"},
        {"split_sha256": "6" * 64},
        {"data_sha256": "e" * 64},
        {"channels": 3},
    ],
)
def test_folds_that_disagree_are_refused(release: Path, changes: dict[str, object]) -> None:
    edit(release / "folds" / "2" / "model.json", **changes)
    reseal(release)
    with pytest.raises(ReleaseError, match=rf"folds/2/model\.json: {next(iter(changes))} differs from fold 0"):
        load_release(release)


def test_a_fold_in_another_folds_place_is_refused(release: Path) -> None:
    edit(release / "folds" / "2" / "model.json", fold=1)
    reseal(release)
    with pytest.raises(ReleaseError, match=r"folds/2/model\.json says it is fold 1"):
        load_release(release)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": [0, 1]}, r"folds \[0, 1\], but the models"),
        ({"folds": []}, r"folds \[\]"),
        ({"views": []}, "expected identity first"),
        ({"views": ["upside_down"]}, "expected identity first"),
        ({"slice": {"threshold": 1.5}}, "expected probabilities"),
        ({"slice": {}}, "malformed"),
        ({"patient": {"threshold": "x"}}, "malformed"),
        ({"patient": {"threshold": 0.4, "top_k": 0, "sequence": None}}, "top_k 0"),
        ({"calibration": {"method": "magic", "scale": 1, "shift": 0, "knots": []}}, "unknown calibration"),
        ({"calibration": {}}, "calibration is malformed"),
        ({"exports": {}}, r"but the models \[\]"),
    ],
)
def test_a_bad_operating_point_is_refused(release: Path, changes: dict[str, object], message: str) -> None:
    edit(release / "operating_point.json", **changes)
    reseal(release)
    with pytest.raises(ReleaseError, match=message):
        load_release(release)


# Predictor


def test_the_probability_is_the_mean_of_the_calibrated_folds(release: Path) -> None:
    predictor, data = Predictor(release), encode(grey_slice())
    image = load_slice(data, 32).pixels
    calibrator = Calibrator("affine", 0.8, -0.1)
    logits = [np.mean([m.logit(m.run(v)) for v in make_views(image, ["identity", "mirror"])]) for m in predictor.release.models]
    expected = calibrator(np.array(logits))
    prediction = predictor.predict(data, "id")
    assert prediction.probability == pytest.approx(expected.mean(), abs=1e-6)
    assert prediction.uncertainty.fold_std == pytest.approx(expected.std(), abs=1e-6)
    assert prediction.decision == ("stroke" if expected.mean() >= 0.5 else "normal")
    assert prediction.request_id == "id"


def test_texture_is_a_layer_of_what_is_served(tmp_path: Path) -> None:
    predictor = Predictor(fake_release(tmp_path, policy={"texture_limit": 0.0}))
    answer = predictor.predict(encode(grey_slice()))
    assert (answer.decision, answer.ood.flags, answer.reasons) == ("reject", ["texture"], [TEXTURE_REASON])
    blank = predictor.predict(encode(np.zeros((40, 40), np.uint8)))
    assert blank.decision == "reject" and "texture" not in blank.ood.flags  # there is no brain: other flags say so


def test_every_field_is_computed(release: Path) -> None:
    predictor, data = Predictor(release), encode(grey_slice())
    judge, prediction = predictor.release.judge, predictor.predict(data)
    image, rate = load_slice(data, 32).pixels, 0.2
    stds, scores = [], []
    for k, model in enumerate(judge.engine.models):
        features = np.stack([model.run(view) for view in make_views(image, ["identity", "mirror"])])
        masks = dropout_masks(sha256_bytes(data), k, 2, 20, FEATURES, rate)
        logits = ((features[:, None] * masks / (1 - rate)) @ model.weight + model.bias).mean(axis=0)  # (T,)
        stds.append(Calibrator("affine", 0.8, -0.1)(logits).std())
        scores.append((SCORES["mahalanobis"](features[:1], judge.gates[k].statistics)[0] - 1.0) / 2.0)
    assert prediction.uncertainty.mc_std == pytest.approx(np.mean(stds), abs=1e-6) and np.mean(stds) > 0
    assert prediction.uncertainty.value == prediction.uncertainty.mc_std and prediction.uncertainty.refer_above == 1e9
    assert prediction.ood.score == pytest.approx(np.mean(scores), rel=1e-5)
    assert prediction.ood.threshold == 1e9 and prediction.ood.flags == []


def test_a_colour_picture_is_rejected_with_a_reason_and_without_numbers(release: Path) -> None:
    colour = np.zeros((64, 64, 3), np.uint8)
    colour[..., 0] = grey_slice()
    prediction = Predictor(release).predict(encode(colour))
    assert (prediction.decision, prediction.reasons, prediction.ood.flags) == ("reject", ["colour picture"], ["colour"])
    assert prediction.probability is None and prediction.uncertainty.mc_std is None and prediction.uncertainty.fold_std is None


def test_a_slice_unlike_training_is_rejected_and_an_unsure_one_referred(tmp_path: Path) -> None:
    strange = Predictor(fake_release(tmp_path / "a", policy={"gate_threshold": -1e9})).predict(encode(grey_slice()))
    assert (strange.decision, strange.reasons, strange.probability) == ("reject", ["unlike any training slice"], None)
    unsure = Predictor(fake_release(tmp_path / "b", policy={"refer_above": 0.0})).predict(encode(grey_slice()))
    assert unsure.decision == "refer" and unsure.reasons and unsure.probability is not None


def test_a_passed_deadline_gives_no_answer(release: Path) -> None:
    with pytest.raises(DeadlineError):
        Predictor(release).predict(encode(grey_slice()), deadline=0.0)


def test_same_bytes_same_answer(release: Path) -> None:
    predictor, data = Predictor(release), encode(grey_slice())
    answers = [predictor.predict(data).model_dump(exclude={"request_id", "latency_ms"}) for _ in range(5)]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_threshold_decides(tmp_path: Path, threshold: float) -> None:
    predictor = Predictor(fake_release(tmp_path, slice={"threshold": threshold, "goal": "f2"}))
    assert predictor.predict(encode(grey_slice())).decision == ("stroke" if threshold == 0.0 else "normal")


def test_a_probability_on_the_threshold_is_stroke(tmp_path: Path) -> None:
    probability = Predictor(fake_release(tmp_path / "a")).predict(encode(grey_slice())).probability
    on_it = Predictor(fake_release(tmp_path / "b", slice={"threshold": probability, "goal": "f2"}))
    assert on_it.predict(encode(grey_slice())).decision == "stroke"


def _break_head(fold: Path, value: float) -> None:
    with np.load(fold / "head.npz") as head:
        arrays = dict(head)
    arrays["weight"] = arrays["weight"] * np.float32(1) + np.float32(value)
    np.savez(fold / "head.npz", **arrays)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_fold_without_a_finite_number_means_no_model(release: Path, value: float) -> None:
    _break_head(release / "folds" / "1", value)
    reseal(release)
    with pytest.raises(ReleaseError, match="self-test failed"):
        Predictor(release)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bias", ["nan", "inf", "-inf"])
def test_a_number_that_is_not_finite_means_no_label(release: Path, monkeypatch: pytest.MonkeyPatch, bias: str) -> None:
    predictor = Predictor(release)
    monkeypatch.setattr(predictor.release.models[1], "bias", np.float32(bias))
    with pytest.raises(NoResultError):
        predictor.predict(encode(grey_slice()))


def test_an_unusable_picture_raises(release: Path) -> None:
    with pytest.raises(ImageError):
        Predictor(release).predict(b"nothing")


def test_describe_warns_when_patients_were_not_kept_apart(tmp_path: Path, release: Path) -> None:
    about = Predictor(release).describe()
    assert (
        about["warnings"] == [] and about["audit"]["allowed"] == ["near_duplicates"] and about["data"]["data_sha256"] == "d" * 64
    )
    assert Predictor(fake_release(tmp_path, group_by="none")).describe()["warnings"] == [UNGROUPED]


def test_describe_repeats_what_the_split_was_allowed_after_the_audit(release: Path) -> None:
    edit(release / "metrics.json", audit_allowed=["near_duplicates", "shuffle_control"])
    reseal(release)
    assert Predictor(release).describe()["audit"]["allowed"] == ["near_duplicates", "shuffle_control"]


def test_describe_says_that_without_patient_ids_patient_level_is_not_verifiable(release: Path) -> None:
    manifest = read_json(release / "manifest.json")
    manifest["created_from"]["patient_level_verifiable"] = False
    write_json(release / "manifest.json", manifest)
    about = Predictor(release).describe()
    assert about["warnings"] == [UNVERIFIABLE] and about["data"]["patient_level_verifiable"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 3}, "3 channels, but 1 windows"),
        ({"windows": None, "channels": 3}, "3 channels, but 1 windows"),
        ({"windows": [[40, 80], [80, 200], [40, 40]]}, "1 channels, but 3 windows"),
        *(({"windows": odd}, "pairs in HU") for odd in ([[40]], [[40, 120]] * 2, [[40, 0]], [["a", "b"]], "40/120", [])),
    ],
)
def test_windows_that_do_not_fit_the_channels_are_refused(changes: dict[str, object], message: str, release: Path) -> None:
    for fold in ("0", "1", "2"):
        edit(release / "folds" / fold / "model.json", **changes)
    reseal(release)
    with pytest.raises(ReleaseError, match=message):
        load_release(release)


def test_folds_that_see_other_windows_are_refused(release: Path) -> None:
    edit(release / "folds" / "1" / "model.json", windows=[[40, 80]])
    reseal(release)
    with pytest.raises(ReleaseError, match=r"folds/1/model\.json: windows differs"):
        load_release(release)


def test_a_release_from_before_there_were_windows_sees_the_brain_window(release: Path) -> None:
    for fold in ("0", "1", "2"):
        path = release / "folds" / fold / "model.json"
        write_json(path, {key: value for key, value in read_json(path).items() if key != "windows"})
    reseal(release)
    assert load_release(release).judge.windows == BRAIN_ONLY
