"""Stage `audit`: data/prepared and the raw files → metrics/audit.json, reports/audit.html.

Fails on an error that `audit.allow` does not name. Files and patients are only named on the page, which stays here.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from strokect.audit import audit_cohort, build_report, check_allow, references
from strokect.audit_page import render_page
from strokect.audit_pairs import draw_pairs
from strokect.errors import AuditError, run_stage
from strokect.file_facts import gather_facts
from strokect.files import write_json, write_text
from strokect.finding import count
from strokect.manifest import Prepared, has_patients, load_prepared
from strokect.params import DataParams, Params
from strokect.sources import raw_pictures, read_source

MAX_ROWS = 4  # of each finding in the console


def audit(prepared: Prepared, params: Params) -> tuple[dict[str, Any], str]:
    """The prepared cohort → (content of audit.json, the page)."""
    check_allow(params.audit.allow)
    facts = None if prepared.cohort.get("synthetic") else read_facts(prepared, params.data)
    findings = audit_cohort(prepared.manifest, prepared.images, prepared.cohort, facts, params.split)
    where = references(prepared.manifest, prepared.cohort)
    report = build_report(findings, params.audit.allow, where)
    grouped = not has_patients(prepared.cohort)
    about = {
        "source": prepared.cohort.get("source", "unknown"),
        "labels": f"{prepared.cohort.get('labels', 'unknown')} (per {prepared.cohort['label_unit']})",
        "slices": f"{len(prepared.manifest):,}",
        "positive slices": f"{int(prepared.labels.sum()):,}",
        "groups of look-alikes" if grouped else "patients": f"{prepared.manifest['patient'].nunique():,}",
    }
    pairs = draw_pairs(findings, prepared.manifest, prepared.images[:, 0], grouped)
    private = not prepared.cohort.get("synthetic", False)
    return report, render_page(report, findings, about, shown=pairs, where=where, private=private)


def read_facts(prepared: Prepared, params: DataParams) -> pd.DataFrame:
    """`file_facts` of every row of the manifest. The phantom has none: it is drawn, and no file is behind it."""
    root = Path("data/raw") / params.source
    source = read_source(params, root)
    rows = {row.file: row for row in source.rows}
    files = prepared.manifest["file"].tolist()
    pictures = raw_pictures(params, files)  # refuses files that are gone
    path_of = source.path or (lambda row: root / row.file)
    return gather_facts([path_of(rows[file]) for file in files], pictures)


def raise_if_failed(report: dict[str, Any]) -> None:
    """Raise AuditError naming every check whose error is not allowed; `main` has said what each found."""
    failed = [f["check"] for f in report["findings"] if f["severity"] == "error" and f["check"] not in report["allowed"]]
    if failed:
        names = ", ".join(failed)
        raise AuditError(
            f"the audit failed on {names}. reports/audit.html shows the files and says what to do. Repair the data, or add "
            f"{names} to audit.allow in params.yaml to go on knowingly"
        )


def console_lines(report: dict[str, Any]) -> list[str]:
    """The findings, worst first, and their number."""
    lines = []
    for finding in report["findings"]:
        exception = " (allowed)" if finding["check"] in report["allowed"] else ""
        shown = [*finding["files"][:MAX_ROWS], *(["…"] if len(finding["files"]) > MAX_ROWS else [])]
        files = f" ({', '.join(shown)})" if shown else ""
        lines.append(f"{finding['severity']}{exception}: {finding['check']}: {finding['message']}{files}")
    counts = Counter(finding["severity"] for finding in report["findings"])
    numbers = ", ".join(count(counts[name], name) for name in ("error", "warning", "info"))
    return [*lines, f"audit: {numbers} → reports/audit.html"]


def main() -> None:
    """Read params and data/prepared, always write both reports, then fail if there is something to fail on."""
    from strokect.params import load_params

    params = load_params()
    report, page = audit(load_prepared(), params)
    write_json(Path("metrics/audit.json"), report)
    write_text(Path("reports/audit.html"), page)
    print("\n".join(console_lines(report)))
    raise_if_failed(report)


if __name__ == "__main__":
    run_stage(main)
