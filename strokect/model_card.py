"""What the model is and is not, in words: for GET /model and for model_card.md in the release."""

from typing import Any

from strokect.hounsfield import BRAIN_ONLY, in_words, windows_of

INTENDED_USE = (
    "Research software, not a medical device. It scores single axial brain CT slices for the target named in `target`, "
    "for research on data like the data it was trained on. It must not be used to diagnose, triage or treat."
)
OUT_OF_SCOPE = [
    "Clinical decisions of any kind; a `normal` answer does not rule out a stroke, and an infarct may be answered `normal`.",
    "Anything but axial brain CT slices in the brain window: other body parts, MRI, X-ray, photographs, localisers.",
    "Scanners, protocols, ages or patient groups that the training data does not hold.",
    "Pictures with drawings or text on them; below 500 pixels a side, contours, calipers and dark text are not noticed.",
]


def model_card(sidecar: dict[str, Any], point: dict[str, Any], metrics: dict[str, Any], safety: dict[str, Any]) -> str:
    """model_card.md of a release, from model.json, operating_point.json and the two metrics files."""
    models, windows = ", ".join(point["exports"]), in_words(windows_of(sidecar))
    lines = [
        "# Model card",
        "",
        INTENDED_USE,
        "",
        "## Out of scope",
        *(f"- {line}" for line in OUT_OF_SCOPE),
        "",
        "## Model",
        f"- Target: {sidecar['target']}",
        f"- {sidecar.get('backbone')} at {sidecar['image_size']} px, models {models}, views {', '.join(point['views'])}, "
        f"{sidecar.get('precision', 'fp32')}",
        f"- Sees the window {windows} (level/width in HU); pixel checks and people see {in_words(BRAIN_ONLY)}",
        f"- Trained on: {sidecar.get('source')} (labels: {sidecar.get('labels')}, split by {sidecar.get('group_by')}), "
        f"data SHA-256 {str(sidecar.get('data_sha256'))[:12]}",
        "",
        f"## Figures ({metrics['part']}, 95 % intervals by patient)",
        "| | slice | patient |",
        "|---|---|---|",
        *(_figure_row(name, metrics) for name in ("roc_auc", "sensitivity", "specificity")),
        *(f"- {note}" for note in metrics.get("notes", [])),
        "",
        "## Safety layer",
        f"- False rejects out-of-fold: {_share(safety['false_rejects']['all'])} of the slices; "
        f"{_share(safety['false_rejects']['stroke'])} of the positive ones",
        f"- Refers to a human when {safety['policy']['refer']['measure']} is above {safety['policy']['refer']['above']:.4g}",
        *(
            f"- Rejects {_share(entry['rejected'])} of {entry['n']} pictures: {name}"
            for name, entry in safety["outliers"].items()
        ),
        "",
    ]
    return "\n".join(lines)


def _figure_row(name: str, metrics: dict[str, Any]) -> str:
    cells = [_share(metrics[level][name], 3) if name in metrics.get(level, {}) else "–" for level in ("slice", "patient")]
    return f"| {name} | {cells[0]} | {cells[1]} |"


def _share(figure: dict[str, Any], digits: int = 2) -> str:
    if figure["value"] is None:
        return "not estimable"
    low, high = figure["ci95"]
    return f"{figure['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
