"""An explanation as DICOM: the overlay as Secondary Capture, the prediction as Structured Report (TID 1500), for a PACS.

Needs the optional package highdicom, which is imported when asked for. Both objects join the study of their slice, so patient and
study go from the client's file into the client's file, element by element, and nowhere else: highdicom gets none of them, because
it rewrites, refuses and logs values that it finds odd.
"""

import io
import logging
import math
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from strokect.dicom import read_elements
from strokect.errors import ImageError, NotInstalledError
from strokect.files import sha256_bytes
from strokect.predictor import Prediction

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept, MeasurementsAndQualitativeEvaluations

REFERENCE = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# What a slice may be: CT, Enhanced CT, its legacy conversion, Secondary Capture. highdicom takes known classes only.
IMAGE_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "2.1", "2.2", "7"))
# Must be in every object, empty if unknown (type 2), then what is carried on where the source has it.
IDENTITY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
MORE_IDENTITY = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod"),
)
MANUFACTURER = "strokect (research software)"
CAPTURE_SERIES, REPORT_SERIES = 9901, 9902  # series numbers: behind those of the scanner
NOT_FOR_DIAGNOSIS = "not for diagnostic use"
PRIVATE = "99STROKECT"  # coding scheme; the 99 says private
DECISIONS = {
    "stroke": "the model finds its target",
    "normal": "the model does not find its target",
    "refer": "the model is not sure: a person must decide",
    "reject": "the model cannot judge this picture",
}
NAMESPACE = uuid.UUID("5c2f7d0e-8f0b-4b4e-9d59-3f6a1c0f7c11")  # any constant: makes the same series of the same source series


def secondary_capture(data: bytes, overlay_png: bytes, prediction: Prediction) -> bytes:
    """DICOM bytes of a slice, its overlay and its prediction → bytes of a Secondary Capture Image (RGB, explicit little endian).

    Raises NotInstalledError without highdicom, ImageError when `data` is no uncompressed DICOM file or does not identify itself.
    """
    _require_highdicom()
    from highdicom.sc import SCImage

    source = _read_source(data, prediction)
    orientation = _patient_orientation(source)
    image = SCImage(
        np.array(Image.open(io.BytesIO(overlay_png), formats=["PNG"]).convert("RGB")),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=orientation or ("L", "P"),  # highdicom insists on one
        study_instance_uid=source.StudyInstanceUID,
        series_description=f"class activation map, {NOT_FOR_DIAGNOSIS}",
        **_about(source, prediction, CAPTURE_SERIES),
    )
    if orientation is None:
        image.PatientOrientation = []
    image.BodyPartExamined = "HEAD"  # not of a pair, so no laterality is due
    image.BurnedInAnnotation = "YES"
    image.DerivationDescription = f"class activation map of model {prediction.model_version}: not a localisation"
    image.SourceImageSequence = [_reference(source)]
    return _write(image, source)


def structured_report(data: bytes, prediction: Prediction) -> bytes:
    """DICOM bytes of a slice and its prediction → bytes of a Comprehensive SR: complete, unverified, preliminary.

    Raises NotInstalledError without highdicom, ImageError when `data` is no uncompressed DICOM file or does not identify itself.
    """
    _require_highdicom()
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.codedict import codes

    source = _read_source(data, prediction)
    # In the name of the model, not of this installation, about which the report shall say nothing.
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid("model", prediction.model_version), name=f"strokect {prediction.model_version}", manufacturer_name=MANUFACTURER
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(sr.ObserverContext(codes.DCM.Device, device)),
        procedure_reported=sr.CodedConcept("303653007", "SCT", "CT of head"),
        imaging_measurements=[_findings(source, prediction)],
    )
    evidence = Dataset()
    for name in (*REFERENCE, *IDENTITY):
        setattr(evidence, name, source.get(name) if name in REFERENCE else "")
    report = sr.ComprehensiveSR(
        evidence=[evidence],
        content=content,
        is_complete=True,
        series_description=f"slice classification, {NOT_FOR_DIAGNOSIS}",
        coding_schemes=[CodingSchemeIdentificationItem(PRIVATE, name="strokect")],
        **_about(source, prediction, REPORT_SERIES),
    )
    return _write(report, source)


