"""Plots of one or two parts (out-of-fold, test): the points as CSV for `dvc plots`, the pictures as PNG."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from strokect.files import atomic_path
from strokect.net_benefit import net_benefit
from strokect.reporting import figure_text
from strokect.statistics import calibration_bins

mpl.use("Agg")
from matplotlib import pyplot as plt

Floats = NDArray[np.float64]
PART_NAMES = {"oof": "out-of-fold", "test": "test"}
COLOURS = {"oof": "#0072B2", "test": "#D55E00"}  # Okabe–Ito, told apart by colour-blind readers
# A positive is whatever the target says: neither class is called stroke or normal.
CLASS_COLOURS = {"negative": "#0072B2", "positive": "#D55E00"}
MEASURE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
POINTS = 400  # a plot needs no more; `dvc plots show` embeds every point


@dataclass(frozen=True)
class Scored:
    """Slices of one part with their calibrated probability and decision."""

    part: str  # oof | test
    labels: NDArray[np.int64]  # (n,)
    probability: Floats  # (n,)
    ranking: Floats  # (n,) what ROC and PR order by, as the figures beside them do
    decision: NDArray[np.int64]  # (n,)


def plot_tables(scored: Scored) -> dict[str, pd.DataFrame]:
    """The points of every plot of one part."""
    y, p = scored.labels, scored.probability
    fpr, tpr, _ = roc_curve(y, scored.ranking)
    precision, recall, _ = precision_recall_curve(y, scored.ranking)
    edges = np.linspace(0, 1, 21)
    density = {name: np.histogram(p[y == label], edges)[0] / (y == label).sum() for label, name in enumerate(CLASS_COLOURS)}
    names = np.array(list(CLASS_COLOURS))
    return {
        "roc": _thin(pd.DataFrame({"false_positive_rate": fpr, "true_positive_rate": tpr})),
        "pr": _thin(pd.DataFrame({"recall": recall, "precision": precision})),
        "confusion": pd.DataFrame({"actual": names[y], "predicted": names[scored.decision]}),
        "calibration": reliability(y, p),
        "calibration_before": reliability(y, scored.ranking),
        "net_benefit": net_benefit(y, p),
        "probabilities": pd.DataFrame({"probability": edges[:-1] + 0.025, **density}),
    }


def reliability(labels: NDArray[np.int64], probability: Floats) -> pd.DataFrame:
    """Mean probability and share of positives in bins of equal mass."""
    bins = calibration_bins(probability)
    rows = [(probability[bins == b].mean(), labels[bins == b].mean(), int((bins == b).sum())) for b in np.unique(bins)]
    return pd.DataFrame(rows, columns=["mean_probability", "observed_share", "slices"])


def risk_coverage_table(measures: dict[str, Any]) -> pd.DataFrame:
    """Coverage against the error rate among the surest slices, a column per measure; from metrics/safety.json."""
    table = pd.DataFrame({name: entry["error_rate_at_coverage"] for name, entry in measures.items()})
    table.index = pd.Index([float(coverage) for coverage in table.index], name="coverage")
    return table.sort_index().reset_index()


def _thin(frame: pd.DataFrame) -> pd.DataFrame:
    if len(frame) <= POINTS:
        return frame
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, POINTS).astype(int))]


def training_table(folders: list[Path]) -> pd.DataFrame:
    """history.csv of every fold, one under the other, with its stage and fold; fine-tuning epochs count on from training."""
    frames = []
    for folder in folders:
        history = pd.read_csv(folder / "history.csv")
        stage = "train_fold" if folder.parent.name == "folds" else "hnm"
        frames.append(history.assign(stage=stage, fold=f"fold {folder.name}"))
    last = max(
        (int(frame["epoch"].max()) for frame in frames if len(frame) and frame["stage"].iloc[0] == "train_fold"), default=0
    )
    for frame in frames:
        if len(frame) and frame["stage"].iloc[0] == "hnm":
            frame["epoch"] += last
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def training_curves(training: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column of the training table with a column per fold. dvc.yaml draws folds 0 to 4, so these are always there."""
    curves = training.pivot(index="epoch", columns="fold", values=column)
    return curves.reindex(columns=sorted({*curves.columns, *(f"fold {k}" for k in range(5))}))


