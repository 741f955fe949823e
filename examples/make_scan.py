"""An example scan of nobody: a phantom patient whom the committed run never saw, as slice.png, slice.dcm and scan.zip.

    python -m examples.make_scan [FOLDER]        from the repository root, after `make repro`; FOLDER is `example` by default

Slices are of the size that the phantom's model was trained on. A model of real slices rejects them, as it should.
"""

import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.uid import generate_uid

from strokect.ct_slice import ct_slice
from strokect.phantom import PhantomSlice, make_patient, window
from strokect.phantom_anatomy import FIELD_MM

PATIENT, SEED, SLICES, SIZE, SPACING_MM = 1, 10, 10, 96, 12.0
STUDY, SERIES, FRAME = (generate_uid(entropy_srcs=["strokect example", name]) for name in ("study", "series", "frame"))


def dicom(part: PhantomSlice) -> bytes:
    """One slice as uncompressed CT."""
    return ct_slice(
        part.hu,
        SOPInstanceUID=generate_uid(entropy_srcs=["strokect example", str(part.slice)]),
        StudyInstanceUID=STUDY,
        SeriesInstanceUID=SERIES,
        FrameOfReferenceUID=FRAME,
        PatientName="Phantom^Example",
        PatientID="0",
        InstanceNumber=part.slice + 1,
        ImagePositionPatient=[-FIELD_MM / 2, -FIELD_MM / 2, SPACING_MM * part.slice],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[FIELD_MM / SIZE] * 2,
        SliceThickness=SPACING_MM,
    )


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
