"""Explanations as DICOM, read back: they join the patient and study of their slice, say what the model said, and leak nothing."""

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from conftest import ROOT
from fakes import TARGET, dicom_bytes
from PIL import Image
from pydicom.dataset import Dataset

from strokect.dicom_out import secondary_capture, structured_report
from strokect.errors import ImageError, NotInstalledError
from strokect.files import sha256_bytes
from strokect.head_crop import whole
from strokect.identity import Source, read_identity, source_of
from strokect.overlay import draw_overlay
from strokect.predictor import OutOfDistribution, Prediction, Uncertainty

CT = "1.2.840.10008.5.1.4.1.1.2"
PATIENT = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "4711-0815",
    "PatientBirthDate": "19640812",
    "PatientSex": "F",
    "StudyDate": "20260102",
    "StudyTime": "030405",
    "StudyID": "S1",
    "AccessionNumber": "ACC77",
    "ReferringPhysicianName": "Arzt^Anna",
    "StudyDescription": "Schaedel nativ",
}
PLACE = {
    "SOPClassUID": CT,
    "SOPInstanceUID": "1.2.3.4.5.6",
    "SeriesInstanceUID": "1.2.3.4.5",
    "StudyInstanceUID": "1.2.3.4",
    "InstanceNumber": 12,
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
}
OVERLAY = draw_overlay(np.full((64, 64), 90, np.uint8), np.eye(4, dtype=np.float32), whole(64, 64), title=TARGET)


def ct_slice(**elements: Any) -> bytes:
    return dicom_bytes(np.full((40, 40), 1064, np.int16), **(PATIENT | PLACE | elements))


def prediction(data: bytes, **changes: Any) -> Prediction:
    answer = Prediction(
        request_id="r",
        model_version="0123456789ab",
        target=TARGET,
        input_sha256=sha256_bytes(data),
        decision="refer",
        reasons=["the probability is too near a half"],
        probability=0.4504629546414008,
        threshold=0.13068967102832524,
        uncertainty=Uncertainty(mc_std=0.02, fold_std=0.2, measure="entropy", value=0.99, refer_above=0.9),
        ood=OutOfDistribution(score=-1.5, threshold=2.6, flags=[]),
        latency_ms=19.0,
    )
    return answer.model_copy(update=changes)


def source(data: bytes) -> Source:
    return source_of(read_identity(data), sha256_bytes(data))


def capture(data: bytes, **changes: Any) -> Dataset:
    return pydicom.dcmread(io.BytesIO(secondary_capture(source(data), OVERLAY, prediction(data, **changes))))


def report(data: bytes, **changes: Any) -> Dataset:
    return pydicom.dcmread(io.BytesIO(structured_report(source(data), prediction(data, **changes))))


def contents(item: Dataset) -> list[tuple[str, Any]]:
    """(meaning, value) of every content item of a report, depth first: an oracle that knows nothing of highdicom."""
    found: list[tuple[str, Any]] = []
    for child in item.get("ContentSequence", []):
        value = child.get("TextValue") or child.get("UID")
        if child.ValueType == "NUM":
            value = child.MeasuredValueSequence[0].FloatingPointValue
        elif child.ValueType == "CODE":
            value = child.ConceptCodeSequence[0].CodeValue
        elif child.ValueType == "IMAGE":
            value = child.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        found += [(child.ConceptNameCodeSequence[0].CodeMeaning, value), *contents(child)]
    return found


@pytest.mark.parametrize("make", [capture, report])
def test_the_object_joins_patient_and_study_in_a_series_of_its_own(make: Any) -> None:
    made = make(ct_slice())
    for keyword, value in PATIENT.items():
        assert made[keyword].value == value, keyword
    assert made.StudyInstanceUID == PLACE["StudyInstanceUID"] and made.InstanceNumber == 12
    assert made.SeriesInstanceUID != PLACE["SeriesInstanceUID"] and made.SOPInstanceUID != PLACE["SOPInstanceUID"]
    assert "not for diagnostic use" in made.SeriesDescription and made.SoftwareVersions == "0123456789ab"


