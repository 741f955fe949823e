"""The registry of readers: what `data.source` may be.

The reader NAME is the module strokect/reader_NAME.py with `read(params, root) -> Source` (`strokect.sources`); it is imported
only when its data is read, so that no run needs the packages of another reader. A new one: docs/data/README.md.
"""

READERS: dict[str, str] = {  # name → what it reads, for people
    "phantom": "a synthetic head CT cohort, drawn anew each time",
    "kaggle_ct_ich": 'the Kaggle "Brain Stroke CT Image Dataset" with the slice labels of PhysioNet CT-ICH',
    "teknofest": "the TEKNOFEST 2021 stroke set: Bleeding, Ischemia, Normal, each with PNG",
    "folder": "one folder per class; the patient is in the file name",
    "manifest": "pictures anywhere, named in a CSV with path, label and patient_id",
    "dicom": "a DICOM export of any depth and naming, with labels from a CSV",
    "nifti": "CT volumes in NIfTI, with masks or with one label per volume",
}


def module_of(source: str) -> str:
    """The module that reads `source`."""
    return f"strokect.reader_{source}"
