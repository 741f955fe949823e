"""reports/errors.html: the worst misses and false alarms with their class activation maps. A local file: it shows the slices.

Each slice is judged, and its map drawn, by the one fold model (or student of it) that held it out.
"""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from strokect.engine import FoldModel
from strokect.head_crop import whole
from strokect.overlay import blend, spread

SHOWN = 12  # of either kind
PER_PATIENT = 2  # or one hard patient would fill the sheet
SIDE = 192  # pixels of a drawn slice


def worst(oof: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The misses with the lowest and the false alarms with the highest probability, worst first, at most PER_PATIENT each.

    `oof` is models/oof.csv: columns patient, label, decision, probability.
    """
    missed = oof[(oof["label"] == 1) & (oof["decision"] == 0)].sort_values("probability", kind="stable")
    alarms = oof[(oof["label"] == 0) & (oof["decision"] == 1)].sort_values("probability", ascending=False, kind="stable")
    return {
        name: rows.groupby("patient", sort=False).head(PER_PATIENT).head(SHOWN)
        for name, rows in (("missed", missed), ("false alarms", alarms))
    }


def with_map(image: NDArray[np.uint8], model: FoldModel) -> tuple[str, str, bool]:
    """A prepared slice (C, S, S) uint8 → two PNG data URIs, its first channel and that with the class activation map over it, and
    whether the map is blank: no place of the slice speaks for the target.
    """
    grey = np.array(Image.fromarray(image[0]).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    activation = model.run_whole(image).activation
    strongest = float(np.maximum(activation, 0).max())
    strength = spread(activation, SIDE, SIDE, whole(SIDE, SIDE), (SIDE, SIDE)) / (strongest or 1.0)
    return _uri(grey), _uri(blend(grey, strength)), strongest == 0


def error_sheet(oof: pd.DataFrame, images: NDArray[np.uint8], exports: Path, facts: dict[str, Any]) -> str:
    """The page. `oof` is models/oof.csv with a column `row`: the place in `images` (N, C, S, S). `facts`: target,
    synthetic, group_by, drawn_for (which models), and whether the fold models are students.
    """
    models: dict[int, FoldModel] = {}
    kinds = []
    for name, rows in worst(oof).items():
        cards = []
        for entry in rows.to_dict("records"):
            fold = int(entry["fold"])
            if fold not in models:
                models[fold] = FoldModel(exports / str(fold))
            plain, mapped, blank = with_map(np.asarray(images[int(entry["row"])]), models[fold])
            cards.append(
                {"plain": plain, "mapped": mapped, "blank": blank, **{key: entry[key] for key in ("probability", "file", "fold")}}
            )
        kinds.append({"name": name, "cards": cards})
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return page.from_string(PAGE).render(kinds=kinds, **facts)


def _uri(pixels: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Worst errors</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1rem auto; padding: 0 1rem; }
.warn { border: 2px solid #b3261e; border-radius: .4rem; padding: .5rem .8rem; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
figure { margin: 0; } figure div { display: flex; gap: 2px; background: #000; }
img { width: 50%; min-width: 0; image-rendering: auto; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
@media print { figure { break-inside: avoid; } }
</style>
<h1>Worst errors, out-of-fold</h1>
{% if not synthetic %}<p class="warn"><b>Pictures of patients: do not share, and do not commit.</b></p>{% endif %}
<p>Models of operating point <code>{{ drawn_for }}</code> (the first digits of the SHA-256 of models/operating_point.json).
DVC does not keep this page: after a checkout, <code>python -m stages.report</code> draws that of the models that are there.</p>
<p>Target: {{ target }}. Left the slice as the model sees it, right what speaks for the target in it: the class activation map
of the {{ 'student of the one fold that never saw' if student else 'fold model that never trained on' }} this
{{ 'patient' if group_by == 'patient' else 'slice' }}.
{% if group_by != 'patient' %}Slices were dealt out one by one: it did train on others of the same patient. {% endif %}
A map says where the model looked, not where a lesion is. A map without colour is no fault of the page: only what speaks
<em>for</em> the target is drawn, and in a slice that was missed often nothing does; the right picture then equals the left.</p>
{% for kind in kinds %}
<h2>{{ kind.name | capitalize }}: {{ kind.cards | length }} shown</h2>
<div class="sheet">
{% for card in kind.cards %}
<figure><div><img src="{{ card.plain }}" alt="slice"><img src="{{ card.mapped }}" alt="class activation map"></div>
<figcaption>probability {{ '%.3f' | format(card.probability) }}, fold {{ card.fold }}, {{ card.file }}{{
 '; no place speaks for the target' if card.blank }}</figcaption></figure>
{% else %}<p>None.</p>
{% endfor %}</div>
{% endfor %}
</html>
"""
