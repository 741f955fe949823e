"""reports/audit.html: the findings of the audit on one self-contained page, with the pictures they are about."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment

from strokect.audit import MAX_FILES
from strokect.audit_advice import ADVICE
from strokect.audit_pairs import Shown
from strokect.finding import Finding, count


def render_page(
    report: dict[str, Any],
    findings: Sequence[Finding],
    facts: dict[str, Any],
    *,
    shown: Mapping[str, Sequence[Sequence[Shown]]] | None = None,
    where: Mapping[str, str] | None = None,
    private: bool = True,
) -> str:
    """`build_report`'s result and the findings behind it → reports/audit.html, self-contained.

    `facts` are shown as name and value, `shown` the pictures of each check, `where` what stands for a file in audit.json and in
    logs; `private`: they are pictures of patients.
    """
    shown, where = shown or {}, where or {}
    severities = [found.severity for found in findings]
    blocking = [f.check for f in findings if f.severity == "error" and f.check not in report["allowed"]]
    cards = [
        {
            "check": found.check,
            "severity": found.severity,
            "allowed": found.severity == "error" and found.check in report["allowed"],
            "message": found.message,
            "details": found.details,
            "advice": ADVICE[found.check],
            "pictures": shown.get(found.check, ()),
            "of": len(found.pairs) or len(found.files),
            "kind": "pairs" if found.pairs else "files",
            "n_files": len(found.files),
            "files": [(file, where.get(file, "")) for file in found.files[:MAX_FILES]],
        }
        for found in findings
    ]
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    numbers = [count(severities.count(name), name) for name in ("error", "warning", "info")]
    return page.render(facts=facts, cards=cards, numbers=numbers, blocking=blocking, private=private and bool(cards), **report)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Audit of the cohort</title>
<style>
:root { color-scheme: light dark; --line: #8885; --error: #b3261e; --warning: #8a5a00; --info: #2f5d9e; --passed: #1b6e3c; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1, h2 { line-height: 1.3; } h2 { font-size: 1.1rem; margin: 0 0 .25rem; }
section { border: 1px solid var(--line); border-left: .4rem solid var(--info); border-radius: .3rem; padding: .75rem 1rem;
  margin: 1rem 0; break-inside: avoid-page; }
section.error { border-left-color: var(--error); } section.warning { border-left-color: var(--warning); }
section p { margin: .25rem 0; }
.badge { padding: .1rem .5rem; border-radius: .3rem; color: #fff; white-space: nowrap; background: var(--info); font-size: .9em; }
.badge.error { background: var(--error); } .badge.warning { background: var(--warning); }
.badge.passed { background: var(--passed); }
ul { margin: .5rem 0; columns: 18rem; font-size: .9rem; } summary { cursor: pointer; }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem; margin: .75rem 0 .25rem; }
.pictures > div { display: flex; gap: .25rem; border: 1px solid var(--line); border-radius: .3rem; padding: .4rem; }
figure { margin: 0; width: 9rem; } figure img { width: 100%; background: #000; display: block; image-rendering: pixelated; }
figcaption { font-size: .8rem; line-height: 1.35; } figcaption b { display: block; }
.private { border: 2px solid var(--error); padding: .5rem .75rem; }
.note { opacity: .8; font-size: .9rem; }
@media (prefers-color-scheme: dark) { body { background: #16181b; color: #e4e4e4; } }
@media (max-width: 30rem) { figure { width: calc(50vw - 3.75rem); } }
</style>
{% set verdict, colour = ('passed', 'passed') if passed else ('failed', 'error') %}
<h1>Audit of the cohort <span class="badge {{ colour }}">{{ verdict }}</span></h1>
<p>{% for name, value in facts.items() %}{{ name }}: <b>{{ value }}</b>{{ '' if loop.last else ' · ' }}{% endfor %}</p>
{% if cards %}
<p>{{ numbers | join(', ') }}, the worst first.
{% if blocking %}
The pipeline stops until the data are repaired, or <code>audit.allow</code> in params.yaml names
{% for check in blocking %}<code>{{ check }}</code>{{ '' if loop.last else ', ' }}{% endfor %}:
then it goes on, and every later report says so.
{% endif %}
</p>
{% endif %}
{% if allowed %}
<p>Passed by a knowing exception (<code>audit.allow</code>): <b>{{ allowed | join(', ') }}</b>.</p>
{% endif %}
{% if private %}
<p class="private"><b>This page holds pictures and file names of patients: do not share or commit it.</b> It lies in
<code>reports/</code>, which git ignores; DVC keeps it in its cache and in a remote beside the data itself. metrics/audit.json and
logs say rows of data/prepared/manifest.csv instead.</p>
{% endif %}
{% for card in cards %}
<section class="{{ card.severity }}">
<h2><span class="badge {{ card.severity }}">{{ card.severity }}{{ ', allowed' if card.allowed }}</span>
<code>{{ card.check }}</code></h2>
<p>{{ card.message }}{{ "" if card.message[-1] in ".?" else "." }}</p>
{% if card.details %}
<p>{{ card.details }}</p>
{% endif %}
<p><b>What to do:</b> {{ card.advice }}</p>
{% if card.pictures %}
<div class="pictures">
{% for group in card.pictures %}<div>{% for picture in group %}
<figure><img src="{{ picture.uri }}" alt="slice"><figcaption><b>{{ picture.about }}</b>{{ picture.file }}</figcaption></figure>
{% endfor %}</div>{% endfor %}
</div>
{% if card.pictures | length < card.of %}
<p class="note">{{ card.pictures | length }} of {{ '{:,}'.format(card.of) }} {{ card.kind }} shown.</p>
{% endif %}
{% endif %}
{% if card.files %}
<details><summary>{% if card.files | length < card.n_files %}first {{ card.files | length }} of {% endif %}
{{ '{:,}'.format(card.n_files) }} {{ 'file' if card.n_files == 1 else 'files' }}</summary>
<ul>
{% for file, row in card.files %}
<li>{{ file }}{% if row %} <span class="note">({{ row }})</span>{% endif %}</li>
{% endfor %}
</ul></details>
{% endif %}
</section>
{% else %}
<p>No check found anything.</p>
{% endfor %}
"""
