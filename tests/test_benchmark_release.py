"""The benchmark of whole answers: it asks what it says, and would notice answers that differ."""

from pathlib import Path

import numpy as np
import pytest
from fakes import encode, fake_release, grey_slice

from benchmarks import release
from strokect.files import read_json
from strokect.predictor import Predictor


def test_it_measures_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encode(grey_slice(64, seed)) for seed in range(3)]
    monkeypatch.setattr(release, "pictures", lambda: files)
    out = tmp_path / "release.json"
    release.main(["--release", str(fake_release(tmp_path)), "--answers", "130", "--out", str(out)])
    result = read_json(out)
    assert (result["answers"], result["different_pictures"], result["same_answer_to_same_picture"]) == (130, 3, True)
    assert 0 < result["latency_ms"]["min"] <= result["latency_ms"]["median"] <= result["latency_ms"]["p95"]
    assert 50 < result["settled_mb"] < 10_000 and result["end_mb"] > 50


def test_an_answer_that_changes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, rng = Predictor(fake_release(tmp_path)), np.random.default_rng(0)
    judge = predictor.release.judge
    monkeypatch.setattr(judge, "_sample", lambda features, sha256: rng.normal(size=(len(features), 20)))
    assert not release.ask(predictor, [encode(grey_slice())], 20)["same_answer_to_same_picture"]


def test_its_pictures_are_larger_than_any_small_model_and_all_different() -> None:
    files = release.pictures()
    assert len(set(files)) == release.PATIENTS * release.SLICES
