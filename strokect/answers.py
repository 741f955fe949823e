"""What the service answers: the shapes of its JSON."""

from typing import Literal

from pydantic import BaseModel

Verdict = Literal["stroke", "normal", "refer", "reject"]


class Uncertainty(BaseModel):
    """How sure the answer is; null beside a reject, and `fold_std` where a single student ships.

    `refer_above` is the limit of `value`, which is `measure`.
    """

    mc_std: float | None
    fold_std: float | None
    measure: str
    value: float | None
    refer_above: float


class OutOfDistribution(BaseModel):
    """The out-of-distribution gate: score of the feature gate (higher is stranger), its limit, every objection by its code."""

    score: float | None  # null when it is not finite
    threshold: float
    flags: list[str]


class Prediction(BaseModel):
    """Answer of POST /predict. Same bytes → same answer in every field but `request_id` and `latency_ms`."""

    request_id: str
    model_version: str
    target: str
    input_sha256: str
    decision: Verdict
    reasons: list[str]
    probability: float | None
    threshold: float
    uncertainty: Uncertainty
    ood: OutOfDistribution
    latency_ms: float


class SliceAnswer(BaseModel):
    """One slice of a series: what POST /predict says about it, and where it is."""

    number: int  # 0-based place in the upload
    position: int  # 0 = lowest
    decision: Verdict
    reasons: list[str]
    probability: float | None
    threshold: float
    uncertainty: Uncertainty
    ood: OutOfDistribution
    input_sha256: str


class LeftOut(BaseModel):
    """One file of the upload that was not judged: `code` for programs, `message` for people."""

    number: int  # 0-based place in the upload
    code: str
    message: str


class SeriesPrediction(BaseModel):
    """Answer of POST /predict_series: one decision for the patient, then every slice from the lowest up.

    `probability` and `threshold` are the patient's. `uncertainty` is that of the least sure of the slices whose probabilities
    make the patient's; null beside a reject, and where all of them are rejected. `ood.score` is the share of rejected slices,
    above `ood.threshold` the series is rejected. `input_sha256` is the SHA-256 over the sorted hashes of all files sent.
    """

    request_id: str
    model_version: str
    target: str
    input_sha256: str
    decision: Verdict
    reasons: list[str]
    probability: float | None
    threshold: float
    uncertainty: Uncertainty | None
    ood: OutOfDistribution
    latency_ms: float
    rule: str
    n_slices: int
    slices: list[SliceAnswer]
    left_out: list[LeftOut]


def reason_codes(answer: Prediction | SeriesPrediction) -> list[str]:
    """Why it is no label, for programs: the objections behind a reject, the measure behind a refer."""
    if answer.decision == "refer":
        return [answer.uncertainty.measure] if isinstance(answer, Prediction) else ["series"]
    return list(answer.ood.flags)
