"""An explanation as DICOM: the overlay as Secondary Capture, the prediction as Structured Report (TID 1500), for a PACS.

Needs the optional package highdicom, which is imported when asked for. Both objects join the study of their slice, so patient and
study go from the client's file into the client's file, element by element, and nowhere else: highdicom gets none of them, because
it rewrites, refuses and logs values that it finds odd. The file itself does not come here (see `strokect.identity`).
"""

import io
import logging
import math
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from strokect.errors import NotInstalledError
from strokect.identity import IDENTITY, MORE_IDENTITY, REFERENCE, Source
from strokect.predictor import Prediction

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept, MeasurementsAndQualitativeEvaluations

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


def secondary_capture(joined: Source, overlay_png: bytes, prediction: Prediction) -> bytes:
    """A slice, its overlay and its prediction → bytes of a Secondary Capture Image (RGB, explicit little endian).

    Raises NotInstalledError without highdicom, ValueError for the prediction of another file.
    """
    require_highdicom()
    from highdicom.sc import SCImage

    source = _elements(joined, prediction)
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


def structured_report(joined: Source, prediction: Prediction) -> bytes:
    """A slice and its prediction → bytes of a Comprehensive SR: complete, unverified, preliminary.

    Raises NotInstalledError without highdicom, ValueError for the prediction of another file.
    """
    require_highdicom()
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.codedict import codes

    source = _elements(joined, prediction)
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


def require_highdicom() -> None:
    """Raise NotInstalledError unless the package is there."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise NotInstalledError("answers in DICOM need the package highdicom on the server: pip install highdicom") from None
    logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)  # it logs identifiers


def _elements(joined: Source, prediction: Prediction) -> Dataset:
    if prediction.input_sha256 != joined.input_sha256:
        raise ValueError("the prediction is that of another file")
    return joined.elements


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
