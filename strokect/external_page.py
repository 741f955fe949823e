"""external.html: the figures and the shift of external data as one page that needs no network; names nobody."""

from html import escape
from typing import Any

from strokect.abstention import DECISIONS
from strokect.reporting import CLASS_WORDS, FIGURES, figure_text
from strokect.shift import shift_rows, verdict_lines
from strokect.shift_reference import BIN_WIDTH, GREY_BINS, HEAD

STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color: #1a1a1a; background: #fff }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .5rem; border-bottom: 1px solid #ccc; vertical-align: top }
.wide { overflow-x: auto } .note { border-left: 4px solid #d55e00; padding-left: .6rem }
svg { width: 100%; height: auto }
"""
DEVELOPMENT, EXTERNAL = "#0072b2", "#d55e00"  # Okabe and Ito: told apart by the colour-blind, and drawn with different dashes
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 240, 48, 40  # of the drawing, in its own units


def external_page(metrics: dict[str, Any]) -> str:
    """The page of one external.json."""
    release, shift = metrics["release"]["version"], metrics["shift"]
    counts = f"{metrics['n_slices']} slices of {metrics['n_patients']} patients ({metrics['n_positive_patients']} positive)"
    figures = [
        [name.replace("_", " "), *(figure_text(metrics[level][name]) for level in ("slice", "patient"))] for name in FIGURES
    ]
    parts = [
        f"<h1>Release {escape(release)} on external data</h1>",
        f"<p>Target: <b>{escape(metrics['target'])}</b>. Source: {escape(metrics['source'])}, {counts}. "
        "Research software, not a medical device.</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in metrics["notes"]),
        "<h2>In short</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in verdict_lines(shift)) + "</ul>",
        "<h2>Figures</h2>" + _table(["", "slice", "patient"], figures),
        f"<p>{escape(metrics['interval'])}</p>",
        "<h2>Against the development data</h2>" + _table(["", "external", "development", "verdict"], shift_rows(shift)),
    ]
    parts.insert(-1, "<h2>What the service would answer</h2>" + _table(["label", *DECISIONS], _answers(metrics["policy"])))
    if shift["intensity"]:
        parts.append("<h2>Grey levels of the head</h2>" + _histogram(shift["intensity"][HEAD]["histogram"]))
    parts += [f"<p>{escape(note)}</p>" for note in shift["notes"]]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>External data</title><style>{STYLE}'
    return f'<!doctype html><html lang="en"><head>{head}</style></head><body>{"".join(parts)}</body></html>\n'


def _answers(policy: dict[str, Any]) -> list[list[str]]:
    """Slices by label and answer: figures of the models say nothing of what the gate lets through."""
    return [[CLASS_WORDS[label], *(str(counts[d]) for d in DECISIONS)] for label, counts in policy["counts"].items()]


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _histogram(shares: dict[str, list[float]]) -> str:
    """Share of the head's pixels at each grey level, both cohorts as step lines."""
    top = max(max(values) for values in shares.values()) or 1.0
    x = [LEFT + (WIDTH - LEFT - 8) * i / GREY_BINS for i in range(GREY_BINS + 1)]

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 24) * value / top

    lines = []
    for at, (name, colour, dash) in enumerate((("development", DEVELOPMENT, "none"), ("external", EXTERNAL, "6 3"))):
        points = " ".join(f"{a:.1f},{y(v):.1f} {b:.1f},{y(v):.1f}" for a, b, v in zip(x, x[1:], shares[name], strict=False))
        line = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        lines.append(f'<polyline points="{points}" {line}/><path d="M{LEFT + 8 + 130 * at} 12h24" {line}/>')
        lines.append(f'<text x="{LEFT + 38 + 130 * at}" y="16">{name}</text>')
    ticks = [
        f'<text x="{x[level // BIN_WIDTH]:.0f}" y="{HEIGHT - 24}" text-anchor="middle">{level}</text>'
        for level in range(0, 256, 64)
    ]
    ticks += [f'<text x="{LEFT - 4}" y="{y(s) + 4:.0f}" text-anchor="end">{100 * s:.1f} %</text>' for s in (0.0, top)]
    axis = f'<path d="M{LEFT} {y(0):.0f}H{WIDTH - 8}" stroke="#666"/>'
    label = f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">grey level</text>'
    inside = "".join([axis, label, *ticks, *lines])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12" role="img" aria-label="Grey levels of the head">{inside}</svg>'
