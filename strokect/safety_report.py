"""What metrics/safety.json says: rejects by kind of outlier, false rejects by class and position, the pointing game."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta
from tqdm import tqdm

from strokect.abstention import account, combine
from strokect.edges import widened_at_the_edge
from strokect.errors import ImageError, NoResultError
from strokect.files import sha256_bytes
from strokect.hounsfield import BRAIN_ONLY, Windows
from strokect.judge import Judge
from strokect.params import SafetyParams
from strokect.pixel_checks import CHECKS
from strokect.policy import UNLIKE, Policy
from strokect.reporting import figure_text
from strokect.safety_cross_fit import HeldOut, cross_fitted
from strokect.safety_fit import ReferGoal, Scored
from strokect.shift_reference import reference
from strokect.slices import decode
from strokect.statistics import bootstrap_weights, estimate, estimate_auc, estimate_share, patients_of_rarer
from strokect.subgroups import position_thirds
from strokect.texture import GUARD, TEXTURE

Floats = NDArray[np.float64]
NOTES = [
    "The guards of the pixel checks (pixel_checks: 'guard') were set by people who looked at CT-ICH slices and at made-up "
    "outliers like the built-in categories; the first brain MRI and chest CT pictures were looked at before the last of them.",
    "Outliers are judged by what ships. Built-in categories are made by strokect/outliers.py, those of slices from development "
    "slices, which {trained} trained on: the gate's AUROC on them is low for that reason, too. bone_window is "
    "simulated from 8-bit pictures. The gate's score was chosen on proxies (strokect/proxies.py) of other kinds, but for phantom "
    "slices, which are in both; that it may read pooled stages, and the texture check, came of looking at phantom slices that "
    "passed. The phantom row is no independent figure.",
    "The texture check is tied to the cohort: it refuses slices that are much noisier, smoother or smaller.",
    "Contours, calipers and dark text are looked for in pictures of at least 500 pixels; in smaller ones only white text is.",
    "Intervals of reject rates take pictures as independent, though crops of one photograph and slices of one patient are not.",
    "The measure of uncertainty was chosen on the slices it is reported on.",
]
AS_CT_SLICES = (
    "These models see windows of Hounsfield units, so the service refuses every PNG and JPEG. Here grey ones were judged as CT "
    "slices that look like them in the brain window, black as air, white as bone; coloured ones are refused, as in the service."
)
UNREADABLE, NO_RESULT = "unreadable", "no_result"
POSITIONS = ("lowest third", "middle third", "highest third")


def notes(sidecar: dict[str, Any], windows: Windows) -> list[str]:
    """What must stand beside the figures, by what ships (its sidecar) and what it sees."""
    student, unit = "taught_by" in sidecar, "patients" if sidecar["group_by"] == "patient" else "slices"
    judges = "students of single folds" if student else "single fold models"
    ships = "one student taught by all folds on all of these slices" if student else "the mean of the models"
    first = (
        f"False rejects, refer band and policy figures are those of {judges} on {unit} they have not seen. Calibration, "
        "slice threshold, limits, the gate's common scale and the refer band were fitted again for each fifth of the "
        f"{unit} without it; the choice of the gate's score and of the measure, and the guards of the pixel checks, were not. "
        f"What ships is {ships}."
    )
    trained = "what ships was" if student else "four of five models were"
    rest = [note.format(trained=trained) for note in NOTES]
    return [first, *rest] if windows == BRAIN_ONLY else [first, *rest, AS_CT_SLICES]


def judge_outliers(judge: Judge, pictures: Sequence[bytes]) -> tuple[Floats, list[list[str]]]:
    """Pictures as file bytes → single-model gate score of each (n,), and the objections to each as the service makes them.

    The single-model score is that of model i mod K for picture i, like the out-of-fold scores it is compared with. Bytes that the
    decoder refuses have the one objection UNREADABLE and a NaN score. NO_RESULT is the service's failure, and no rejection.
    """
    scores, objections = np.full(len(pictures), np.nan), []
    for i, data in enumerate(pictures):
        try:
            evidence = judge.examine(decode(data, judge.windows), sha256_bytes(data)).evidence
        except ImageError:
            objections.append([UNREADABLE])
            continue
        scores[i] = evidence.gate_scores[i % len(evidence.gate_scores)]
        try:
            objections.append(list(judge.policy.decide(evidence).flags))
        except NoResultError:
            objections.append([NO_RESULT])
    return scores, objections


def category(
    scores: Floats, objections: Sequence[Sequence[str]], inside: Floats, patients: NDArray[np.str_], *, resamples: int, seed: int
) -> dict[str, Any]:
    """One category of metrics/safety.json; `inside` (m,) are the out-of-fold gate scores of slices of `patients` (m,).

    `rejected` is by all layers as the service has them, `feature_gate` is that layer alone. Intervals of shares are
    Clopper–Pearson's and take the pictures as independent; those of AUROC and FPR resample patients and pictures.
    """
    n, by_reason = len(objections), Counter(flag for flags in objections for flag in flags)
    known = scores[~np.isnan(scores)]
    return {
        "n": n,
        "rejected": share(sum(bool(set(flags) - {NO_RESULT}) for flags in objections), n),
        "rejected_by_pixel_checks": share(sum(bool(set(flags) - {NO_RESULT, UNREADABLE, UNLIKE}) for flags in objections), n),
        "feature_gate": {
            "rejected": share(by_reason[UNLIKE], n),
            **_compare(inside, patients, known, resamples, seed),
        },
        "by_reason": dict(sorted(by_reason.items(), key=lambda item: (-item[1], item[0]))),
    }


def share(k: int, n: int) -> dict[str, Any]:
    """k of n with the exact 95 % interval (Clopper & Pearson 1934); None for n = 0."""
    if n == 0:
        return {"value": None, "ci95": None}
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return {"value": k / n, "ci95": [low, high]}


def _compare(inside: Floats, patients: NDArray[np.str_], outside: Floats, resamples: int, seed: int) -> dict[str, Any]:
    """AUROC, and FPR at 95 % TPR: the share of outliers that a gate accepting 95 % of the slices would accept."""
    if not len(outside) or not len(inside):
        return {name: {"value": None, "ci95": None} for name in ("auroc", "fpr_at_95_tpr")}
    labels = np.repeat([0, 1], [len(inside), len(outside)])
    units = np.concatenate([np.char.add("in ", patients), np.char.add("out ", np.arange(len(outside)).astype(str))])
    scores = np.concatenate([inside, outside])
    counts, index = bootstrap_weights(units, resamples, seed)
    fpr = estimate(lambda w: fpr_at_95_tpr(labels, scores, w), counts, index, patients=patients_of_rarer(labels, index))
    return {
        "auroc": estimate_auc(labels, scores, counts, index),
        "fpr_at_95_tpr": widened_at_the_edge(fpr, len(outside)),
    }


def fpr_at_95_tpr(labels: NDArray[np.int64], scores: Floats, weights: Floats) -> Floats:
    """Share of the outliers (label 1) that score no higher than 95 % of the slices (label 0) do; weights (R, n) → (R,)."""
    inside, outside = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    inside = inside[np.argsort(scores[inside], kind="stable")]
    reached = np.cumsum(weights[:, inside], axis=1)
    limit = scores[inside][np.argmax(reached >= 0.95 * reached[:, -1:], axis=1)]  # (R,)
    w = weights[:, outside]
    with np.errstate(invalid="ignore"):
        return np.asarray((w * (scores[outside] <= limit[:, None])).sum(1) / w.sum(1))


def false_rejects(
    rejected: NDArray[np.bool_],
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    order: NDArray[np.int64] | None,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Share of slices that are rejected (cross-fitted), in all, by class and by position in the head, patient-clustered.

    `order` (n,) is the slice's place within its patient from the bottom up; None where patients are not known: no positions then.
    """
    counts, index = bootstrap_weights(patients, resamples, seed)
    groups = {"all": np.ones(len(labels), bool), "normal": labels == 0, "stroke": labels == 1}
    if order is not None:
        third = position_thirds(patients, order)
        groups |= {name: third == i for i, name in enumerate(POSITIONS)}
    return {
        name: {
            "n": int(of.sum()),
            **estimate_share(rejected & of, of, counts, index),
        }
        for name, of in groups.items()
    }


