"""The plots of an exploration, each 4 inches wide so that its text is readable at the width of a phone, in light and dark."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from strokect.eda import CLASSES, POSITIONS, SAMPLES_PER_CELL, UNPLACED, Exploration

WIDTH_IN = 4.0
DPI = 190
MAX_SUBTYPES, MAX_GENDERS, MAX_NAME = 12, 4, 24  # drawn; a free-text column must not make a plot of metres


@dataclass(frozen=True)
class Theme:
    """Colours of a page. Colour-blind readers tell blue and orange of Okabe and Ito apart; positives are hatched as well."""

    page: str
    text: str
    line: str
    classes: tuple[str, str]


THEMES = {
    "light": Theme("#ffffff", "#1a1a1a", "#8c8c8c", ("#0072B2", "#D55E00")),
    "dark": Theme("#16181b", "#e4e4e4", "#7d8288", ("#56B4E9", "#E69F00")),
}
HATCHES = ("", "///")
NEED_PATIENTS = ("slices_per_patient", "positions", "age", "gender")


def draw(seen: Exploration, theme: str = "light") -> dict[str, Figure]:
    """Name → figure, in the order of the page. What is not known (whose a slice is, age, gender, lesion type) is not drawn."""
    return {
        name: plot(seen, THEMES[theme])
        for name, plot in PLOTS.items()
        if (seen.has_patients or name not in NEED_PATIENTS)
        and not (name == "age" and seen.patients["age_years"].isna().all())
        and not (name == "gender" and (seen.patients["gender"] == "").all())
        and not (name == "subtypes" and seen.subtypes.empty)
    }


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes, on its theme's background."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def _canvas(theme: Theme, height_in: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH_IN, height_in), facecolor=theme.page, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for one in axes:
        one.set_facecolor(theme.page)
        one.tick_params(colors=theme.text, labelsize=10)
        for side, spine in one.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.line)
        for label in (one.xaxis.label, one.yaxis.label, one.title):
            label.set_color(theme.text)
            label.set_fontsize(10)
    return figure, axes


def _legend(axes: Axes, theme: Theme, title: str = "") -> None:
    """Above the axes, where it covers nothing."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "frameon": False, "borderaxespad": 0.2}
    legend = axes.legend(fontsize=10, labelcolor=theme.text, title=title or None, alignment="left", handlelength=1.4, **place)
    legend.get_title().set_color(theme.text)
    legend.get_title().set_fontsize(10)


def _bars(axes: Axes, counts: pd.Series, theme: Theme, title: str) -> None:
    """Horizontal bars of the two classes with their numbers."""
    total = max(int(counts.sum()), 1)
    for place, (name, count) in enumerate(counts.items()):
        number = CLASSES.index(str(name))
        axes.barh(place, count, color=theme.classes[number], hatch=HATCHES[number], edgecolor=theme.page)
        axes.annotate(
            f"{int(count):,} ({count / total:.0%})", (count, place), (5, 0), textcoords="offset points",
            va="center", color=theme.text, fontsize=10,
        )  # fmt: skip
    axes.set(yticks=range(len(counts)), yticklabels=list(counts.index), xticks=[], xlim=(0, max(counts.max(), 1) * 1.45))
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)
    axes.set_title(title, loc="left", color=theme.text, fontsize=10)


def _draw_classes(seen: Exploration, theme: Theme) -> Figure:
    figure, axes = _canvas(theme, 2.9, rows=2)
    _bars(axes[0], seen.classes["slices"], theme, "slices")
    _bars(axes[1], seen.classes["patients"], theme, f"{seen.owners} (positive: any slice is)")
    return figure


def _stacked(axes: Axes, seen: Exploration, column: str, edges: np.ndarray, theme: Theme) -> None:
    """Histogram of a number per patient, the classes on top of each other."""
    base = np.zeros(len(edges) - 1)
    for number, name in enumerate(CLASSES):
        values = seen.patients.loc[seen.patients["class"] == name, column].dropna()
        counts = np.histogram(values, edges)[0]
        style: dict[str, Any] = {"color": theme.classes[number], "hatch": HATCHES[number], "edgecolor": theme.page}
        axes.bar(edges[:-1], counts, np.diff(edges), base, align="edge", label=name, linewidth=0.6, **style)
        base += counts
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel("patients")
    _legend(axes, theme)


