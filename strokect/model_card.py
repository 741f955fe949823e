"""model_card.md of a release in the format of the Hugging Face Hub: metadata, then what a reader must know, from the metrics.

What the pipeline cannot know (who pays, who answers, under which licence the weights are) is marked `author`.
"""

from collections.abc import Iterator
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from strokect.head_crop import crop_of
from strokect.hounsfield import BRAIN_ONLY, in_words, windows_of
from strokect.intended_use import INTENDED_USE, OUT_OF_SCOPE
from strokect.reporting import FIGURES, figure_text

AUTHOR = "*author: not known to the pipeline*"
SPLITS = {"test": "test", "oof": "out-of-fold"}
METRIC_TYPES = {"f2": "f_beta"}  # where the Hub's name is not ours


def model_card(sidecar: dict[str, Any], point: dict[str, Any], metrics: dict[str, Any], safety: dict[str, Any]) -> str:
    """The card, from model.json, operating_point.json, metrics/evaluate.json and metrics/safety.json."""
    sections = {
        "Model Details": _details(sidecar, point),
        "Uses": _uses(),
        "Bias, Risks, and Limitations": _limits(metrics, safety),
        "How to Get Started with the Model": _start(),
        "Training Details": _training(sidecar),
        "Evaluation": _evaluation(metrics, safety),
        "Environmental Impact": [f"- Hardware: {sidecar.get('device', 'unknown')}", f"- Carbon emitted: {AUTHOR}"],
        "Technical Specifications": _technical(sidecar, point),
        "Model Card Contact": [AUTHOR],
    }
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    return f"---\n{card_metadata(sidecar, metrics)}\n---\n\n# strokect: {sidecar['target']}\n\n{INTENDED_USE}\n\n{body}\n"


def card_metadata(sidecar: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The YAML at the head of the card: what the Hub indexes and verifies."""
    data_set = str(sidecar.get("source", "unknown"))
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=data_set,
            dataset_name=data_set,
            dataset_config=f"{level} level",  # the Hub tells results of one data set apart by it
            dataset_split=SPLITS[metrics["part"]],
            metric_type=METRIC_TYPES.get(name, name),
            metric_name=f"{name}, {level} level, 95 % interval {figure_text(metrics[level][name]).partition(' ')[2]}",
            metric_value=round(metrics[level][name]["value"], 4),
        )
        for level in ("slice", "patient")
        for name in FIGURES
        if metrics[level].get(name, {}).get("value") is not None
    ]
    data = ModelCardData(
        language="en",
        license="unknown",  # of the weights: it follows from the data, which the pipeline did not license
        library_name="onnx",
        pipeline_tag="image-classification",
        tags=["medical", "computed-tomography", "brain", "research-only", *(["synthetic"] if sidecar.get("synthetic") else [])],
        model_name="strokect",
        eval_results=results,
    )
    return str(data.to_yaml()).strip()


def _details(sidecar: dict[str, Any], point: dict[str, Any]) -> list[str]:
    ships = f"models {', '.join(point['exports'])}, calibrated, their probabilities averaged"
    if "taught_by" in sidecar:
        ships = "one student, taught by all fold models, calibrated by students of single folds"
    return [
        f"- **Target (what a positive means):** {sidecar['target']}",
        f"- **Model type:** {sidecar.get('backbone')} at {sidecar['image_size']} px; {ships}",
        f"- **Input:** one axial slice{', cut to its head' if crop_of(sidecar) == 'head' else ''}; the models see the window "
        f"{in_words(windows_of(sidecar))} (level/width in HU), "
        f"pixel checks and people {in_words(BRAIN_ONLY)}",
        f"- **Developed by:** {AUTHOR}",
        f"- **Licence of the weights:** {AUTHOR}",
        f"- **Started from:** {_weights(sidecar)}",
    ]


def _weights(sidecar: dict[str, Any]) -> str:
    kind = sidecar.get("weights")
    return f"a file of weights, SHA-256 {str(sidecar['weights_sha256'])[:12]}" if kind == "file" else f"{kind} weights"


def _uses() -> list[str]:
    return ["### Direct Use", "", INTENDED_USE, "", "### Out-of-Scope Use", "", *(f"- {line}" for line in OUT_OF_SCOPE)]


def _limits(metrics: dict[str, Any], safety: dict[str, Any]) -> Iterator[str]:
    yield from (f"- {note}" for note in metrics.get("notes", []))
    yield (
        f"- The safety layer rejects {figure_text(safety['false_rejects']['all'])} of ordinary slices, and "
        f"{figure_text(safety['false_rejects']['stroke'])} of the positive ones."
    )
    for name, entry in safety["outliers"].items():
        yield f"- It rejects {figure_text(entry['rejected'])} of {entry['n']} pictures of the kind {name}."
    band = safety["policy"]["refer"]
    yield f"- It sends a slice to a person when {band['measure']} is above {band['above']:.4g}."


def _start() -> list[str]:
    return [
        "```",
        "bentoml serve .                                   # beside models/release, from the strokect repository or its bento",
        "curl -F image=@slice.png http://127.0.0.1:3000/predict",
        "```",
    ]


def _training(sidecar: dict[str, Any]) -> list[str]:
    return [
        f"- **Training data:** {sidecar.get('source')}, labels per {sidecar.get('label_unit')} ({sidecar.get('labels')}), "
        f"{_dealt(sidecar)}; SHA-256 of the packed cohort {str(sidecar.get('data_sha256'))[:12]}",
        f"- **Where the data comes from and who agreed to its use:** {AUTHOR}",
        "- **Hyperparameters:** params.yaml of the revision that made the release",
        f"- **Split:** SHA-256 {str(sidecar.get('split_sha256'))[:12]}",
    ]


def _dealt(sidecar: dict[str, Any]) -> str:
    if sidecar.get("group_by") == "none":
        return "NOT split by patient (slices were dealt out one by one, so figures are too good)"
    return f"split by {sidecar.get('group_by')}"


def _evaluation(metrics: dict[str, Any], safety: dict[str, Any]) -> list[str]:
    part = SPLITS[metrics["part"]].capitalize()
    rows = [
        f"| {name} | {_cell(metrics, 'slice', name)} | {_cell(metrics, 'patient', name)} |"
        for name in FIGURES
        if name in metrics["slice"]
    ]
    return [
        f"{part}: {metrics['n_slices']} slices of {metrics['n_patients']} patients ({metrics['n_positive_patients']} positive); "
        f"{metrics['interval']}.",
        "",
        "| | slice | patient |",
        "|---|---|---|",
        *rows,
        "",
        f"External data: {AUTHOR}, unless `python -m stages.external` has judged some. {_pointing(safety)}",
    ]


def _pointing(safety: dict[str, Any]) -> str:
    game = safety.get("activation_map")
    if not game:
        return "Whether activation maps point at the lesion is not known on this data."
    return (
        f"The maximum of the activation map lies in the lesion on {figure_text(game['hit'])} of {game['n']} positive slices; a "
        f"point drawn at random in the head would on {game['chance']:.3f}."
    )


def _cell(metrics: dict[str, Any], level: str, name: str) -> str:
    return figure_text(metrics[level][name]) if name in metrics.get(level, {}) else "–"


def _technical(sidecar: dict[str, Any], point: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in sidecar.get("versions", {}).items())
    return [
        f"- ONNX, {sidecar.get('precision', 'fp32')}, views {', '.join(point['views'])}",
        f"- Made with {versions or 'unknown versions'}",
        f"- Calibration: {point['calibration']['method']}; thresholds: {point['slice']['goal']}",
    ]
