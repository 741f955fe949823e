"""report: metrics, audit, plots and params of this run → reports/report.html, one page that needs no network."""

from pathlib import Path

import pandas as pd
import yaml

from strokect.checklists import CHECKLISTS, fill
from strokect.error_sheet import error_sheet
from strokect.errors import run_stage
from strokect.files import read_json, sha256_file, write_text
from strokect.manifest import PREPARED, load_prepared
from strokect.openings import OPENINGS, hash_of_part
from strokect.report_facts import opened, report_facts, revision
from strokect.report_page import render_report
from strokect.report_sections import sections
from strokect.reporting import read_audit
from strokect.shipping import EXPORTS, shipped_folders
from strokect.sidecar import read_sidecar
from strokect.split_seeds import seeds_section
from strokect.splits import SPLIT, development_rows, read_split, rows_of_test_part

REPORT = Path("reports/report.html")
ERRORS = Path("reports/errors.html")


def main() -> None:
    """Write reports/report.html and reports/errors.html."""
    params_text = Path("params.yaml").read_text(encoding="utf-8")
    metrics, point = read_json("metrics/evaluate.json"), read_json("models/operating_point.json")
    oof_metrics = read_json("metrics/oof.json")
    cohort, safety = read_json(PREPARED / "cohort.json"), read_json("metrics/safety.json")
    prepared = load_prepared()
    split = read_split(SPLIT, prepared.manifest)
    test = rows_of_test_part(split)
    of_test = hash_of_part(cohort["source"], prepared.manifest["sha256"].to_numpy(str)[test]) if len(test) else None
    sidecar = read_sidecar(shipped_folders(point)[0])
    facts = report_facts(
        metrics=metrics,
        oof=oof_metrics,
        safety=safety,
        audit=read_audit(),
        split=read_json("metrics/split.json"),
        point=point,
        sidecar=sidecar,
        cohort=cohort,
        params=yaml.safe_load(params_text),
        openings=opened(OPENINGS, of_test, cohort["data_sha256"], cohort["synthetic"]),
        commit=revision(Path()),
    )
    seeds = seeds_section(cohort)
    extras = ([seeds] if seeds else []) + sections(metrics, oof_metrics, safety, point)
    checklists = {name: fill(items, facts) for name, items in CHECKLISTS.items()}
    write_text(REPORT, render_report(facts, Path("reports/plots"), extras, checklists, params_text))
    oof = pd.read_csv("models/oof.csv", dtype={"file": str, "patient": str})
    oof["row"] = development_rows(split)
    of_model = {"group_by": sidecar["group_by"], "student": "taught_by" in sidecar}
    of_model |= {"drawn_for": sha256_file("models/operating_point.json")[:12]}
    write_text(ERRORS, error_sheet(oof, prepared.images, EXPORTS, cohort | of_model))
    print(f"{REPORT}: {REPORT.stat().st_size / 1e6:.1f} MB; open it in a browser, it needs no network")
    print(
        f"{ERRORS}: the worst misses and false alarms" + ("" if cohort["synthetic"] else "; pictures of patients: do not share")
    )


if __name__ == "__main__":
    run_stage(main)
