"""Who and what a slice is, read in a decoder: what is no short text stays there, whatever is hidden in it."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import REFERENCE, bombs, dicom_bytes
from pydicom.uid import ImplicitVRLittleEndian

from strokect.decode_messages import describe_identity, parse_identity
from strokect.decoding import DecodePool
from strokect.errors import ImageError
from strokect.identity import KEYWORDS, MAX_BYTES, read_identity, source_of

# What the bombs may end as, those of open length apart: their parsing takes the decoder's time, memory or stack.
ENDS = {
    "open_sequence": ("unreadable_image", "decode_timeout", "not_identified"),
    "open_unknown": ("unreadable_image", "decode_timeout", "not_identified"),
    "nested": ("unreadable_dicom",),
    "character_set": ("unreadable_dicom",),
}


def ct_slice(**elements: Any) -> bytes:
    return dicom_bytes(np.full((40, 40), 1064, np.int16), **(REFERENCE | elements))


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    decoders = DecodePool(1, 5, 256)
    yield decoders
    decoders.close()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian])
def test_values_come_as_the_file_has_them_and_nothing_else_comes(pool: DecodePool, syntax: str) -> None:
    data = ct_slice(syntax=syntax, PatientName="Müller^Jürgen", SpecificCharacterSet="ISO_IR 100", PatientComments="deaf")
    found = pool.identity(data)
    assert found == read_identity(data)
    assert found["PatientName"].rstrip() == "Müller^Jürgen".encode("latin-1") and found["SpecificCharacterSet"] == b"ISO_IR 100"
    assert set(found) == {*REFERENCE, "PatientName", "SpecificCharacterSet"} and set(found) < set(KEYWORDS)
    elements = source_of(found, "").elements
    assert str(elements.PatientName) == "Müller^Jürgen" and elements.StudyInstanceUID == "1.2.4"


@pytest.mark.parametrize("keyword", ["PatientID", "StudyDescription", "SOPInstanceUID", "InstanceNumber"])
@pytest.mark.parametrize("vr", [b"SQ", b"UN", b"OB", b"UT"])
def test_an_element_that_is_no_short_text_is_refused_and_not_left_out(keyword: str, vr: bytes) -> None:
    data = ct_slice(**{keyword: "7777"})
    short = data[data.index(b"7777") - 4 :][:8]
    assert read_identity(data)[keyword] == b"7777"
    with pytest.raises(ImageError) as caught:
        read_identity(data.replace(short, vr + b"\0\0\x04\0\0\0" + b"7777"))
    assert caught.value.code == "not_identified"


def test_a_text_may_be_as_long_as_the_cap() -> None:
    assert len(read_identity(ct_slice(PatientName="x" * MAX_BYTES))["PatientName"]) == MAX_BYTES
    with pytest.raises(ImageError, match="no short text"):
        read_identity(ct_slice(PatientName="x" * (MAX_BYTES + 1)))


def test_what_a_decoder_says_of_an_identity_is_not_believed() -> None:
    good = {"PatientName": bytes(range(256)) * 4, "PatientID": b""}
    assert parse_identity(describe_identity(good)) == good
    for said in (
        {"PatientComments": "x"},
        {"PatientName": "x" * (MAX_BYTES + 1)},
        {"PatientName": "\u0100"},
        {"PatientName": 1},
        [],
        None,
    ):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            parse_identity({"identity": said})


def peak_mb() -> float:
    return next(int(line.split()[1]) / 1024 for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", bombs())
def test_a_bomb_goes_off_in_the_decoder(pool: DecodePool, name: str) -> None:
    data = bombs()[name]
    pool.wait_ready()
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak_mb(), time.monotonic()
    with pytest.raises(ImageError) as caught:
        source_of(pool.identity(data, start + 20), "")
    assert caught.value.code in ENDS.get(name, ("not_identified",))
    assert time.monotonic() - start < 12 and peak_mb() - before < 20
    assert source_of(pool.identity(ct_slice()), "").elements.SOPInstanceUID == "1.2.3"
