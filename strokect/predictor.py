"""A release that answers: one picture in, one prediction out. Fails closed. No torch."""

import math
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from strokect.files import sha256_bytes
from strokect.release import load_release
from strokect.slices import decode

DATA_KEYS = ("source", "labels", "label_unit", "data_sha256", "split_sha256")
UNGROUPED = "The split was not grouped by patient: these numbers are not patient-independent and may be far too good."

SHUFFLED = "The labels were permuted between patients: this is a control run and its answers mean nothing."


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
    decision: Literal["stroke", "normal", "refer", "reject"]
    reasons: list[str]
    probability: float | None
    threshold: float
    uncertainty: Uncertainty
    ood: OutOfDistribution
    latency_ms: float


class Predictor:
    """A loaded release."""

    def __init__(self, folder: Path | str):
        self.release = load_release(folder)

    def predict(self, data: bytes, request_id: str = "", deadline: float = float("inf")) -> Prediction:
        """Judge the bytes of one picture.

        Raises ImageError (the bytes are no picture), NoResultError (a needed number is missing) or DeadlineError (it is later
        than `deadline`, a time of `time.monotonic`).
        """
        start = time.perf_counter()
        sha256, policy = sha256_bytes(data), self.release.policy
        evidence = self.release.judge.examine(decode(data), sha256, deadline).evidence
        decision = policy.decide(evidence)
        rejected = decision.decision == "reject"
        return Prediction(
            request_id=request_id,
            model_version=self.release.version,
            target=self.release.sidecar["target"],
            input_sha256=sha256,
            decision=decision.decision,
            reasons=list(decision.reasons),
            probability=decision.probability,
            threshold=policy.threshold,
            uncertainty=Uncertainty(
                mc_std=None if rejected else evidence.mc_std,
                fold_std=None if rejected or len(policy.models) == 1 else float(evidence.probabilities.std()),
                measure=policy.measure,
                value=decision.uncertainty,
                refer_above=policy.refer_above,
            ),
            ood=OutOfDistribution(
                score=_finite(evidence.gate_score), threshold=policy.gate_threshold, flags=list(decision.flags)
            ),
            latency_ms=round(1000 * (time.perf_counter() - start), 2),
        )

    def describe(self) -> dict[str, Any]:
        """What GET /model says about the release."""
        release, point = self.release, self.release.operating_point
        answer: dict[str, Any] = {
            "version": release.version,
            "backbone": release.sidecar.get("backbone"),
            "target": release.sidecar["target"],
            "classes": release.sidecar["classes"],
            "models": list(release.policy.models),
            "precision": release.sidecar.get("precision", "fp32"),
            "views": list(point.views),
            "image_size": release.sidecar["image_size"],
            "calibration": point.calibrator.to_json(),
            "thresholds": {"slice": point.slice, "patient": point.patient},
            "policy": release.policy.to_json(),
            "metrics": release.metrics,
            "safety": release.safety,
            "group_by": point.group_by,
            "data": {key: release.created_from.get(key) for key in DATA_KEYS},
            "audit": {"passed": release.audit.get("passed"), "allowed": release.audit.get("allowed", [])},
            "warnings": [],
        }
        if point.group_by == "none":
            answer["warnings"].append(UNGROUPED)
        if release.created_from.get("labels") == "shuffled":
            answer["warnings"].append(SHUFFLED)
        return answer


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