def safety_metrics(
    scored: Scored,
    held: Sequence[HeldOut],
    heads: Floats,
    order: NDArray[np.int64] | None,
    policy: Policy,
    judge: Judge,
    outliers: dict[str, list[bytes]],
    params: SafetyParams,
) -> dict[str, Any]:
    """The parts of metrics/safety.json about rejecting and referring, and what external data is compared with.

    `held` is what `hold_out` gave, `heads` (n, B) are the grey levels of each slice's head, `order` (n,) is its place in its
    patient, None where patients are not known.
    """
    resampling = {"resamples": params.resamples, "seed": params.seed}
    refer = ReferGoal(params.refer_rate, params.refer_error_rate)
    fitted = cross_fitted(scored, held, policy.measure, params.max_false_reject, refer)
    categories = {}
    for name, pictures in tqdm(outliers.items(), desc="safety: outliers", unit="category", mininterval=1):
        scores, objections = judge_outliers(judge, pictures)
        categories[name] = category(scores, objections, scored.gate, scored.patients, **resampling)
    return {
        "max_false_reject": params.max_false_reject,
        "pixel_checks": limit_origins(policy),
        "false_rejects": false_rejects(fitted.rejected, scored.labels, scored.patients, order, **resampling),
        "false_rejects_of_series": {
            "n": len(fitted.series_rejected),
            **share(int(fitted.series_rejected.sum()), len(fitted.series_rejected)),
        },
        "outliers": categories,
        "policy_out_of_fold": account(
            scored.labels, combine(fitted.decision, fitted.rejected, fitted.referred), scored.patients, **resampling
        ),
        "reference": reference(scored, heads, fitted.referred, policy, params.refer_rate, **resampling),
        "notes": notes(judge.engine.models[0].sidecar, judge.windows),
    }