def draw(
    parts: list[Scored],
    training: pd.DataFrame,
    measures: dict[str, Any],
    worth: dict[str, list[dict[str, Any]]],
    target: Path,
    title: str,
) -> None:
    """Write the pictures into an existing folder: roc, pr, confusion, calibration, probabilities, net_benefit, risk_coverage and
    training, each .png. `measures` are those of metrics/safety.json, `worth` the `net_benefit` of each part's metrics.
    """
    tables = {scored.part: plot_tables(scored) for scored in parts}
    base_rate = {scored.part: scored.labels.mean() for scored in parts}
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    _draw_roc(tables, target / "roc.png", title)
    _draw_pr(tables, base_rate, target / "pr.png", title)
    _draw_confusion(parts, target / "confusion.png", title)
    _draw_calibration(tables, target / "calibration.png", title)
    _draw_probabilities(tables, target / "probabilities.png", title)
    _draw_net_benefit(tables, base_rate, worth, target / "net_benefit.png", title)
    _draw_risk_coverage(measures, target / "risk_coverage.png", title)
    _draw_training(training, target / "training.png", title)


def _save(figure: plt.Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, bbox_inches="tight")
    plt.close(figure)


def _square(title: str, xlabel: str, ylabel: str) -> tuple[plt.Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(5.6, 5.4))
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_title(title, fontsize=10)
    return figure, axes


def _draw_roc(tables: dict[str, dict[str, pd.DataFrame]], path: Path, title: str) -> None:
    figure, axes = _square(f"ROC, slices\n{title}", "1 − specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="chance")
    for part, table in tables.items():
        axes.plot(*table["roc"].to_numpy().T, color=COLOURS[part], label=PART_NAMES[part])
    axes.legend(loc="lower right")
    _save(figure, path)


def _draw_pr(tables: dict[str, dict[str, pd.DataFrame]], base_rate: dict[str, float], path: Path, title: str) -> None:
    figure, axes = _square(f"Precision and recall, slices\n{title}", "recall (sensitivity)", "precision (PPV)")
    for part, table in tables.items():
        axes.plot(*table["pr"].to_numpy().T, color=COLOURS[part], label=PART_NAMES[part])
        axes.axhline(
            base_rate[part], color=COLOURS[part], linestyle=":", linewidth=1, label=f"share of positives, {PART_NAMES[part]}"
        )
    axes.legend(loc="best", fontsize=9)
    _save(figure, path)


def _draw_confusion(parts: list[Scored], path: Path, title: str) -> None:
    figure, panels = plt.subplots(1, len(parts), figsize=(4.4 * len(parts), 4.4), squeeze=False)
    for axes, scored in zip(panels[0], parts, strict=True):
        counts = np.zeros((2, 2), int)
        np.add.at(counts, (scored.labels, scored.decision), 1)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row in range(2):
            for column in range(2):
                colour = "white" if share[row, column] > 0.5 else "black"
                text = f"{counts[row, column]}\n{share[row, column]:.0%}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
        axes.set(xticks=[0, 1], yticks=[], xticklabels=CLASS_COLOURS, xlabel="decision")
        axes.set_title(f"{PART_NAMES[scored.part]}, n = {len(scored.labels)} slices", fontsize=10)
    panels[0][0].set(ylabel="label", yticks=[0, 1], yticklabels=CLASS_COLOURS)
    figure.suptitle(f"Decisions, slices\n{title}", fontsize=10, y=1.04)
    _save(figure, path)


def _draw_calibration(tables: dict[str, dict[str, pd.DataFrame]], path: Path, title: str) -> None:
    figure, axes = _square(
        f"Calibration in bins of equal size, slices\n{title}", "mean predicted probability", "observed share of positives"
    )
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="perfect")
    for part, table in tables.items():
        points = table["calibration"]
        axes.plot(points["mean_probability"], points["observed_share"], "o-", color=COLOURS[part], label=PART_NAMES[part])
    before = tables["oof"]["calibration_before"]
    axes.plot(before["mean_probability"], before["observed_share"], "x--", color="0.4", label="out-of-fold, before calibration")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=9)  # below: the curves may be anywhere
    _save(figure, path)


