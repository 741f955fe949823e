"""The audit: each check fires on a planted case and is silent on clean data; nothing it allows is forgotten."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import composed
from numpy.typing import NDArray

from stages import audit as stage
from stages.prepare import prepare
from strokect import params as params_module
from strokect.audit import CHECKS, MAX_FILES, audit_cohort, build_report, check_allow, references
from strokect.audit_advice import ADVICE
from strokect.audit_files import unlike_head_ct
from strokect.audit_page import render_page
from strokect.audit_pairs import MAX_SHOWN, draw_pairs
from strokect.errors import DataError, ParamsError, run_stage
from strokect.finding import Evidence, Finding
from strokect.manifest import load_prepared
from strokect.params import SplitParams
from strokect.phantom import make_cohort, window
from strokect.slices import COLOUR


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

    def findings(self, facts: pd.DataFrame | None = None, split: SplitParams | None = None) -> dict[str, Finding]:
        found = audit_cohort(self.manifest, self.images, self.cohort, facts, split)
        return {finding.check: finding for finding in found}

    def facts(self) -> pd.DataFrame:
        """Of twelve files that have nothing in common with their class."""
        row = {
            "file_kb": 50.0,
            "encoding": "PNG L",
            "frame_px": 0,
            "frame_level": 0.0,
            "letters": 0,
            "drawn": False,
            "unlike": "",
        }
        return pd.DataFrame([row] * len(self.manifest))

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
        (folder / "cohort.json").write_text(json.dumps({**self.cohort, "synthetic": True}))  # no files behind it


@pytest.fixture
def case() -> Case:
    return Case()


def test_clean_cohort_has_no_findings(case: Case) -> None:
    assert case.findings() == {}
    assert build_report([], [], {}) == {"passed": True, "allowed": [], "findings": []}


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
    assert finding.message == "the label sources disagree on 2 patients, 3 files in use"
    assert finding.details == "c (folder 0, table 1); gone (folder 0, table 1)"


def test_a_negative_slice_with_a_subtype_is_a_label_conflict(case: Case) -> None:
    case.cohort["label_unit"] = "slice"
    case.manifest["subtype"] = ["epidural"] * 6 + [""] * 6
    assert case.findings() == {}
    case.manifest.loc[6, "subtype"] = "epidural"
    finding = case.findings()["label_conflict"]
    assert (finding.severity, finding.files) == ("error", ("c (0).jpg",))
    assert finding.message == "1 negative slice with a subtype of the positive finding"
    case.cohort["labels"] = "shuffled"  # the control's labels are meant to mean nothing
    assert case.findings() == {}


def test_labels_per_series_are_checked_by_series(case: Case) -> None:
    case.cohort["label_unit"] = "series"
    case.manifest["series"] = case.manifest["patient"] + "-1"
    assert case.findings() == {}
    case.manifest.loc[0, "label"] = 0
    torn = case.findings()["patient_in_two_classes"]
    assert (torn.severity, len(torn.files)) == ("error", 3) and "labels are per series" in torn.message
    case.manifest.loc[0, "series"] = "a-0"  # before the bleed
    changed = case.findings()["patient_in_two_classes"]
    assert (changed.severity, len(changed.files)) == ("warning", 3)
    assert case.manifest["label"][list(case.manifest["file"]).index(changed.pairs[0][0])] == 0  # one of each class side by side
    del case.manifest["series"]
    assert case.findings()["patient_in_two_classes"].severity == "error"


def evidence_of(unlike: list[str], patients: list[str], labels: list[int]) -> Evidence:
    rows = pd.DataFrame({"file": [f"{i:03}" for i in range(len(unlike))], "patient": patients, "label": labels})
    nothing = np.empty((0, 2), np.int64)
    return Evidence(
        rows, (), nothing, nothing, rows[:0], {"patient_level_verifiable": True}, pd.DataFrame({"unlike": unlike}), None
    )


def test_pictures_of_something_else_are_an_error_where_a_class_is_of_them_and_a_warning_below() -> None:
    patients, labels = [f"p{i // 10}" for i in range(100)], [int(i < 20) for i in range(100)]

    def found(odd: dict[int, str]) -> Finding | None:
        return unlike_head_ct(evidence_of([odd.get(i, "") for i in range(100)], patients, labels))

    assert found({}) is None
    assert found({i * 20: "no_skull_ring" for i in range(5)}) is None  # slices of the vertex, in each patient a few
    few = found({i * 15: "no_skull_ring" for i in range(6)})
    assert few is not None and few.severity == "warning" and few.files == ("000", "015", "030", "045", "060", "075")
    patient = found(dict.fromkeys((90, 91, 92, 93, 94, 95), "bone_share,air_in_head"))  # someone's chest
    assert patient is not None and patient.severity == "warning" and patient.details == "p9"
    assert "0 of 20 positive and 6 of 80 negative slices" in patient.message
    assert "6 × too little or too much bone for a head CT slice" in patient.message and "1 patient of whom" in patient.message
    assert "p9" not in patient.message
    of_class = found(dict.fromkeys(range(11), "no_skull_ring"))  # of 20 positive ones, of 100 in all
    assert of_class is not None and of_class.severity == "error"
    groups = evidence_of(["bone_share"] * 3 + [""] * 97, patients, labels)
    alone = replace(groups, manifest=groups.manifest.assign(patient=["v"] * 3 + ["w"] * 97))  # slices of the vertex are alike
    assert unlike_head_ct(alone) is not None
    assert unlike_head_ct(replace(alone, cohort={"patient_level_verifiable": False})) is None
    assert unlike_head_ct(replace(evidence_of([""] * 4, list("aabb"), [0, 0, 1, 1]), facts=None)) is None


def test_metrics_and_console_name_no_file_and_no_patient(case: Case) -> None:
    case.manifest["patient"] = case.manifest["patient"].map(lambda name: f"Doe-{name}")
    case.manifest["file"] = [f"Doe_{name}" for name in case.manifest["file"]]
    case.manifest.loc[0, "file"] = "Doe/OVERLAY/aug_1.png"
    case.manifest.loc[0, "label"] = 0
    case.copy_file(2, 3)
    case.copy_pixels(7, 8)
    case.cohort["left_out"] = [{"file": "Doe_x", "reason": "no rotation"}]
    case.cohort["unreadable"] = [{"file": "Doe_y", "reason": COLOUR}]
    case.cohort["patient_labels"] = {"Doe-c": {"folder": 0, "table": 1}}
    where = references(case.manifest, case.cohort)
    found = case.findings(split=SplitParams(group_by="patient", test_fraction=0.0, folds=(0, 1, 2), seed=0))
    assert len(found) >= 8
    report = build_report(list(found.values()), [], where)
    assert "Doe" not in json.dumps(report) + "\n".join(stage.console_lines(report))
    files = {finding["check"]: finding["files"] for finding in report["findings"]}
    assert files["left_out"] == ["cohort.json left_out 0"] and files["suspicious_names"] == ["manifest.csv row 2"]
    assert "cohort.json unreadable 0" in files["overlays"]
    page = render_page(report, list(found.values()), {}, where=where)
    assert "Doe-c (folder 0, table 1)" in page and "Doe_x" in page  # who looks for them finds them there
    assert page.index('section class="error"') < page.index('section class="warning"') < page.index('section class="info"')


def test_every_check_says_what_to_do() -> None:
    assert set(ADVICE) == set(CHECKS)


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


def test_what_prepare_warned_of_is_in_metrics_and_on_the_page(case: Case) -> None:
    case.cohort["warnings"] = ["3 of 9 rows of labels.csv (33.3%) fit no CT slice", "2 of 4 patients have several CT series"]
    findings = list(case.findings().values())
    report = build_report(findings, [], references(case.manifest, case.cohort))
    page = render_page(report, findings, {})
    for warning in case.cohort["warnings"]:
        assert warning in report["findings"][0]["message"] and warning in page
    assert (report["passed"], report["findings"][0]["severity"]) == (True, "warning")


@pytest.mark.parametrize("name", ["x - Copy.jpg", "aug_1.png", "Normal/synthetic_7.png"])
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
    where = {"a": "manifest.csv row 2"}
    assert build_report(findings, [], where)["passed"] is False
    report = build_report(findings, ["label_conflict", "identical_across_patients", "left_out"], where)
    assert (report["passed"], report["allowed"]) == (True, ["label_conflict"])
    assert [finding["check"] for finding in report["findings"]] == ["label_conflict", "left_out"]


def test_unknown_allow_lists_the_checks() -> None:
    check_allow(CHECKS)
    with pytest.raises(ParamsError, match=r"'label_conflicts' is not a check; known: identical_across_patients, .*left_out"):
        check_allow(["label_conflicts"])


def test_files_are_bounded() -> None:
    files = tuple(map(str, range(200)))
    report = build_report([Finding("left_out", "info", "200 files", files)], [], dict(zip(files, files, strict=True)))
    assert len(report["findings"][0]["files"]) == MAX_FILES


def test_page_escapes_names_and_shows_exceptions() -> None:
    findings = [Finding("label_conflict", "error", "<script>alert(1)</script>", ("<b>.jpg",))]
    where = {"<b>.jpg": "manifest.csv row 2"}
    page = render_page(build_report(findings, ["label_conflict"], where), findings, {"source": "<i>"}, where=where)
    assert "<script" not in page and "<b>.jpg" not in page and "<i>" not in page
    assert "audit.allow" in page and "prefers-color-scheme" in page and 'class="badge passed"' in page
    assert "http" not in page and "<img" not in page  # self-contained, no pictures
    assert "No check found anything" in render_page(build_report([], [], {}), [], {})


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project; `allow.json` in it stands for `audit.allow` of params.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "allow.json").write_text("[]")
    monkeypatch.setattr(
        params_module,
        "load_params",
        lambda: SimpleNamespace(
            audit=SimpleNamespace(allow=tuple(json.loads((tmp_path / "allow.json").read_text()))), split=None
        ),
    )
    return tmp_path


def test_stage_writes_the_reports_and_then_fails(case: Case, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.copy_file(0, 3)
    case.save(workspace)
    with pytest.raises(SystemExit) as caught:
        run_stage(stage.main)
    assert caught.value.code == 1
    report = json.loads((workspace / "metrics/audit.json").read_text())
    assert report["passed"] is False and report["findings"][0]["files"] == ["manifest.csv row 2", "manifest.csv row 5"]
    page = (workspace / "reports/audit.html").read_text()
    assert "a (0).jpg" in page and "manifest.csv row 2" in page and "What to do:" in page
    assert "failed" in page and page.count('src="data:image/png;base64,') == 2  # the pair side by side
    assert "do not share" not in page  # nobody's pictures
    output = capsys.readouterr()
    assert "1 error, 0 warnings, 0 infos" in output.out
    assert "identical_across_patients" in output.err and "audit.allow" in output.err
    assert (output.out + output.err).count("hold the same picture") == 1  # each finding is said once
    assert "a (0).jpg" not in output.out + output.err and "manifest.csv row 2, manifest.csv row 5" in output.out

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


def phantom_case() -> Case:
    """The case with heads instead of noise in its pictures."""
    case = Case()
    pieces = make_cohort(patients=4, slices=4, size=96, seed=2)
    case.images = np.stack([window(piece.hu)[None] for piece in pieces if piece.slice])
    return case


def test_a_mirrored_copy_under_another_patient_is_an_error() -> None:
    case = phantom_case()
    assert case.findings() == {}
    case.images[10] = case.images[1][:, :, ::-1]
    finding = case.findings()["near_duplicates_across_patients"]
    assert finding.severity == "error"
    assert finding.files == ("a (1).jpg", "d (1).jpg") and finding.pairs == (("a (1).jpg", "d (1).jpg"),)
    assert "1 pair of different patients" in finding.message and "1 with different labels" in finding.message


def test_a_near_duplicate_within_a_patient_is_a_warning() -> None:
    case = phantom_case()
    case.images[1] = np.clip(case.images[0].astype(int) + 2 * (case.images[0] > 0), 0, 255)
    found = case.findings()
    assert list(found) == ["near_duplicates_within_patient"]
    assert found["near_duplicates_within_patient"].severity == "warning"
    assert found["near_duplicates_within_patient"].files == ("a (0).jpg", "a (1).jpg")


@pytest.mark.parametrize("ids", [True, False])
def test_an_altered_copy_with_another_label_is_an_error_and_a_neighbour_is_none(ids: bool) -> None:
    case = phantom_case()
    case.cohort |= {"label_unit": "slice", "patient_level_verifiable": ids}
    case.images[1] = np.clip(case.images[0].astype(int) + 2 * (case.images[0] > 0), 0, 255)
    assert list(case.findings()) == ["near_duplicates_within_patient", *([] if ids else ["patient_level"])]
    case.manifest.loc[1, "label"] = 0
    finding = case.findings()["near_duplicates_across_classes"]
    owner = "patient" if ids else "look-alike group"
    assert finding.severity == "error" and finding.pairs == (("a (0).jpg", "a (1).jpg"),)
    assert finding.message == f"1 pair of one {owner} show the same slice, altered, with different labels"
    assert f"of slices of one {owner} are" in case.findings()["near_duplicates_within_patient"].message


def test_a_mirrored_copy_with_another_label_in_a_group_is_an_error() -> None:
    case = phantom_case()
    case.cohort |= {"label_unit": "slice", "patient_level_verifiable": False}
    case.images[1] = case.images[0][:, :, ::-1]  # `prepare` has put both into one group
    case.manifest.loc[1, "label"] = 0
    assert case.findings()["near_duplicates_across_classes"].severity == "error"


def test_identical_pictures_are_not_called_near_duplicates_too() -> None:
    case = phantom_case()
    case.copy_pixels(0, 3)
    assert list(case.findings()) == ["identical_across_patients"]


def test_overlays_are_an_error_in_colour_in_grey_and_by_name(case: Case) -> None:
    assert case.findings(case.facts()) == {}
    case.cohort["unreadable"] = [
        {"file": "z.png", "reason": f"{COLOUR}: CT slices are grey"},
        {"file": "y.png", "reason": "truncated"},
    ]
    case.manifest.loc[4, "file"] = "Bleeding/OVERLAY/1.png"
    facts = case.facts()
    facts.loc[2, "drawn"] = True
    found = case.findings(facts)
    assert found["overlays"].severity == "error"
    assert found["overlays"].files == ("Bleeding/OVERLAY/1.png", "a (2).jpg", "z.png")
    assert "1 in colour" in found["overlays"].message and "1 with grey or white lines, 1 named" in found["overlays"].message


def test_too_few_patients_for_the_split_is_an_error_before_anything_is_split(case: Case) -> None:
    params = SplitParams(group_by="patient", test_fraction=0.0, folds=(0, 1), seed=0)
    finding = case.findings(split=params)["too_few_patients"]
    assert finding.severity == "error" and "2 patients" in finding.message
    assert case.findings(split=SplitParams(group_by="none", test_fraction=0.0, folds=(0, 1), seed=0)) == {}


def wide(case: Case, patients: int = 30) -> Case:
    """So many patients, half of them positive, as a check of differences between classes needs."""
    rows = [(f"p{p} ({k}).jpg", f"p{p}", k, p % 2) for p in range(patients) for k in range(4)]
    case.manifest = pd.DataFrame(rows, columns=["file", "patient", "slice", "label"])
    case.manifest["sha256"], case.manifest["width"], case.manifest["height"] = case.manifest["file"], 32, 32
    case.images = np.random.default_rng(1).integers(0, 256, (len(rows), 1, 32, 32), np.uint8)
    case.cohort["patient_labels"] = {}
    return case


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("frame_px", 3, "frame_by_class"),
        ("letters", 6, "text_by_class"),
        ("encoding", "JPEG L, quantisation 01234567", "encoding_by_class"),
    ],
)
def test_a_property_of_one_class_is_a_warning_that_lists_its_files(case: Case, column: str, value: Any, check: str) -> None:
    wide(case)
    facts = case.facts()
    marked = np.flatnonzero(case.manifest["label"] == 1)[::4]  # one slice of each positive patient
    facts.loc[marked, column] = value
    found = case.findings(facts)
    assert list(found) == [check]
    assert found[check].severity == "warning"
    assert set(case.manifest["file"][marked]) <= set(found[check].files)

    facts = case.facts()
    facts.loc[::4, column] = value  # in both classes alike
    assert case.findings(facts) == {}


def test_resolution_of_one_class_is_a_warning(case: Case) -> None:
    wide(case)
    case.manifest["width"] = np.where(case.manifest["label"] == 1, 512, 650)
    assert list(case.findings()) == ["resolution_by_class"]
    case.manifest["width"] = np.where(case.manifest["slice"] == 1, 512, 650)
    assert case.findings() == {}


def test_file_size_that_gives_the_class_away_is_a_warning(case: Case) -> None:
    wide(case)
    facts = case.facts()
    rng = np.random.default_rng(0)
    facts["file_kb"] = 50 + 10 * case.manifest["slice"] + rng.normal(size=len(facts))  # goes with the position only
    assert case.findings(facts) == {}
    facts["file_kb"] += 3 * case.manifest["label"]
    found = case.findings(facts)
    assert list(found) == ["shortcut_probes"] and "file size: AUC 0." in found["shortcut_probes"].message


def test_without_patient_ids_the_report_says_so(case: Case) -> None:
    wide(case)
    case.manifest["patient"] = [str(i) for i in range(len(case.manifest))]
    assert list(case.findings()) == ["one_slice_per_patient"]
    case.cohort["patient_level_verifiable"] = False
    found = case.findings()
    assert list(found) == ["patient_level"]
    assert found["patient_level"].severity == "warning" and "Patient level not verifiable" in found["patient_level"].message


def test_without_patient_ids_nothing_is_conditioned_on_a_position_that_nobody_knows(case: Case) -> None:
    wide(case)
    case.cohort["patient_level_verifiable"] = False
    facts = case.facts()
    facts["file_kb"] = 50.0 + 10 * case.manifest["label"]
    marked = np.flatnonzero(case.manifest["label"] == 1)[::4]
    facts.loc[marked, "frame_px"] = 3
    found = case.findings(facts)
    assert set(found) == {"patient_level", "frame_by_class"}
    assert "slice positions unknown" in found["frame_by_class"].message and "shortcut_probes" in found["patient_level"].message


def test_the_page_shows_pairs_that_differ_and_warns_of_real_pictures(case: Case) -> None:
    case.copy_pixels(0, 1)
    case.copy_pixels(0, 3)
    findings = list(case.findings().values())
    shown = draw_pairs(findings, case.manifest, case.images[:, 0])
    pair = shown["identical_across_patients"][0]
    assert {picture.about.split(",")[0] for picture in pair} == {"patient a", "patient b"}
    where = references(case.manifest, case.cohort)
    page = render_page(build_report(findings, [], where), findings, {}, shown=shown)
    assert "do not share or commit" in page and page.count("<img") == 2 * sum(map(len, shown.values()))
    assert "do not share" not in render_page(build_report(findings, [], where), findings, {}, shown=shown, private=False)


def test_the_page_stays_small(case: Case) -> None:
    wide(case)
    many = Finding("identical_within_patient", "warning", "x", (), tuple([("p0 (0).jpg", "p0 (1).jpg")] * 100))
    assert len(draw_pairs([many], case.manifest, case.images[:, 0])["identical_within_patient"]) == MAX_SHOWN


def test_what_is_worth_a_look_is_shown_first(case: Case) -> None:
    files = case.manifest["file"].tolist()  # three of each of the patients a, b (positive), c, d (negative)
    alike = Finding("near_duplicates_across_patients", "error", "x", (), ((files[0], files[3]), (files[1], files[6])))
    torn = Finding("label_conflict", "error", "x", tuple(files))
    shown = draw_pairs([alike, torn], case.manifest, case.images[:, 0])
    assert [picture.file for picture in shown[alike.check][0]] == [files[1], files[6]]  # two labels for one picture
    assert [row[0].about.split(",")[0][-1] for row in shown[torn.check]][:4] == ["a", "b", "c", "d"]


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["brain_mri_t1", "chest_ct"])
def test_a_class_of_other_pictures_stops_the_audit(
    folder: str, realdata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = sorted((realdata / "ood" / folder).iterdir())
    heads = sorted((realdata / "brain-stroke-ct").glob("*/*.jpg"))[::60]
    for name, files in (("stroke", other), ("normal", heads)):
        (tmp_path / "data/raw/folder" / name).mkdir(parents=True)
        for i, file in enumerate(files):
            (tmp_path / "data/raw/folder" / name / f"{name}{i // 6}_{i % 6}{file.suffix}").symlink_to(file)
    asked = ["profile=folder", "data.folder.positive=[stroke]", "data.folder.negative=[normal]", "data.folder.target=a test"]
    params = params_module.build(params_module.Params, composed(*asked), "params.yaml")
    prepare(params.data, Path("data/raw/folder"), Path("data/prepared"))
    report, _ = stage.audit(load_prepared(), params)
    found = next(f for f in report["findings"] if f["check"] == "unlike_head_ct")
    assert found["severity"] == "error"
    number, of, heads_found = (int(found["message"].split()[i]) for i in (0, 2, 5))
    assert number >= 0.95 * of and of == len(other) and heads_found <= 0.1 * len(heads)


@pytest.mark.realdata
@pytest.mark.slow
def test_the_only_errors_of_ct_ich_are_its_label_conflicts(
    realdata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/kaggle_ct_ich").symlink_to((realdata / "brain-stroke-ct").resolve())
    params = params_module.build(params_module.Params, composed("profile=ct_ich"), "params.yaml")
    prepare(params.data, Path("data/raw/kaggle_ct_ich"), Path("data/prepared"))
    report, page = stage.audit(load_prepared(), params)
    assert [f["check"] for f in report["findings"] if f["severity"] == "error"] == ["label_conflict"]
    assert "unlike_head_ct" not in {f["check"] for f in report["findings"]}
    assert "do not share or commit" in page
