"""The sections of the report that are tables of the metrics: predictive values, calibration, safety, subgroups, ablations."""

from collections.abc import Iterable
from typing import Any

from strokect.reporting import CLASS_WORDS, figure_text

Section = dict[str, Any]
WAYS = {"as_errors": "as errors", "to_a_human": "as sent to a person", "answered_only": "left out"}
PARTS = {"oof": "out-of-fold", "test": "test part"}


def sections(metrics: dict[str, Any], oof: dict[str, Any], safety: dict[str, Any], point: dict[str, Any]) -> list[Section]:
    """In the order of the page, from metrics/{evaluate,oof,safety}.json and models/operating_point.json."""
    parts = [metrics] if metrics["part"] == "oof" else [metrics, oof]
    return [
        _prevalence(parts),
        _calibration(parts, oof, point),
        _guarantees(metrics),
        _abstaining(metrics, safety),
        _safety(safety),
        _subgroups(parts),
        _ablation(metrics),
    ]


def guarantee_words(metrics: dict[str, Any]) -> str:
    """What sensitivity of patients can be promised, in a sentence."""
    available = [entry for entry in metrics["guarantees"] if entry["available"]]
    if not available:
        entry = metrics["guarantees"][0]
        return f"no sensitivity of {entry['sensitivity']:g} or more can be promised with {entry['positive_patients']} positives"
    best = available[-1]
    return f"a sensitivity of {best['sensitivity']:g} with confidence {best['confidence']:g}, for single fold models"


def _section(identity: str, title: str, paragraphs: Iterable[str], *tables: dict[str, Any]) -> Section:
    return {"id": identity, "title": title, "paragraphs": list(paragraphs), "tables": list(tables)}


def _table(head: list[str], rows: Iterable[list[str]], caption: str = "") -> dict[str, Any]:
    return {"caption": caption, "head": head, "rows": list(rows)}


def _prevalence(parts: list[dict[str, Any]]) -> Section:
    tables = []
    for part in parts:
        rows = [
            [f"{entry['prevalence']:.0%}", level, figure_text(entry["ppv"]), figure_text(entry["npv"])]
            for level in ("slice", "patient")
            for entry in part[level]["at_prevalence"]
        ]
        tables.append(_table(["share of positives", "level", "PPV", "NPV"], rows, PARTS[part["part"]].capitalize()))
    return _section(
        "prevalence",
        "Predictive values where you are",
        [
            "What a positive or a negative answer is worth depends on how common positives are. By Bayes' rule from sensitivity "
            "and specificity above, which are taken to be the same there; evaluate.prevalence lists the shares."
        ],
        *tables,
    )


def _calibration(parts: list[dict[str, Any]], oof: dict[str, Any], point: dict[str, Any]) -> Section:
    losses = point["calibration_log_loss_cross_fitted"]
    chosen = point["calibration"]["method"]
    rows = [[name, f"{loss:.4f}", "ships" if name == chosen else ""] for name, loss in losses.items()]
    return _section(
        "calibration",
        "Calibration, and a check of the intervals",
        [
            f"Ships: {chosen}; chosen by log loss, each patient judged by a calibration that was fitted without them. Expected "
            f"calibration error out-of-fold, slices: {figure_text(oof['slice']['ece'])}. Its interval covers the "
            "truth too rarely, of patients most of all (docs/results/statistics.md of the repository). The choice among the "
            "methods saw all of these patients; the figures of the headline come from choices made without the patient.",
            "Intervals in two ways, each a check of the other: from resampled patients, and by a formula without resampling "
            "(DeLong, Obuchowski, Wilson). With few patients the resampled one is wider than need be, and DeLong gives none "
            "for a perfect order.",
        ],
        _table(["method", "cross-fitted log loss", ""], rows),
        *(_two_ways(part) for part in parts),
    )


def _two_ways(part: dict[str, Any]) -> dict[str, Any]:
    rows = [
        [level, name.replace("_", " "), figure_text(part[level][name]), _analytic(found), found["method"]]
        for level in ("slice", "patient")
        for name in ("roc_auc", "accuracy", "sensitivity", "specificity")
        for found in (part[level].get(f"{name}_analytic"),)
        if found
    ]
    caption = f"{PARTS[part['part']].capitalize()}, intervals in two ways"
    return _table(["level", "figure", "bootstrap of patients", "analytic", "by"], rows, caption)


def _analytic(figure: dict[str, Any]) -> str:
    return figure_text(figure) if figure["ci95"] else "not estimable"


def _guarantees(metrics: dict[str, Any]) -> Section:
    rows = [
        [
            f"{entry['sensitivity']:g}",
            f"{entry['confidence']:g}",
            f"{entry['threshold']:.3f}" if entry["available"] else "not available",
            f"{entry['specificity']:.3f}" if entry["available"] else _what_is_missing(entry),
        ]
        for entry in metrics["guarantees"]
    ]
    return _section(
        "guarantees",
        "What could be promised",
        [
            f"The largest patient threshold whose sensitivity is promised for new patients like these, on "
            f"{metrics['guarantees'][0]['positive_patients']} positive patients (Learn-then-Test with the exact binomial test). "
            "The promise is about single fold models; what ships has no out-of-fold estimate. It ships only if "
            "tune_threshold.goal asks for it. The specificity is that on the patients whom the threshold was chosen on, without "
            "an interval: read it as what the promise may cost."
        ],
        _table(["sensitivity ≥", "confidence", "patient threshold", "specificity here"], rows),
    )


