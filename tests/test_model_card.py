"""The model card: the Hub's own parser reads it, and every figure in it is that of the metrics files."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, metadata_load

from strokect.files import read_json
from strokect.model_card import AUTHOR, model_card
from strokect.reporting import FIGURES

PHANTOM = Path("docs/phantom")
SIDECAR: dict[str, Any] = {
    "target": "synthetic bleed: 'quoted' on this slice",
    "backbone": "tf_efficientnet_lite0",
    "image_size": 96,
    "channels": 1,
    "source": "phantom",
    "synthetic": True,
    "labels": "slice",
    "label_unit": "slice",
    "group_by": "patient",
    "weights": "package",
    "data_sha256": "ab" * 32,
    "split_sha256": "cd" * 32,
    "device": "cpu",
    "versions": {"torch": "2.14.1"},
}
POINT = {"exports": {"0": "x", "1": "y"}, "views": ["identity"], "calibration": {"method": "none"}, "slice": {"goal": "f2"}}


@pytest.fixture
def metrics() -> dict[str, Any]:
    return dict(read_json(PHANTOM / "evaluate.json"))


@pytest.fixture
def safety() -> dict[str, Any]:
    return dict(read_json(PHANTOM / "safety.json"))


def test_the_hub_reads_the_metadata_and_finds_the_figures(
    tmp_path: Path, metrics: dict[str, Any], safety: dict[str, Any]
) -> None:
    path = tmp_path / "README.md"
    path.write_text(model_card(SIDECAR, POINT, metrics, safety), encoding="utf-8")
    assert metadata_load(path) is not None
    data = ModelCard.load(path).data
    found = {(result.dataset_config, result.metric_type): result for result in data.eval_results}
    for level in ("slice", "patient"):
        for name in FIGURES:
            result = found[f"{level} level", {"f2": "f_beta"}.get(name, name)]
            assert result.metric_value == pytest.approx(metrics[level][name]["value"], abs=5e-5)
            low, high = metrics[level][name]["ci95"]
            assert f"[{low:.3f}, {high:.3f}]" in result.metric_name
    assert data.library_name == "onnx" and "synthetic" in data.tags


def test_the_card_has_the_sections_of_the_hubs_template_and_every_number_of_its_table(
    metrics: dict[str, Any], safety: dict[str, Any]
) -> None:
    text = model_card(SIDECAR, POINT, metrics, safety)
    for title in (
        "Model Details",
        "Uses",
        "Bias, Risks, and Limitations",
        "Training Details",
        "Evaluation",
        "Model Card Contact",
    ):
        assert f"\n## {title}\n" in text
    for name in FIGURES:
        row = re.search(rf"^\| {name} \| (.+) \| (.+) \|$", text, re.MULTILINE)
        assert row is not None
        for cell, level in zip(row.groups(), ("slice", "patient"), strict=True):
            assert cell.startswith(f"{metrics[level][name]['value']:.3f} [")
    assert SIDECAR["target"] in text and "not a medical device" in text and text.count(AUTHOR) >= 4


def test_what_is_not_estimable_is_not_a_number(metrics: dict[str, Any], safety: dict[str, Any]) -> None:
    metrics["patient"]["roc_auc"] = {"value": None, "ci95": None}
    text = model_card(SIDECAR, POINT, metrics, safety | {"activation_map": None})
    assert re.search(r"^\| roc_auc \| .+ \| not estimable \|$", text, re.MULTILINE)
    assert "is not known on this data" in text


def test_a_student_is_not_called_an_average_and_slices_dealt_out_one_by_one_are_named(
    metrics: dict[str, Any], safety: dict[str, Any]
) -> None:
    ordinary = model_card(SIDECAR, POINT, metrics, safety)
    assert "models 0, 1, calibrated, their probabilities averaged" in ordinary and "split by patient" in ordinary
    card = model_card(SIDECAR | {"taught_by": {"0": "x"}, "group_by": "none"}, POINT, metrics, safety)
    assert "one student, taught by all fold models" in card and "averaged" not in card
    assert "NOT split by patient" in card


def test_a_file_of_weights_is_known_by_its_hash(metrics: dict[str, Any], safety: dict[str, Any]) -> None:
    assert "**Started from:** package weights" in model_card(SIDECAR, POINT, metrics, safety)
    card = model_card(SIDECAR | {"weights": "file", "weights_sha256": "12345678abcd" + "0" * 52}, POINT, metrics, safety)
    assert "**Started from:** a file of weights, SHA-256 12345678abcd" in card
