"""Whatever goes wrong inside, no label comes out: not of the predictor, and of the service an error of the one shape."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import encode, fake_release, grey_slice

from strokect.admission import Admission
from strokect.engine import FoldModel
from strokect.errors import AuditLogError, DeadlineError, ImageError, NoResultError, NotInstalledError
from strokect.gate import Gate
from strokect.http import EXCHANGE, Exchange, HttpError
from strokect.predictor import Predictor

PNG = encode(grey_slice())


class BrokenError(Exception):
    """Something that nobody foresaw."""


def broken(*arguments: Any, **options: Any) -> Any:
    raise BrokenError


@pytest.mark.parametrize(
    "part",
    [
        "strokect.judge.measure",
        "strokect.judge.find_flags",
        "strokect.judge.mc_std",
        "strokect.judge.model_input",
        (FoldModel, "run"),
        (FoldModel, "run_whole"),
        (Gate, "__call__"),
    ],
)
def test_a_part_that_breaks_leaves_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: Any) -> None:
    predictor = Predictor(fake_release(tmp_path))
    assert predictor.predict(PNG).decision in ("stroke", "normal")
    monkeypatch.setattr(*([part] if isinstance(part, str) else part), broken)
    with pytest.raises(BrokenError):
        predictor.predict(PNG)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_model_that_gives_no_number_leaves_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: float) -> None:
    predictor = Predictor(fake_release(tmp_path))
    run = FoldModel.run
    monkeypatch.setattr(FoldModel, "run", lambda model, image: run(model, image) * np.float32(number))  # of one view of two
    with pytest.raises(NoResultError):
        predictor.predict(PNG)


PROBLEMS: list[tuple[Exception, int, str]] = [
    (ImageError("unreadable_image", "damaged"), 422, "unreadable_image"),
    (ImageError("empty_file", "empty"), 400, "empty_file"),
    (ImageError("too_many_pixels", "large"), 413, "too_many_pixels"),
    (ImageError("unknown_format", "what is it"), 415, "unknown_format"),
    (NoResultError("NaN of model 3"), 500, "no_result"),
    (DeadlineError("late"), 504, "timeout"),
    (NotInstalledError("pip install highdicom"), 501, "not_installed"),
    (AuditLogError("the disk is full"), 500, "internal_error"),
    (HttpError(422, "rejected", "no map"), 422, "rejected"),
]


@pytest.mark.parametrize(("problem", "status", "code"), PROBLEMS, ids=lambda value: getattr(value, "__name__", str(value))[:30])
def test_what_goes_wrong_is_an_error_of_the_one_shape_and_frees_its_slot(problem: Exception, status: int, code: str) -> None:
    response, admission = answer(lambda predictor, exchange: fail(problem), object())
    assert response.status_code == status
    error = json.loads(response.body)["error"]
    assert error["code"] == code and error["request_id"]
    assert not {"NaN", "disk"} & set(error["message"].split()), "what is only for the log"
    assert admission.busy == 0


def test_without_a_model_nothing_is_computed() -> None:
    response, _ = answer(lambda predictor, exchange: fail(AssertionError("computed")), None)
    assert response.status_code == 503 and json.loads(response.body)["error"]["code"] == "not_ready"


def fail(problem: BaseException) -> Any:
    raise problem


def answer(work: Callable[[Any, Exchange], Any], predictor: Any) -> tuple[Any, Admission]:
    """What a handler of the service returns for this work, and the admission that it took its slot from."""
    from service import StrokeCT

    admission = Admission(computing=1, queue=0)

    async def enter() -> Any:
        return await admission.enter(float("inf"))

    handler = StrokeCT.inner.__new__(StrokeCT.inner)
    handler.predictor = predictor
    token = EXCHANGE.set(Exchange("/predict", slot=asyncio.run(enter())))
    try:
        return handler._answer(work), admission
    finally:
        EXCHANGE.reset(token)