def limit_origins(policy: Policy) -> dict[str, dict[str, Any]]:
    """Each limit of the pixel checks, texture among them, and whether the data or the built-in guard set it."""
    origins = {}
    for name, limit in policy.limits.items():
        origin = "guard" if (limit.low, limit.high) == (CHECKS[name].low, CHECKS[name].high) else "data"
        origins[name] = {"low": limit.low, "high": limit.high, "set_by": origin}
    origin = "guard" if policy.texture_limit == GUARD else "data"
    return {**origins, TEXTURE: {"low": None, "high": policy.texture_limit, "set_by": origin}}


def summary_table(metrics: dict[str, Any]) -> str:
    """What the stage prints: rejects by category, false rejects, the measure of uncertainty."""
    lines = [f"{'pictures':24}{'n':>6}{'rejected':>26}{'gate alone':>12}{'gate AUROC':>12}"]
    for name, entry in metrics["outliers"].items():
        gate = entry["feature_gate"]
        auroc = "–" if gate["auroc"]["value"] is None else f"{gate['auroc']['value']:.3f}"
        alone = "–" if gate["rejected"]["value"] is None else f"{gate['rejected']['value']:.2f}"
        lines.append(f"{name:24}{entry['n']:>6}{figure_text(entry['rejected']):>26}{alone:>12}{auroc:>12}")
    lines.append("false rejects, out-of-fold, cross-fitted:")
    lines += [f"  {name:22}{entry['n']:>6}{figure_text(entry):>26}" for name, entry in metrics["false_rejects"].items()]
    measures = metrics["uncertainty"]["measures"]
    chosen = metrics["policy"]["refer"]["measure"]
    lines.append("AUROC of finding wrong decisions, out-of-fold:")
    for name, entry in measures.items():
        mark = "  ← refers" if name == chosen else ""
        lines.append(f"  {name:28}{figure_text(entry['error_detection_auroc']):>26}{mark}")
    if game := metrics.get("activation_map"):
        lines.append(
            f"activation map: maximum inside the lesion on {figure_text(game['hit'])} of {game['n']} slices; "
            f"chance {game['chance']:.3f}"
        )
    return "\n".join(lines)
