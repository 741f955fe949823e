"""reports/audit.html: the findings of the audit on one self-contained page, with the pictures they are about."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment

from strokect.audit import MAX_FILES
from strokect.audit_pairs import Shown


def render_page(
    report: dict[str, Any],
    facts: dict[str, Any],
    shown: Mapping[str, Sequence[Sequence[Shown]]] | None = None,
    private: bool = True,
) -> str:
    """`build_report`'s result → reports/audit.html, self-contained.

    `facts` are shown as name and value, `shown` the pictures of each check; `private`: they are pictures of patients.
    """
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    return page.render(facts=facts, max_files=MAX_FILES, shown=shown or {}, private=private, **report)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Audit of the cohort</title>
<style>
:root { color-scheme: light dark; --line: #8885; --error: #b3261e; --warning: #8a5a00; --info: #2f5d9e; --passed: #1b6e3c; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; overflow-wrap: anywhere; }
th, td { text-align: left; vertical-align: top; padding: .5rem .75rem; border-bottom: 1px solid var(--line); }
.badge { padding: .1rem .5rem; border-radius: .3rem; color: #fff; white-space: nowrap; background: var(--info); }
.error { background: var(--error); } .warning { background: var(--warning); } .passed { background: var(--passed); }
code { white-space: nowrap; }
ul { margin: .5rem 0; columns: 14rem; font-size: .9rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem; margin: .75rem 0; }
.pictures > div { display: flex; gap: .25rem; }
figure { margin: 0; width: 7.5rem; } figure img { width: 7.5rem; background: #000; display: block; }
figcaption { font-size: .75rem; line-height: 1.3; opacity: .85; }
.private { border: 2px solid var(--error); padding: .5rem .75rem; }
@media (prefers-color-scheme: dark) { body { background: #16181b; color: #e4e4e4; } }
</style>
{% set verdict, colour = ('passed', 'passed') if passed else ('failed', 'error') %}
<h1>Audit of the cohort <span class="badge {{ colour }}">{{ verdict }}</span></h1>
<p>{% for name, value in facts.items() %}{{ name }}: <b>{{ value }}</b>{{ '' if loop.last else ' · ' }}{% endfor %}</p>
{% if allowed %}
<p>Passed by a knowing exception (<code>audit.allow</code>): <b>{{ allowed | join(', ') }}</b>.</p>
{% endif %}
{% if private and shown %}
<p class="private"><b>This page holds pictures and file names of patients: do not share or commit it.</b> It lies in
<code>reports/</code>, which git ignores; DVC keeps it in its cache and in a remote beside the data itself.</p>
{% endif %}
<table>
<tr><th>Severity</th><th>Check</th><th>Finding</th></tr>
{% for finding in findings %}
<tr>
<td><span class="badge {{ finding.severity }}">{{ finding.severity }}</span>{{ ' allowed' if finding.check in allowed }}</td>
<td><code>{{ finding.check }}</code></td>
<td>{{ finding.message }}
{% if finding.check in shown %}
<div class="pictures">
{% for group in shown[finding.check] %}<div>{% for picture in group %}
<figure><img src="{{ picture.uri }}" alt="slice"><figcaption>{{ picture.file }}<br>{{ picture.about }}</figcaption></figure>
{% endfor %}</div>{% endfor %}
</div>
{% endif %}
{% if finding.files %}
<details><summary>{{ 'first ' if finding.files | length == max_files }}{{ finding.files | length }} files</summary>
<ul>{% for file in finding.files %}<li>{{ file }}</li>{% endfor %}</ul></details>
{% endif %}
</td>
</tr>
{% else %}
<tr><td colspan="3">No check found anything.</td></tr>
{% endfor %}
</table>
"""