def _findings(source: Dataset, prediction: Prediction) -> "MeasurementsAndQualitativeEvaluations":
    """TID 1501: the decision coded, probability and threshold as numbers, everything in words as text."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    numbers = [("probability", "Calibrated probability", prediction.probability)]
    numbers += [("threshold", "Decision threshold", prediction.threshold)]
    group = sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(_uid(), "slice"),
        algorithm_id=sr.AlgorithmIdentification(
            "strokect", prediction.model_version, [f"input SHA-256 {prediction.input_sha256}"], manufacturer=MANUFACTURER
        ),
        finding_sites=[sr.FindingSite(codes.SCT.Brain)],
        measurements=[
            sr.Measurement(_code(value, meaning), number, codes.UCUM.NoUnits)
            for value, meaning, number in numbers
            if number is not None  # a rejected picture has no probability
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(_code("decision", "Decision"), _code(prediction.decision, DECISIONS[prediction.decision]))
        ],
        source_images=[sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
    )
    texts = [("target", "Target of the model", prediction.target)]
    texts += [("reason", "Reason", reason) for reason in prediction.reasons]
    texts += [("use", "Intended use", f"Research software, not a medical device: {NOT_FOR_DIAGNOSIS}")]
    for value, meaning, text in texts:
        group[0].ContentSequence.append(sr.TextContentItem(_code(value, meaning), text, sr.RelationshipTypeValues.CONTAINS))
    return group


def _code(value: str, meaning: str) -> "CodedConcept":
    from highdicom.sr import CodedConcept

    return CodedConcept(value, PRIVATE, meaning)


def _require_highdicom() -> None:
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise NotInstalledError("answers in DICOM need the package highdicom on the server: pip install highdicom") from None
    logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)  # it logs identifiers


def _read_source(data: bytes, prediction: Prediction) -> Dataset:
    """Who and what the slice is. Raises ImageError when it does not say, ValueError for the prediction of another file."""
    if prediction.input_sha256 != sha256_bytes(data):
        raise ValueError("the prediction is that of another file")
    if data[128:132] != b"DICM":
        raise ImageError("not_dicom", "an answer in DICOM needs a DICOM slice: it joins the slice's study")
    try:
        names = (*REFERENCE, *IDENTITY, *MORE_IDENTITY, "SpecificCharacterSet", "InstanceNumber", "ImageOrientationPatient")
        source = read_elements(data, names)
        list(source)  # parses every element, here and not where its value could get into a traceback
    except ImageError:
        raise
    except Exception:  # pydicom raises anything on a malformed file, and its text may echo file content
        raise ImageError("unreadable_dicom", "not a readable DICOM file (damaged, truncated or malformed)") from None
    uids = [source.get(name) for name in REFERENCE]
    if uids[0] not in IMAGE_CLASSES or not all(isinstance(uid, UID) and uid.is_valid for uid in uids):
        problem = (
            "nothing can refer to it: by its SOP class it is no CT image, or its own, its series' or its study's UID is missing"
        )
        raise ImageError("not_identified", problem)
    return source


def _about(source: Dataset, prediction: Prediction, series: int) -> dict[str, Any]:
    """Series and equipment of a new object. All slices of one source series give one new series per model and kind."""
    number = source.get("InstanceNumber")
    return {
        "series_instance_uid": _uid(source.SeriesInstanceUID, str(series), prediction.model_version),
        "series_number": series,
        "sop_instance_uid": _uid(),
        "instance_number": int(number) if str(number).isdecimal() and 0 < int(number) < 2**31 else 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": "strokect",
        "software_versions": prediction.model_version,
        "specific_character_set": "ISO_IR 192",  # UTF-8: holds any name and any target
        "transfer_syntax_uid": ExplicitVRLittleEndian,
    }


def _uid(*names: str) -> str:
    """A UID derived from a UUID (PS3.5 B.2): of `names`, or a new one. It contains neither a name nor the host."""
    return f"2.25.{(uuid.uuid5(NAMESPACE, '/'.join(names)) if names else uuid.uuid4()).int}"


def _reference(source: Dataset) -> Dataset:
    from highdicom.sr import CodedConcept

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [CodedConcept("121322", "DCM", "Source image for image processing operation")]
    return item


def _patient_orientation(source: Dataset) -> tuple[str, str] | None:
    """Where rows and columns of the slice point, by their greatest component: L, R, P, A, H or F. None when it does not say."""
    try:
        cosines = [float(cosine) for cosine in source.ImageOrientationPatient]
    except (AttributeError, TypeError, ValueError):
        return None
    if len(cosines) != 6 or not all(map(math.isfinite, cosines)) or not any(cosines[:3]) or not any(cosines[3:]):
        return None
    row, column = (np.array(cosines[start : start + 3]) for start in (0, 3))
    row_axis, column_axis = (int(np.abs(direction).argmax()) for direction in (row, column))
    return ("RL", "AP", "FH")[row_axis][int(row[row_axis] > 0)], ("RL", "AP", "FH")[column_axis][int(column[column_axis] > 0)]


def _write(made: Dataset, source: Dataset) -> bytes:
    """Carry patient and study over as they are, then encode."""
    for name in IDENTITY:
        setattr(made, name, None)
    for name in (*IDENTITY, *MORE_IDENTITY):
        if name in source:
            made.add(source[name])
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
