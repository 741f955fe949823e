"""An example scan of nobody: a phantom patient whom the committed run never saw, as slice.png, slice.dcm and scan.zip.

    python -m examples.make_scan [FOLDER]        from the repository root, after `make repro`; FOLDER is `example` by default

Slices are of the size that the phantom's model was trained on. A model of real slices rejects them, as it should.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from strokect.phantom import PhantomSlice, make_patient, window
from strokect.phantom_anatomy import FIELD_MM

PATIENT, SEED, SLICES, SIZE, SPACING_MM = 1, 10, 10, 96, 12.0
STUDY, SERIES, FRAME = (generate_uid(entropy_srcs=["strokect example", name]) for name in ("study", "series", "frame"))


def dicom(part: PhantomSlice) -> bytes:
    """One slice as uncompressed CT, its Hounsfield units stored from −1024 on."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["strokect example", str(part.slice)])
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = STUDY, SERIES, FRAME
    made.PatientName, made.PatientID, made.Modality, made.InstanceNumber = "Phantom^Example", "0", "CT", part.slice + 1
    made.ImagePositionPatient = [-FIELD_MM / 2, -FIELD_MM / 2, SPACING_MM * part.slice]
    made.ImageOrientationPatient, made.PixelSpacing = [1, 0, 0, 0, 1, 0], [FIELD_MM / SIZE] * 2
    made.SliceThickness, made.RescaleSlope, made.RescaleIntercept, made.RescaleType = SPACING_MM, 1, -1024, "HU"
    made.Rows, made.Columns = part.hu.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PixelData = np.clip(np.rint(part.hu) + 1024, 0, 4095).astype("<u2").tobytes()
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def main() -> None:
    """Write the three files; the single slice is the one with most of the lesion."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "example")
    folder.mkdir(parents=True, exist_ok=True)
    parts = make_patient(PATIENT, seed=SEED, slices=SLICES, size=SIZE)
    shown = max(parts, key=lambda part: np.count_nonzero(part.mask))
    Image.fromarray(window(shown.hu)).save(folder / "slice.png")
    (folder / "slice.dcm").write_bytes(dicom(shown))
    with zipfile.ZipFile(folder / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for part in parts:
            archive.writestr(f"{part.slice}.dcm", dicom(part))
    print(f"{folder}/slice.png, {folder}/slice.dcm, {folder}/scan.zip: a phantom, nobody's pictures")


if __name__ == "__main__":
    main()