def _draw_probabilities(tables: dict[str, dict[str, pd.DataFrame]], path: Path, title: str) -> None:
    figure, panels = plt.subplots(1, len(tables), figsize=(5.4 * len(tables), 4), squeeze=False, sharey=True)
    for axes, (part, table) in zip(panels[0], tables.items(), strict=True):
        points = table["probabilities"]
        for name, colour in CLASS_COLOURS.items():
            axes.stairs(points[name], np.linspace(0, 1, 21), color=colour, label=name, fill=True, alpha=0.45)
        axes.set(xlabel="calibrated probability", xlim=(0, 1))
        axes.set_title(PART_NAMES[part], fontsize=10)
    panels[0][0].set_ylabel("share of the class's slices")
    panels[0][0].legend()
    figure.suptitle(f"Calibrated probabilities, slices\n{title}", fontsize=10, y=1.04)
    _save(figure, path)


def _draw_net_benefit(
    tables: dict[str, dict[str, pd.DataFrame]],
    base_rate: dict[str, float],
    worth: dict[str, list[dict[str, Any]]],
    path: Path,
    title: str,
) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    for (part, table), aside in zip(tables.items(), (-0.004, 0.004), strict=False):  # so that two bars do not hide each other
        points, name = table["net_benefit"], PART_NAMES[part]
        axes.plot(points["threshold"], points["model"], color=COLOURS[part], label=f"model, {name}")
        known = [entry for entry in worth[part] if entry["model"]["ci95"]]
        at, ends = [entry["threshold"] + aside for entry in known], np.array([entry["model"]["ci95"] for entry in known])
        axes.vlines(at, *ends.reshape(-1, 2).T, color=COLOURS[part], linewidth=2, alpha=0.6, label=f"95 % interval, {name}")
        axes.plot(points["threshold"], points["everybody"], color=COLOURS[part], linestyle=":", label=f"everybody, {name}")
    axes.axhline(0, color="0.4", linewidth=1, label="nobody")
    share = max(base_rate.values())
    top = max(1.05 * share, *(entry["model"]["ci95"][1] for part in tables for entry in worth[part] if entry["model"]["ci95"]), 0)
    axes.set(xlabel="probability from which one would act", ylabel="net benefit per slice", xlim=(0, 1))
    axes.set_ylim(-0.3 * share, 1.05 * top)
    axes.set_title(f"Decision curve, slices\n{title}", fontsize=10)
    axes.legend(loc="upper right", fontsize=9)
    _save(figure, path)


def _draw_risk_coverage(measures: dict[str, Any], path: Path, title: str) -> None:
    risks = risk_coverage_table(measures)
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    for number, (name, marker) in enumerate(zip(risks.columns[1:], "osDv^", strict=False)):
        area = figure_text({"value": measures[name]["aurc"], "ci95": measures[name]["aurc_ci95"]})
        label = f"{name.replace('_', ' ')}: {area}"
        axes.plot(risks["coverage"], risks[name], marker=marker, color=MEASURE_COLOURS[number], label=label)
    axes.set(xlabel="share of slices that are answered (the surest)", ylabel="error rate among them", xlim=(0, 1.02))
    axes.set_ylim(bottom=0)
    axes.set_title(f"Answering less, erring less: out-of-fold slices\n{title}", fontsize=10)
    heading = "mean error rate over all shares [95 % interval]"
    place = (0.5, -0.15)  # below: the curves may be anywhere
    axes.legend(loc="upper center", bbox_to_anchor=place, ncols=2, fontsize=9, title=heading, title_fontsize=9)
    _save(figure, path)


def _draw_training(training: pd.DataFrame, path: Path, title: str) -> None:
    folds, colours = list(training.groupby("fold")), plt.get_cmap("viridis")
    figure, panels = plt.subplots(1, 2, figsize=(10.8, 4))
    names = {"loss": "training loss", "held_out_log_loss": "held-out log loss (watched only)"}
    for axes, (column, name) in zip(panels, names.items(), strict=True):
        for number, (fold, rows) in enumerate(folds):
            axes.plot(rows["epoch"], rows[column], marker=".", label=fold, color=colours(number / len(folds)))
        axes.set(xlabel="epoch (fine-tuning on hard slices last)", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[1].legend(fontsize=9)
    figure.suptitle(f"Training of the folds\n{title}", fontsize=10, y=1.02)
    _save(figure, path)