def _what_is_missing(entry: dict[str, Any]) -> str:
    return str(entry.get("reason") or f"needs ≥ {entry['needs_positive_patients']} positive patients")


def _abstaining(metrics: dict[str, Any], safety: dict[str, Any]) -> Section:
    policy, comparison = metrics["policy"], safety["uncertainty"]
    rows = [
        [word, figure_text(policy[way]["sensitivity"]), figure_text(policy[way]["specificity"])] for way, word in WAYS.items()
    ]
    measures = [
        [
            name.replace("_", " "),
            figure_text(entry["error_detection_auroc"]),
            figure_text({"value": entry["aurc"], "ci95": entry.get("aurc_ci95")}),
            *(f"{entry['error_rate_at_coverage'][share]:.3f}" for share in ("1", "0.9", "0.7")),
        ]
        for name, entry in comparison["measures"].items()
    ]
    band = safety["policy"]["refer"]
    return _section(
        "abstaining",
        "Answering less",
        [
            f"{PARTS[metrics['part']].capitalize()}, the whole policy: rejected and referred slices are counted in three ways. "
            f"Answered: {figure_text(policy['answered_only']['coverage'])} of the slices.",
            f"Which uncertainty finds the {comparison['n_errors']} wrong decisions among {comparison['n']} slices, out-of-fold. "
            f"AURC is the mean error rate over all coverages, {comparison['perfect_aurc']:.3f} for a perfect ranking. The spread "
            "between folds is not admissible. Shares of errors at a coverage have no interval. "
            f"In use: {band['measure'].replace('_', ' ')} above {band['above']:.4g} refers.",
        ],
        _table(["refer and reject counted", "sensitivity", "specificity"], rows),
        _table(["measure", "AUROC of errors", "AURC", "errors, all answered", "90 %", "70 %"], measures),
    )


def _safety(safety: dict[str, Any]) -> Section:
    false = [
        [CLASS_WORDS.get(name, name), str(entry["n"]), figure_text(entry)] for name, entry in safety["false_rejects"].items()
    ]
    outliers = [
        [name.replace("_", " "), str(entry["n"]), figure_text(entry["rejected"])] for name, entry in safety["outliers"].items()
    ]
    return _section(
        "safety",
        "Safety: what is rejected",
        [
            f"All layers together may reject {safety['max_false_reject']:.0%} of ordinary slices (safety.max_false_reject); what "
            "they reject of unseen slices, by class and position, is in the first table.",
            "Of pictures that are no slice the brackets are Clopper and Pearson's: they are taken as independent.",
            *safety["notes"],
        ],
        _table(["ordinary slices", "n", "rejected"], false),
        _table(["what is no slice", "n", "rejected"], outliers),
    )


def _subgroups(parts: list[dict[str, Any]]) -> Section:
    looked_at = " and ".join(f"{part['subgroups']['looked_at']} figures {PARTS[part['part']]}" for part in parts)
    return _section(
        "subgroups",
        "Subgroups",
        [
            f"Figures of slices, not of patients, with intervals over resampled patients; {looked_at} were looked at. "
            f"{parts[0]['subgroups']['note']} “Says little”: an interval wider than 0.4."
        ],
        *(_of_groups(part["subgroups"]["groups"], PARTS[part["part"]]) for part in parts),
    )


def _of_groups(groups: list[dict[str, Any]], caption: str) -> dict[str, Any]:
    rows = [
        [
            group["variable"],
            group["group"],
            f"{group['n_slices']} ({group['n_positive_slices']})",
            f"{group['n_patients']} ({group['n_positive_patients']})",
            *(figure_text(group[name]) for name in ("roc_auc", "sensitivity", "specificity")),
            "few patients" if group.get("few_patients") else "says little" if group["says_little"] else "",
        ]
        for group in groups
    ]
    head = ["", "subgroup", "slices (positive)", "patients (positive)", "ROC AUC", "sensitivity", "specificity", ""]
    return _table(head, rows, caption)


def _ablation_words(rows: list[dict[str, Any]]) -> str:
    """What was compared with what, on what, and what it cannot say."""
    text = (
        "Each part is left out of this run, and the run judged with and without it on the same slices; the difference is with "
        "− without, paired over resampled patients. Lower log loss and higher ROC AUC are better; “cannot tell”: the interval "
        "holds no change. Nothing is trained again without the part, and the figures are of slices."
    )
    if not any(row["part"] == "ensemble" for row in rows):
        text += " The average of the fold models has no out-of-fold estimate: whether it earns its cost needs a test part."
    return text


def _ablation(metrics: dict[str, Any]) -> Section:
    rows = [
        [
            row["part"],
            row["what"],
            PARTS[row["judged_on"]],
            row["figure"].replace("_", " "),
            "not estimable" if row["difference"] is None else f"{row['without']:.4f} → {row['with']:.4f}",
            "" if row["ci95"] is None else f"{row['difference']:+.4f} [{row['ci95'][0]:+.4f}, {row['ci95'][1]:+.4f}]",
            row["verdict"],
        ]
        for row in metrics["ablation"]
    ]
    return _section(
        "ablation",
        "Which parts earn their cost",
        [_ablation_words(metrics["ablation"])],
        _table(["part", "with it, against", "judged on", "figure", "without → with", "difference", ""], rows),
    )