def test_the_capture_holds_the_overlay_and_names_its_source() -> None:
    made = capture(ct_slice())
    assert made.SOPClassUID == made.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (made.pixel_array == np.array(Image.open(io.BytesIO(OVERLAY)))).all()
    assert (made.PhotometricInterpretation, made.BurnedInAnnotation, made.Modality) == ("RGB", "YES", "OT")
    assert "not a localisation" in made.DerivationDescription and "DERIVED" in made.ImageType
    (source,) = made.SourceImageSequence
    assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (CT, PLACE["SOPInstanceUID"])


def test_the_report_says_what_the_model_said() -> None:
    made = report(ct_slice())
    said = contents(made)
    for expected in [
        ("Algorithm Version", "0123456789ab"),
        ("Decision", "refer"),
        ("Calibrated probability", 0.4504629546414008),
        ("Decision threshold", 0.13068967102832524),
        ("Target of the model", TARGET),
        ("Reason", "the probability is too near a half"),
        ("Source of Measurement", PLACE["SOPInstanceUID"]),
        ("Algorithm Parameters", f"input SHA-256 {sha256_bytes(ct_slice())}"),
    ]:
        assert expected in said
    assert "not a medical device" in dict(said)["Intended use"]
    assert (made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    series = made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == PLACE["SOPInstanceUID"]


def test_highdicom_reads_the_report_as_a_measurement_report() -> None:
    data = ct_slice()
    read = highdicom.sr.srread(io.BytesIO(structured_report(source(data), prediction(data))))
    assert isinstance(read.content, highdicom.sr.MeasurementReport)
    (group,) = read.content.get_image_measurement_groups()
    assert [m.value for m in group.get_measurements()] == [0.4504629546414008, 0.13068967102832524]
    assert [e.value.meaning for e in group.get_qualitative_evaluations()] == ["the model is not sure: a person must decide"]


def test_a_rejected_slice_has_no_number_and_every_reason() -> None:
    said = contents(report(ct_slice(), decision="reject", probability=None, reasons=["colour picture", "no skull ring"]))
    assert ("Decision", "reject") in said and "Calibrated probability" not in dict(said)
    assert [value for name, value in said if name == "Reason"] == ["colour picture", "no skull ring"]


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 100", "Müller^Jürgen"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("ISO_IR 144", "Люкceмбypг^Роза")],
)
def test_names_survive_in_any_character_set(charset: Any, name: str) -> None:
    data = ct_slice(SpecificCharacterSet=charset, PatientName=name)
    for made in (capture(data), report(data, target="Blutung im Schädel")):
        assert str(made.PatientName) == name
    assert ("Target of the model", "Blutung im Schädel") in contents(report(data, target="Blutung im Schädel"))


def test_what_a_slice_does_not_say_is_empty_and_what_it_says_oddly_is_kept() -> None:
    nobody = dict.fromkeys([*PATIENT, "InstanceNumber"])
    for made in (capture(ct_slice(**nobody)), report(ct_slice(**nobody))):
        assert made.PatientName == "" and made["PatientID"].VM == 0 and made.InstanceNumber == 1
        assert "StudyDescription" not in made
    odd = {"PatientName": "Erika", "PatientSex": "W", "PatientBirthDate": "12.08.1964", "PatientIdentityRemoved": "YES"}
    made = capture(ct_slice(**odd))
    assert {keyword: str(made[keyword].value) for keyword in odd} == odd


@pytest.mark.parametrize(
    ("cosines", "expected"),
    [
        ([1, 0, 0, 0, 1, 0], ["L", "P"]),
        ([-1, 0, 0, 0, 0.9, -0.4], ["R", "P"]),  # a tilted gantry
        ([0, 1, 0, 0, 0, -1], ["P", "F"]),
        (None, None),
        ([0, 0, 0, 0, 1, 0], None),
        ([1, 0, 0], None),
    ],
)
def test_the_capture_says_where_left_is_when_the_slice_does(cosines: list[float] | None, expected: list[str] | None) -> None:
    assert (capture(ct_slice(ImageOrientationPatient=cosines)).PatientOrientation or None) == expected


def test_slices_of_one_series_give_one_series_per_model_and_kind() -> None:
    first, second = ct_slice(), ct_slice(SOPInstanceUID="1.2.3.4.5.7")
    other = ct_slice(SeriesInstanceUID="1.2.3.4.9")
    assert capture(first).SeriesInstanceUID == capture(second).SeriesInstanceUID
    kinds = [capture(first), report(first), capture(other), capture(first, model_version="ba9876543210")]
    assert len({made.SeriesInstanceUID for made in kinds}) == len(kinds)
    assert capture(first).SOPInstanceUID != capture(first).SOPInstanceUID


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "Mustermann", "1.2.840.10008.1..1", ["1.2", "1.3"]])
def test_a_slice_that_nothing_can_refer_to_is_refused(keyword: str, value: Any) -> None:
    data = ct_slice(**{keyword: value})
    for make in (capture, report):
        with pytest.raises(ImageError) as caught:
            make(data)
        assert caught.value.code == "not_identified" and "Mustermann" not in str(caught.value)