def _draw_slices_per_patient(seen: Exploration, theme: Theme) -> Figure:
    figure, (axes,) = _canvas(theme, 2.9)
    low, high = int(seen.patients["slices"].min()), int(seen.patients["slices"].max())
    step = max(1, -(-(high - low + 1) // 24))  # whole slices per bin, at most 24, and an empty one at each end
    _stacked(axes, seen, "slices", np.arange(low - step, high + 2 * step + 1, step) - 0.5, theme)
    axes.set_xlabel("slices per patient")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _draw_positions(seen: Exploration, theme: Theme) -> Figure:
    figure, (axes,) = _canvas(theme, 2.9)
    share = seen.positions["positive_slices"] / seen.positions["slices"].clip(lower=1)
    places = range(len(POSITIONS))
    axes.bar(places, share, color=theme.classes[1], hatch=HATCHES[1], edgecolor=theme.page)
    for place, value in zip(places, share, strict=True):
        axes.annotate(
            f"{value:.0%}", (place, value), (0, 3), textcoords="offset points", ha="center", color=theme.text, fontsize=10
        )
    axes.set_xticks(list(places), [name.replace(" ", "\n") for name in POSITIONS])
    axes.set(ylabel="positive slices", xlabel="position within the patient's slices", ylim=(0, max(share.max(), 0.01) * 1.18))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def _draw_intensity(seen: Exploration, theme: Theme) -> Figure:
    figure, (axes,) = _canvas(theme, 2.9)
    for number, name in enumerate(CLASSES):
        style: dict[str, Any] = {"color": theme.classes[number], "linestyle": ("-", "--")[number]}
        axes.plot(seen.intensity["value"], seen.intensity[name], label=name, linewidth=1.8, **style)
    axes.set(xlabel=seen.intensity_axis, ylabel="share of pixels", ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend(axes, theme)
    return figure


def _draw_samples(seen: Exploration, theme: Theme) -> Figure:
    """Rows by class, columns by position, if known; a dash where there is no such slice."""
    columns = POSITIONS if seen.has_patients else UNPLACED
    figure, axes = _canvas(theme, 4.4, rows=len(CLASSES) * SAMPLES_PER_CELL, columns=len(POSITIONS))
    cells = iter(axes)
    for number, name in enumerate(CLASSES):
        for row in range(SAMPLES_PER_CELL):
            for where in columns:
                cell, slices = next(cells), seen.samples[name, where]
                cell.set(xticks=[], yticks=[])
                for spine in cell.spines.values():
                    spine.set_visible(False)
                if row < len(slices):
                    cell.imshow(slices[row], cmap="gray", vmin=0, vmax=255)
                else:
                    cell.text(0.5, 0.5, "–", ha="center", va="center", color=theme.text, transform=cell.transAxes)
                    cell.set_box_aspect(1)
                if where == columns[0]:
                    cell.set_ylabel(name, color=theme.classes[number])
                if number == row == 0 and seen.has_patients:
                    cell.set_title(where.replace(" ", "\n"))
    if not seen.synthetic:
        figure.suptitle("pictures of patients: do not share or commit", fontsize=10, color=theme.text)
    return figure


def _draw_age(seen: Exploration, theme: Theme) -> Figure:
    figure, (axes,) = _canvas(theme, 2.9)
    highest = float(seen.patients["age_years"].max())
    _stacked(axes, seen, "age_years", np.arange(0, highest + 10.1, 10), theme)
    axes.set_xlabel("age in years")
    return figure


def _draw_gender(seen: Exploration, theme: Theme) -> Figure:
    genders = seen.patients["gender"].replace("", "unknown")
    genders = genders.where(genders.isin(genders.value_counts().index[:MAX_GENDERS]), "others").map(_short)
    figure, axes = _canvas(theme, 0.5 + 1.2 * genders.nunique(), rows=genders.nunique())
    for one, (gender, rows) in zip(axes, seen.patients.groupby(genders), strict=True):
        counts = rows["class"].value_counts().reindex(list(CLASSES), fill_value=0)
        _bars(one, counts, theme, f"{gender}, {len(rows)} patients")
    return figure


def _draw_subtypes(seen: Exploration, theme: Theme) -> Figure:
    shown = seen.subtypes.head(MAX_SUBTYPES)
    figure, (axes,) = _canvas(theme, 0.8 + 0.42 * len(shown))
    for place, (slices, patients) in enumerate(zip(shown["slices"], shown["patients"], strict=True)):
        axes.barh(place, slices, color=theme.classes[1], hatch=HATCHES[1], edgecolor=theme.page)
        text = f"{slices:,} of {patients:,} {'patients' if seen.has_patients else 'groups'}"
        axes.annotate(text, (slices, place), (5, 0), textcoords="offset points", va="center", color=theme.text, fontsize=10)
    names = [_short(str(name)) for name in shown.index]
    axes.set(yticks=range(len(names)), yticklabels=names, xticks=[], xlim=(0, shown["slices"].max() * 2.2))
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)
    more = f", the first {MAX_SUBTYPES} of {len(seen.subtypes)}" if len(seen.subtypes) > MAX_SUBTYPES else ""
    axes.set_title(f"slices that show it{more}", loc="left", color=theme.text, fontsize=10)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


PLOTS: dict[str, Callable[[Exploration, Theme], Figure]] = {
    "classes": _draw_classes,
    "slices_per_patient": _draw_slices_per_patient,
    "positions": _draw_positions,
    "intensity": _draw_intensity,
    "samples": _draw_samples,
    "age": _draw_age,
    "gender": _draw_gender,
    "subtypes": _draw_subtypes,
}
