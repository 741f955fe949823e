"""A release judges whole series: each slice as /predict does, the patient as the evaluation does."""

import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import dicom_bytes, encode, fake_release, grey_slice
from test_series import SERIES, slice_at, zipped

from strokect.answers import SeriesPrediction
from strokect.errors import DeadlineError, NoResultError
from strokect.files import sha256_bytes
from strokect.judge import Examination
from strokect.phantom import make_patient
from strokect.predictor import Predictor
from strokect.sequence import WIDTH
from strokect.series import read_series
from strokect.series_policy import REFER_REASONS, SEVERAL
from strokect.slices import decode

PATIENT: dict[str, Any] = {"threshold": 0.4, "goal": "f2", "rule": "mean_top_k", "top_k": 3, "sequence": None}
HEAD = {"weights": [0.1, 0.2, 0.3, 0.5, 0.2, -0.1, 0.1, 0.4, -0.6, 0.3], "bias": -0.2}
assert len(HEAD["weights"]) == WIDTH  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(fake_release(tmp_path_factory.mktemp("release")))


@pytest.fixture(scope="module")
def patient() -> list[bytes]:
    """Nine slices of a phantom as DICOM, lowest first."""
    return [
        dicom_bytes(
            np.rint(piece.hu + 1024).astype(np.int16),
            SeriesInstanceUID=SERIES,
            ImagePositionPatient=[-111, -111, 5.0 * piece.slice - 800],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        )
        for piece in make_patient(0, seed=3, slices=9, size=64)
    ]


def sent(files: list[bytes], seed: int) -> list[bytes]:
    """The files shuffled into one zip."""
    shuffled = random.Random(seed).sample(files, len(files))
    return [zipped({f"Erika_Mustermann_1964/{i}": data for i, data in enumerate(shuffled)})]


def predict(predictor: Predictor, *files: bytes) -> SeriesPrediction:
    return predictor.predict_series(read_series(files, 400), "request")


def content(answer: SeriesPrediction) -> dict[str, Any]:
    """What must not depend on the order of the upload."""
    found = answer.model_dump(exclude={"latency_ms", "request_id"})
    for piece in found["slices"]:
        del piece["number"]
    return found


def test_every_slice_is_judged_as_predict_judges_it(predictor: Predictor, patient: list[bytes]) -> None:
    answer = predict(predictor, *sent(patient, 0))
    assert [piece.input_sha256 for piece in answer.slices] == [sha256_bytes(data) for data in patient]
    assert [piece.position for piece in answer.slices] == list(range(9)) and answer.n_slices == 9
    assert sorted(piece.number for piece in answer.slices) == list(range(9)) and not answer.left_out
    for piece, data in zip(answer.slices, patient, strict=True):
        alone = predictor.predict(data).model_dump(exclude={"request_id", "model_version", "target", "latency_ms"})
        assert piece.model_dump(exclude={"number", "position"}) == alone


def test_the_patient_is_scored_as_in_evaluation(predictor: Predictor, patient: list[bytes]) -> None:
    answer = predict(predictor, *sent(patient, 0))
    highest = sorted(predictor.predict(data).probability for data in patient)[-3:]  # type: ignore[type-var]
    assert answer.probability == pytest.approx(sum(highest) / 3, abs=1e-12) and answer.threshold == 0.4  # type: ignore[arg-type]
    assert answer.decision == ("stroke" if answer.probability >= 0.4 else "normal")  # type: ignore[operator]
    assert answer.uncertainty is not None and answer.ood.model_dump() == {"score": 0.0, "threshold": 0.5, "flags": []}
    assert answer.uncertainty.value == max(
        piece.uncertainty.value
        for piece in answer.slices
        if piece.probability >= highest[0]  # type: ignore[operator, type-var]
    )
    assert answer.input_sha256 == sha256_bytes("\n".join(sorted(map(sha256_bytes, patient))).encode())


def with_head(logits: np.ndarray) -> float:
    """The patient's score of logits (n, models), lowest slice first, under HEAD and a top k of 3."""
    last = len(logits) - 1
    scores = np.empty(logits.shape)
    for model, column in enumerate(logits.T):
        for i in range(len(column)):
            around = [column[min(max(i + step, 0), last)] for step in range(-3, 4)]
            place = i / last
            z = float(np.dot([*around, place, place**2, max(place - 0.5, 0)], HEAD["weights"])) + HEAD["bias"]  # type: ignore[operator]
            scores[i, model] = 1 / (1 + math.exp(-z))
    return float(np.sort(scores.mean(axis=1))[-3:].mean())


