"""The example scan: a new user's first upload is judged as a whole series, and is nobody's."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pydicom
from conftest import ROOT
from PIL import Image

from strokect.series import arrange, read_series
from strokect.slices import decode


def test_the_example_scan_is_a_whole_series_in_order(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.make_scan", str(tmp_path / "example")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    members = list(read_series([(tmp_path / "example/scan.zip").read_bytes()], 400))
    found = arrange(members)
    assert (len(found.order), found.left_out, found.by, found.incomplete) == (10, [], "position", False)
    assert [member.number for member in found.order] == list(range(10))
    with zipfile.ZipFile(tmp_path / "example/scan.zip") as archive:
        for name in archive.namelist():
            assert str(pydicom.dcmread(io.BytesIO(archive.read(name))).PatientName) == "Phantom^Example"
    # The same slice as picture and as DICOM: one grey level apart at most, as stored values are whole Hounsfield units.
    grey = decode((tmp_path / "example/slice.dcm").read_bytes()).grey.astype(int)
    assert np.abs(grey - np.asarray(Image.open(tmp_path / "example/slice.png"), int)).max() <= 2
