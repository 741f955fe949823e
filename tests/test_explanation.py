"""Which form an explanation takes, and that one which cannot be made is refused before anything is judged."""

import math
import sys
import time

import numpy as np
import pytest
from fakes import REFERENCE, TARGET, dicom_bytes, encode, grey_slice

from strokect.answers import OutOfDistribution, Prediction, Uncertainty
from strokect.errors import DeadlineError, ImageError, NotInstalledError
from strokect.explanation import check_format, explain
from strokect.files import sha256_bytes
from strokect.http import Exchange, HttpError
from strokect.identity import read_identity
from strokect.images import Picture

SLICE = dicom_bytes(np.full((40, 40), 1064, np.int16), **REFERENCE)
PNG = encode(grey_slice())


def exchange(form: str, data: bytes = SLICE) -> Exchange:
    return Exchange("/explain", query={"format": form}, uploads=(data,), deadline=math.inf)


def read_here(data: bytes, deadline: float) -> dict[str, bytes]:
    return read_identity(data)


def never(data: bytes, deadline: float) -> dict[str, bytes]:
    raise AssertionError("nothing is to be read")


@pytest.mark.parametrize("form", ["png", "json"])
def test_pictures_and_numbers_need_no_identity(form: str) -> None:
    wanted = check_format(exchange(form, PNG), never)
    assert (wanted.format, wanted.source) == (form, None)


@pytest.mark.parametrize("form", ["dicom", "dicom-sr"])
def test_what_no_dicom_object_can_join_is_refused_at_once(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError) as caught:
        check_format(exchange(form, PNG), never)
    assert caught.value.code == "not_dicom"
    with pytest.raises(ImageError) as caught:
        check_format(exchange(form, dicom_bytes(np.full((40, 40), 1064, np.int16))), read_here)
    assert caught.value.code == "not_identified"
    source = check_format(exchange(form), read_here).source
    assert source is not None and source.input_sha256 == sha256_bytes(SLICE) and source.elements.StudyInstanceUID == "1.2.4"
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(NotInstalledError):
        check_format(exchange(form), never)


def test_an_unknown_format_is_an_error() -> None:
    with pytest.raises(HttpError) as caught:
        check_format(exchange("gif"), never)
    assert caught.value.status == 400


@pytest.mark.parametrize("form", ["png", "json", "dicom", "dicom-sr"])
def test_an_explanation_made_after_the_deadline_is_not_given(form: str) -> None:
    prediction = Prediction(
        request_id="r",
        model_version="0123456789ab",
        target=TARGET,
        input_sha256=sha256_bytes(SLICE),
        decision="stroke",
        reasons=[],
        probability=0.9,
        threshold=0.5,
        uncertainty=Uncertainty(mc_std=0.0, fold_std=0.0, measure="entropy", value=0.1, refer_above=0.9),
        ood=OutOfDistribution(score=0.0, threshold=1.0, flags=[]),
        latency_ms=1.0,
    )
    wanted, picture = check_format(exchange(form), read_here), Picture(grey_slice(), 0)
    map_ = np.eye(4, dtype=np.float32)
    assert explain(wanted, picture, prediction, map_, "none", time.monotonic() + 60).status_code == 200
    with pytest.raises(DeadlineError):
        explain(wanted, picture, prediction, map_, "none", time.monotonic())