def test_a_sequence_head_is_applied_to_each_model_from_the_lowest_slice_up(tmp_path: Path, patient: list[bytes]) -> None:
    predictor = Predictor(fake_release(tmp_path, patient=PATIENT | {"sequence": HEAD}))
    answer = predict(predictor, *sent(patient, 1))
    logits = np.array([predictor.release.judge.examine(decode(d), sha256_bytes(d)).evidence.logits for d in patient])
    assert logits.shape == (9, 2)
    assert answer.probability == pytest.approx(with_head(logits), abs=1e-9)
    assert answer.probability != pytest.approx(with_head(logits[::-1]), abs=1e-3)
    assert "neighbours" in answer.rule


@pytest.mark.parametrize("sequence", [None, HEAD])
def test_the_order_of_the_upload_does_not_matter(tmp_path: Path, patient: list[bytes], sequence: Any) -> None:
    predictor = Predictor(fake_release(tmp_path, patient=PATIENT | {"sequence": sequence}))
    others = [b"a text file", slice_at(0.0, 7, "1.2.3"), patient[2]]
    answers = [content(predict(predictor, *sent([*patient, *others], seed))) for seed in range(4)]
    for answer in answers:
        assert sorted(left.pop("code") for left in answer.pop("left_out")) == ["duplicate", "other_series", "unknown_format"]
    assert all(answer == answers[0] for answer in answers)


def test_same_bytes_same_answer(predictor: Predictor, patient: list[bytes]) -> None:
    one, two = (predict(predictor, *sent(patient, 5)).model_dump(exclude={"latency_ms"}) for _ in range(2))
    assert one == two


def test_parts_and_a_zip_of_them_are_one_series(predictor: Predictor, patient: list[bytes]) -> None:
    assert content(predict(predictor, *patient)) == content(predict(predictor, *sent(patient, 2)))


def rejecting(tmp_path: Path, share: float = 0.5) -> Predictor:
    return Predictor(fake_release(tmp_path, policy={"series_share": share}))


