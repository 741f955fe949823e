"""Stage `audit`: data/prepared → metrics/audit.json, reports/audit.html. Fails on an error that `audit.allow` does not name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strokect.audit import audit_cohort, build_report, check_allow
from strokect.audit_page import render_page
from strokect.errors import AuditError, run_stage
from strokect.files import write_json, write_text
from strokect.manifest import Prepared, load_prepared


def audit(prepared: Prepared, allow: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The prepared cohort → (content of audit.json, the page)."""
    check_allow(allow)
    report = build_report(audit_cohort(prepared.manifest, prepared.images, prepared.cohort), allow)
    facts = {
        "source": prepared.cohort.get("source", "unknown"),
        "labels": f"{prepared.cohort.get('labels', 'unknown')} (per {prepared.cohort['label_unit']})",
        "slices": f"{len(prepared.manifest):,}",
        "positive slices": f"{int(prepared.labels.sum()):,}",
        "patients": f"{prepared.manifest['patient'].nunique():,}",
    }
    return report, render_page(report, facts)


def raise_if_failed(report: dict[str, Any]) -> None:
    """Raise AuditError naming every check whose error is not allowed."""
    failed = [f for f in report["findings"] if f["severity"] == "error" and f["check"] not in report["allowed"]]
    if failed:
        details = "; ".join(f"{finding['check']}: {finding['message']}" for finding in failed)
        names = ", ".join(finding["check"] for finding in failed)
        raise AuditError(
            f"{details}. See reports/audit.html. Repair the data, or add {names} to audit.allow in params.yaml to go on knowingly"
        )


def main() -> None:
    """Read params and data/prepared, always write both reports, then fail if there is something to fail on."""
    from strokect.params import load_params

    allow = load_params().audit.allow
    report, page = audit(load_prepared(), allow)
    write_json(Path("metrics/audit.json"), report)
    write_text(Path("reports/audit.html"), page)
    for finding in report["findings"]:
        exception = " (allowed)" if finding["check"] in report["allowed"] else ""
        print(f"{finding['severity']}{exception}: {finding['check']}: {finding['message']}")
    counts = Counter(finding["severity"] for finding in report["findings"])
    print(f"audit: {counts['error']} errors, {counts['warning']} warnings, {counts['info']} infos → reports/audit.html")
    raise_if_failed(report)


if __name__ == "__main__":
    run_stage(main)