@pytest.mark.parametrize("end", ["2", "2.1", "2.2", "7"])
def test_each_kind_of_ct_image_is_referred_to(end: str) -> None:
    kind = f"1.2.840.10008.5.1.4.1.1.{end}"
    assert capture(ct_slice(SOPClassUID=kind)).SourceImageSequence[0].ReferencedSOPClassUID == kind
    assert report(ct_slice(SOPClassUID=kind)).PatientID == PATIENT["PatientID"]


@pytest.mark.parametrize("kind", ["1.2.3", "1.2.840.10008.5.1.4.1.1.4"])  # unknown, and MR
def test_what_does_not_say_that_it_is_a_ct_image_is_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="no CT image"):
        capture(ct_slice(SOPClassUID=kind))


def test_what_is_no_readable_dicom_is_refused() -> None:
    good = ct_slice()
    for data, code in [
        (OVERLAY, "not_dicom"),
        (good.replace(b"10008.1.2.1\0", b"10008.1.2.2\0"), "unsupported_transfer_syntax"),  # big endian
        (good.replace(b"LO\x0a\x004711", b"QQ\x0a\x004711"), "unreadable_dicom"),  # no such value representation
        (good[: good.index(b"Mustermann") + 4], "not_identified"),
    ]:
        with pytest.raises(ImageError) as caught:
            report(data)
        assert caught.value.code == code and "Mustermann" not in str(caught.value)


def test_the_prediction_of_another_file_is_never_filed_under_this_patient() -> None:
    data = ct_slice()
    for call in (structured_report, lambda joined, answer: secondary_capture(joined, OVERLAY, answer)):
        with pytest.raises(ValueError, match="another file"):
            call(source(data), prediction(b"another file"))


def test_without_highdicom_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    for make in (capture, report):
        with pytest.raises(NotInstalledError, match="pip install highdicom"):
            make(ct_slice())


def test_nothing_about_the_patient_is_logged() -> None:
    """Odd values and a name without a caret: pydicom and highdicom would warn about each, and highdicom logs every UID."""
    data = ct_slice(PatientName="Mustermann", PatientSex="W", PatientBirthDate="12.08.1964", StudyDate="gestern")
    code = """
import logging, sys
logging.basicConfig(level=0)
from strokect.dicom_out import Prediction, secondary_capture, structured_report
from strokect.identity import read_identity, source_of
data, answer = sys.stdin.buffer.read(), Prediction.model_validate_json(sys.argv[1])
joined = source_of(read_identity(data), answer.input_sha256)
overlay = open(sys.argv[2], "rb").read()
print(b"Mustermann" in structured_report(joined, answer) and b"gestern" in secondary_capture(joined, overlay, answer))
"""
    overlay = ROOT / "docs" / "phantom" / "roc.png"  # any PNG
    command = [sys.executable, "-W", "default", "-c", code, prediction(data).model_dump_json(), str(overlay)]
    done = subprocess.run(command, cwd=ROOT, input=data, capture_output=True, check=False)
    assert done.stdout.strip() == b"True", done.stderr[-800:]
    for secret in (b"Mustermann", b"gestern", b"12.08.1964", b"4711-0815", b"1.2.3.4"):
        assert secret not in done.stderr


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian: dicom3tools)")
def test_an_independent_validator_finds_no_error(tmp_path: Path) -> None:
    data = ct_slice()
    nobody = ct_slice(**dict.fromkeys(PATIENT), ImageOrientationPatient=None)
    made = [secondary_capture(source(d), OVERLAY, prediction(d)) for d in (data, nobody)]
    made += [structured_report(source(d), prediction(d, target="Blutung im Schädel")) for d in (data, nobody)]
    for number, content in enumerate(made):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(content)
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in done.stderr and ("SCImage" in done.stderr or "ComprehensiveSR" in done.stderr), done.stderr