def coloured(seed: int) -> bytes:
    """A picture that the fake policy rejects."""
    grey = grey_slice(seed=seed)
    return encode(np.stack([grey, grey // 2, grey], axis=-1))


def test_a_series_of_rejected_slices_has_no_number(tmp_path: Path) -> None:
    answer = predict(rejecting(tmp_path), *[coloured(i) for i in range(3)], encode(grey_slice(seed=9)))
    assert (answer.decision, answer.probability, answer.uncertainty) == ("reject", None, None)
    assert answer.ood.model_dump() == {"score": 0.75, "threshold": 0.5, "flags": ["colour"]}
    assert answer.reasons == ["too many of its slices are rejected", "colour picture"]
    assert [piece.probability is None for piece in answer.slices] == [True, True, True, False]


def test_nothing_left_is_a_reject_and_says_why(predictor: Predictor) -> None:
    answer = predict(predictor, b"text", zipped({"a": zipped({})}))
    assert (answer.decision, answer.n_slices, answer.probability, answer.ood.score) == ("reject", 0, None, None)
    assert [(left.number, left.code) for left in answer.left_out] == [(0, "unknown_format"), (1, "nested_zip")]
    assert predict(predictor).decision == "reject"


def test_doubts_send_a_normal_series_to_a_person(tmp_path: Path) -> None:
    never = {"patient": PATIENT | {"threshold": 1.0, "top_k": 4}, "slice": {"threshold": 1.0, "goal": "f2"}}
    predictor = Predictor(fake_release(tmp_path, **never))
    files = [encode(grey_slice(seed=i)) for i in range(4)]
    assert predict(predictor, *files).decision == "normal"
    doubts = {"leaning": [*files[:3], coloured(5)], "few": files[:3], "incomplete": [*files, zipped({"a": zipped({})})]}
    for name, sent_files in doubts.items():
        answer = predict(predictor, *sent_files)
        assert (answer.decision, answer.reasons) == ("refer", [REFER_REASONS[name]]) and answer.probability is not None


def test_a_patient_who_was_not_judged_is_not_called_normal(tmp_path: Path, patient: list[bytes]) -> None:
    never, always = (
        Predictor(fake_release(tmp_path / str(at), patient=PATIENT | {"threshold": at}, slice={"threshold": 1.0, "goal": "f2"}))
        for at in (1.0, 0.0)
    )
    other = [slice_at(5.0 * i, i, "1.2.840.1964.8", PatientID="1964") for i in range(4)]
    assert predict(never, *patient).decision == "normal"
    answer = predict(never, *sent([*patient, *other], 0))
    assert (answer.decision, answer.reasons, answer.n_slices) == ("refer", [SEVERAL], 9) and "one study of one" in answer.rule
    answer = predict(always, *sent([*patient, *other], 0))
    assert (answer.decision, answer.reasons) == ("stroke", [SEVERAL])
    assert "1964" not in answer.model_dump_json(exclude={"input_sha256", "slices", "latency_ms"})


def test_half_a_head_in_another_frame_of_reference_is_not_called_normal(tmp_path: Path, patient: list[bytes]) -> None:
    never = {"patient": PATIENT | {"threshold": 1.0}, "slice": {"threshold": 1.0, "goal": "f2"}}
    answer = predict(Predictor(fake_release(tmp_path, **never)), *patient, slice_at(3.0, 7, FrameOfReferenceUID="1.2.9"))
    assert (answer.decision, answer.reasons) == ("refer", [REFER_REASONS["incomplete"]])
    assert [left.code for left in answer.left_out] == ["other_frame"]


def test_pictures_are_judged_in_the_order_sent_and_the_answer_says_so(predictor: Predictor) -> None:
    files = [encode(grey_slice(seed=i)) for i in (4, 2, 7)]
    answer = predict(predictor, *files)
    assert [piece.number for piece in answer.slices] == [0, 1, 2] and "in the order sent" in answer.rule


@pytest.mark.parametrize("name", ["logits", "probabilities", "gate_scores", "mc_std"])
def test_one_slice_without_a_result_leaves_the_series_without_one(
    predictor: Predictor, patient: list[bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, bad = predictor.release.judge.examine, sha256_bytes(patient[4])

    def examine(picture: Any, sha256: str, deadline: float = math.inf) -> Examination:
        found = original(picture, sha256, deadline)
        if sha256 == bad:
            value = getattr(found.evidence, name)
            object.__setattr__(found.evidence, name, value * math.nan)
        return found

    monkeypatch.setattr(predictor.release.judge, "examine", examine)
    with pytest.raises(NoResultError):
        predict(predictor, *patient)


def test_the_deadline_holds_for_the_whole_series(predictor: Predictor, patient: list[bytes]) -> None:
    with pytest.raises(DeadlineError):
        predictor.predict_series(read_series(patient, 400), deadline=time.monotonic() - 1)


def test_nothing_personal_is_in_the_answer(predictor: Predictor, patient: list[bytes]) -> None:
    marked = [slice_at(5.0 * i, i, "1.2.840.1964.7", PatientID="1964", StudyDate="19640101") for i in range(3)]
    answer = predict(predictor, *sent([*marked, *patient, marked[0][:900]], 0)).model_dump_json(exclude={"input_sha256"})
    text = answer.replace("\n", " ")
    for left in ("Mustermann", "Nobody", "1.2.840", "19640101"):
        assert left not in text


# The picture that a worker decoded, and the map of an explanation.


def test_a_decoded_picture_is_taken_as_it_is(predictor: Predictor) -> None:
    data = encode(grey_slice())
    alone = predictor.predict(data).model_dump(exclude={"latency_ms"})
    assert predictor.predict(data, picture=decode(data)).model_dump(exclude={"latency_ms"}) == alone
    assert predictor.predict(b"not decoded again", picture=decode(data)).probability is not None


def test_explain_is_one_examination_and_its_map(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(grey_slice())
    original, calls = predictor.release.judge.examine, []

    def examine(*arguments: Any) -> Examination:
        calls.append(original(*arguments))
        return calls[-1]

    monkeypatch.setattr(predictor.release.judge, "examine", examine)
    prediction, activation = predictor.explain(data, decode(data), math.inf)
    assert len(calls) == 1 and activation is calls[0].activation
    assert activation.shape == (4, 4) and activation.dtype == np.float32
    monkeypatch.undo()
    assert prediction.model_dump(exclude={"latency_ms"}) == predictor.predict(data).model_dump(exclude={"latency_ms"})
