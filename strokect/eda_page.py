"""reports/eda.html: the exploration on one self-contained page, plots in light and dark, their numbers as tables."""

from base64 import b64encode
from typing import Any

import pandas as pd
from jinja2 import Environment

from strokect.eda import CLASSES, Exploration
from strokect.eda_plots import draw, to_png

WARNING = "These are pictures of patients: do not share or commit this page or its plots."
TITLES = {
    "classes": "Classes",
    "slices_per_patient": "Slices per patient",
    "positions": "Positive slices by position",
    "intensity": "Intensity",
    "samples": "Samples",
    "age": "Age",
    "gender": "Gender",
    "subtypes": "Lesion types",
}


def render_page(seen: Exploration) -> str:
    """The page of an exploration, with every plot inside it."""
    light, dark = ({name: _data_url(to_png(figure)) for name, figure in draw(seen, theme).items()} for theme in ("light", "dark"))
    texts, tables = _texts(seen), _tables(seen)
    cards = [
        {"title": TITLES[name], "light": light[name], "dark": dark[name], "text": texts[name], "table": tables.get(name)}
        for name in light
    ]
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    warning = "" if seen.synthetic else WARNING
    return page.render(facts=seen.facts, cards=cards, warning=warning)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode()}"


def _texts(seen: Exploration) -> dict[str, str]:
    """What each plot shows, in words that a reader who cannot see it can use."""
    people, clipped = seen.patients, seen.clipped
    ends = "; ".join(f"{name} slices: {low:.0%} below, {high:.0%} above" for name, (low, high) in clipped.items())
    ages = people["age_years"].dropna()
    known = f"known for {len(ages)} of {len(people)} patients"
    where = "from the lowest fifth of a series to the highest" if seen.has_patients else "their place in the head is not known"
    return {
        "classes": f"{seen.classes['slices'].sum():,} slices of {seen.classes['patients'].sum():,} {seen.owners} by class.",
        "slices_per_patient": "How many slices a patient has; patients with many slices weigh more in slice figures.",
        "positions": "Where the label follows the position in the head, it can be guessed without looking at the brain.",
        "intensity": f"Pixels inside the window, each class adding up to 100 %. At the ends of the window, not drawn: {ends}.",
        "samples": f"Random slices, each cell's from different {seen.owners}; {where}.",
        "age": f"Median {ages.median():.0f} years, {known}." if len(ages) else "",
        "gender": f"Known for {(people['gender'] != '').sum()} of {len(people)} patients.",
        "subtypes": "A slice with several lesions counts for each of them.",
    }


def _tables(seen: Exploration) -> dict[str, dict[str, Any]]:
    people = seen.patients
    sizes = people.groupby("class")["slices"].agg(["count", "min", "median", "max"]).reindex(list(CLASSES)).dropna()
    ages = people.groupby("class")["age_years"].agg(["count", "min", "median", "max"]).reindex(list(CLASSES)).dropna()
    genders = pd.crosstab(people["gender"].replace("", "unknown"), people["class"])
    classes = seen.classes if seen.has_patients else seen.classes.rename(columns={"patients": "groups"})
    subtypes = seen.subtypes if seen.has_patients else seen.subtypes.rename(columns={"patients": "groups"})
    return {
        "classes": _table(classes),
        "slices_per_patient": _table(sizes.rename(columns={"count": "patients"})),
        "positions": _table(seen.positions),
        "age": _table(ages.rename(columns={"count": "patients"})),
        "gender": _table(genders),
        "subtypes": _table(subtypes),
    }


def _table(frame: pd.DataFrame) -> dict[str, Any]:
    values = [[f"{value:,.10g}" for value in row] for row in frame.to_numpy()]
    rows = [[str(name), *row] for name, row in zip(frame.index, values, strict=True)]
    return {"head": ["", *(str(name).replace("_", " ") for name in frame.columns)], "rows": rows}


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The cohort at a glance</title>
<style>
:root { color-scheme: light dark; --line: #8886; --page: #fff; --text: #1a1a1a; --warn: #8a1c14; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem;
  background: var(--page); color: var(--text); overflow-wrap: anywhere; }
.warning { background: var(--warn); color: #fff; padding: .75rem 1rem; border-radius: .4rem; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { opacity: .75; } dd { margin: 0; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem; align-items: start; }
section { border: 1px solid var(--line); border-radius: .4rem; padding: .75rem 1rem; min-width: 0; }
h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
img { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
summary { cursor: pointer; padding: .3rem 0; }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; } section { padding: .6rem; } }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --text: #e4e4e4; --warn: #a5332a; } }
</style>
<h1>The cohort at a glance</h1>
{% if warning %}
<p class="warning" role="note">{{ warning }}</p>
{% endif %}
<dl>
{% for name, value in facts.items() %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
<main>
{% for card in cards %}
<section>
<h2>{{ card.title }}</h2>
<picture><source media="(prefers-color-scheme: dark)" srcset="{{ card.dark }}">
<img src="{{ card.light }}" alt="{{ card.title }}: {{ card.text }}"></picture>
<p>{{ card.text }}</p>
{% if card.table %}
<details><summary>The numbers</summary>
<table>
<tr>{% for cell in card.table.head %}<th scope="col">{{ cell }}</th>{% endfor %}</tr>
{% for row in card.table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></details>
{% endif %}
</section>
{% endfor %}
</main>
</html>
"""
