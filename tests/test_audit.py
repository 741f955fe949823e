"""The audit: each check fires on a planted case and is silent on clean data; nothing it allows is forgotten."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from stages import audit as stage
from strokect import params as params_module
from strokect.audit import CHECKS, MAX_FILES, Finding, audit_cohort, build_report, check_allow
from strokect.audit_page import render_page
from strokect.errors import DataError, ParamsError, run_stage


def test_ids_that_are_those_of_pictures_are_an_error() -> None:
    rows = pd.DataFrame({"file": [f"{i}.png" for i in range(20)], "patient": [str(i) for i in range(20)], "label": 0})
    rows["sha256"] = rows["file"]
    images = np.random.default_rng(1).integers(0, 256, (20, 1, 32, 32), np.uint8)
    cohort = {"label_unit": "slice", "left_out": [], "unreadable": [], "patient_labels": {}}
    assert [f.check for f in audit_cohort(rows, images, cohort)] == ["one_slice_per_patient"]
    rows["patient"] = [str(i // 4) for i in range(20)]
    assert audit_cohort(rows, images, cohort) == []


class Case:
    """Four patients of three slices, clean until a test spoils something."""

    def __init__(self) -> None:
        names = [(patient, order) for patient in "abcd" for order in range(3)]
        self.manifest = pd.DataFrame(
            {
                "file": [f"{patient} ({order}).jpg" for patient, order in names],
                "patient": [patient for patient, _ in names],
                "slice": [order for _, order in names],
                "label": [int(patient in "ab") for patient, _ in names],
                "sha256": [f"{i:064x}" for i in range(12)],
                "source": "made up",
                "width": 32,
                "height": 32,
            }
        )
        self.images: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (12, 1, 32, 32), np.uint8)
        self.cohort: dict[str, Any] = {
            "source": "made up",
            "labels": "slice",
            "label_unit": "patient",
            "target": "haemorrhage",
            "left_out": [],
            "unreadable": [],
            "patient_labels": {patient: {"folder": int(patient in "ab"), "table": int(patient in "ab")} for patient in "abcd"},
        }

    def findings(self) -> dict[str, Finding]:
        return {finding.check: finding for finding in audit_cohort(self.manifest, self.images, self.cohort)}

    def copy_pixels(self, source: int, target: int) -> None:
        self.images[target] = self.images[source]

    def copy_file(self, source: int, target: int) -> None:
        self.copy_pixels(source, target)
        self.manifest.loc[target, "sha256"] = str(self.manifest["sha256"][source])

    def save(self, root: Path) -> None:
        folder = root / "data" / "prepared"
        folder.mkdir(parents=True)
        self.manifest.to_csv(folder / "manifest.csv", index=False)
        np.save(folder / "images.npy", self.images)
        (folder / "cohort.json").write_text(json.dumps(self.cohort))


@pytest.fixture
def case() -> Case:
    return Case()


def test_clean_cohort_has_no_findings(case: Case) -> None:
    assert case.findings() == {}
    assert build_report([], []) == {"passed": True, "allowed": [], "findings": []}


@pytest.mark.parametrize("copy", [Case.copy_pixels, Case.copy_file])
def test_identical_across_patients(case: Case, copy: Any) -> None:
    copy(case, 0, 3)
    found = case.findings()
    assert list(found) == ["identical_across_patients"]
    assert found["identical_across_patients"].severity == "error"
    assert found["identical_across_patients"].files == ("a (0).jpg", "b (0).jpg")
    exact = int(copy is Case.copy_file)
    assert f"1 group, {exact} with identical bytes" in found["identical_across_patients"].message


def test_identical_across_classes(case: Case) -> None:
    case.copy_pixels(0, 11)
    found = case.findings()
    assert set(found) == {"identical_across_patients", "identical_across_classes"}
    assert found["identical_across_classes"].files == ("a (0).jpg", "d (2).jpg")


def test_identical_within_patient_is_a_warning(case: Case) -> None:
    case.copy_file(0, 1)
    found = case.findings()
    assert list(found) == ["identical_within_patient"]
    assert found["identical_within_patient"].severity == "warning"
    assert found["identical_within_patient"].files == ("a (0).jpg", "a (1).jpg")


def test_slices_of_one_volume_are_not_identical(case: Case) -> None:
    case.manifest.loc[:2, "sha256"] = "f" * 64
    assert case.findings() == {}
    case.manifest.loc[3, "sha256"] = "f" * 64  # … but one volume belongs to one patient
    assert list(case.findings()) == ["identical_across_patients"]


def test_patient_in_two_classes_only_where_labels_are_per_patient(case: Case) -> None:
    case.manifest.loc[0, "label"] = 0
    found = case.findings()
    assert list(found) == ["patient_in_two_classes"]
    assert found["patient_in_two_classes"].files == ("a (0).jpg", "a (1).jpg", "a (2).jpg")
    assert "1 patient with" in found["patient_in_two_classes"].message
    case.cohort["label_unit"] = "slice"
    assert case.findings() == {}


def test_label_conflict_names_patients_and_sources(case: Case) -> None:
    case.cohort["patient_labels"]["c"] = {"folder": 0, "table": 1}
    case.cohort["patient_labels"]["gone"] = {"folder": 0, "table": 1}  # left out: no file in the manifest
    finding = case.findings()["label_conflict"]
    assert finding.severity == "error"
    assert finding.files == ("c (0).jpg", "c (1).jpg", "c (2).jpg")
    assert finding.message == (
        "the label sources disagree on 2 patients, 3 files in use: c (folder 0, table 1); gone (folder 0, table 1)"
    )


def test_label_conflict_reads_numeric_patient_ids(case: Case) -> None:
    case.manifest["patient"] = np.repeat([49, 50, 51, 52], 3)
    case.cohort["patient_labels"] = {"51": {"folder": 0, "table": 1}}
    assert len(case.findings()["label_conflict"].files) == 3


def test_left_out_and_unreadable_are_counted_by_reason(case: Case) -> None:
    case.cohort["left_out"] = [{"file": f"x{i}", "reason": "no rotation"} for i in range(3)]
    case.cohort["unreadable"] = [{"file": "y", "reason": "truncated"}, {"file": "z", "reason": "colour"}]
    found = case.findings()
    assert (found["left_out"].severity, found["unreadable"].severity) == ("info", "warning")
    assert found["left_out"].message == "3 files left out of the cohort: 3 × no rotation"
    assert found["unreadable"].message == "2 files could not be read: 1 × truncated; 1 × colour"
    assert list(found) == ["unreadable", "left_out"]  # the worst first


@pytest.mark.parametrize("name", ["x - Copy.jpg", "aug_1.png", "Normal/synthetic_7.png", "Bleeding/OVERLAY/10000.png"])
def test_suspicious_names(case: Case, name: str) -> None:
    case.manifest.loc[0, "file"] = name
    assert case.findings()["suspicious_names"].files == (name,)
    case.manifest.loc[0, "file"] = "Augsburg/Copyright/daughter.png"
    assert case.findings() == {}


def test_inconsistent_input_is_refused(case: Case) -> None:
    with pytest.raises(DataError, match="11 images but 12 manifest rows"):
        audit_cohort(case.manifest, case.images[:-1], case.cohort)
    with pytest.raises(DataError, match="lacks sha256"):
        audit_cohort(case.manifest.drop(columns="sha256"), case.images, case.cohort)
    del case.cohort["label_unit"]
    with pytest.raises(DataError, match="lacks label_unit"):
        audit_cohort(case.manifest, case.images, case.cohort)


def test_allow_lets_errors_pass_and_is_remembered() -> None:
    findings = [Finding("label_conflict", "error", "x", ("a",)), Finding("left_out", "info", "y", ())]
    assert build_report(findings, [])["passed"] is False
    report = build_report(findings, ["label_conflict", "identical_across_patients", "left_out"])
    assert (report["passed"], report["allowed"]) == (True, ["label_conflict"])
    assert [finding["check"] for finding in report["findings"]] == ["label_conflict", "left_out"]


def test_unknown_allow_lists_the_checks() -> None:
    check_allow(CHECKS)
    with pytest.raises(ParamsError, match=r"'label_conflicts' is not a check; known: identical_across_patients, .*left_out"):
        check_allow(["label_conflicts"])


def test_files_are_bounded() -> None:
    report = build_report([Finding("left_out", "info", "200 files", tuple(map(str, range(200))))], [])
    assert len(report["findings"][0]["files"]) == MAX_FILES


def test_page_escapes_names_and_shows_exceptions() -> None:
    findings = [Finding("label_conflict", "error", "<script>alert(1)</script>", ("<b>.jpg",))]
    page = render_page(build_report(findings, ["label_conflict"]), {"source": "<i>"})
    assert "<script" not in page and "<b>.jpg" not in page and "<i>" not in page
    assert "audit.allow" in page and "prefers-color-scheme" in page and 'class="badge passed"' in page
    assert "http" not in page and "<img" not in page  # self-contained, no pictures
    assert "No check found anything" in render_page(build_report([], []), {})


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project; `allow.json` in it stands for `audit.allow` of params.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "allow.json").write_text("[]")
    monkeypatch.setattr(
        params_module,
        "load_params",
        lambda: SimpleNamespace(audit=SimpleNamespace(allow=tuple(json.loads((tmp_path / "allow.json").read_text())))),
    )
    return tmp_path


def test_stage_writes_the_reports_and_then_fails(case: Case, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.copy_file(0, 3)
    case.save(workspace)
    with pytest.raises(SystemExit) as caught:
        run_stage(stage.main)
    assert caught.value.code == 1
    report = json.loads((workspace / "metrics/audit.json").read_text())
    assert report["passed"] is False and report["findings"][0]["files"] == ["a (0).jpg", "b (0).jpg"]
    assert "failed" in (workspace / "reports/audit.html").read_text()
    output = capsys.readouterr()
    assert "1 errors, 0 warnings, 0 infos" in output.out
    assert "identical_across_patients" in output.err and "audit.allow" in output.err

    (workspace / "allow.json").write_text('["identical_across_patients"]')
    run_stage(stage.main)
    report = json.loads((workspace / "metrics/audit.json").read_text())
    assert (report["passed"], report["allowed"]) == (True, ["identical_across_patients"])
    assert "error (allowed): identical_across_patients" in capsys.readouterr().out


def test_stage_refuses_an_unknown_exception(case: Case, workspace: Path) -> None:
    case.save(workspace)
    (workspace / "allow.json").write_text('["everything"]')
    with pytest.raises(ParamsError, match="'everything' is not a check"):
        stage.main()


def test_command_exits_non_zero(tmp_path: Path) -> None:
    """As DVC runs it, here in a folder without params.yaml."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "stages.audit"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "params.yaml is missing" in done.stderr and "Traceback" not in done.stderr


def test_blank_slices_are_a_warning_and_no_copies() -> None:
    """Above the vertex a window shows nothing: 'identical' there means nothing, and must not be allowed away."""
    case = Case()
    case.images[[2, 5, 8]] = 0
    findings = audit_cohort(case.manifest, case.images, case.cohort)
    assert [(finding.check, finding.severity) for finding in findings] == [("blank_slices", "warning")]
    assert len(findings[0].files) == 3
