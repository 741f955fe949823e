"""The policy: what becomes of the scores of one picture. One pure function, `Policy.decide`, and the JSON it is read from.

Fails closed: reject comes first, a missing or non-finite number gives no result, and only then is there a label.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from strokect.errors import DataError, NoResultError, ReleaseError
from strokect.files import read_json
from strokect.pixel_checks import REASONS, Limit, limits_from_json, limits_to_json
from strokect.texture import TEXTURE, TEXTURE_REASON, Texture
from strokect.uncertainty import MEASURES, measure_uncertainty

SCHEMA = 1
UNLIKE = "unlike_training"
REJECT_REASONS = {**REASONS, TEXTURE: TEXTURE_REASON, UNLIKE: "unlike any training slice"}
REFER_REASONS = {
    "nearness": "the probability is too near the threshold",
    "entropy": "the probability is too near a half",
    "mc_std": "the probability spreads too much under dropout",
    "feature_distance": "too unlike the training slices to be sure",
}
assert REFER_REASONS.keys() == MEASURES.keys()


@dataclass(frozen=True)
class Evidence:
    """What models and checks found out about one picture."""

    flags: tuple[str, ...]  # codes of the pixel checks that it failed, texture among them
    gate_scores: NDArray[np.float64]  # (folds,) feature gate on the common scale; higher is stranger
    logits: NDArray[np.float64]  # (folds,) mean over the views, dropout off
    probabilities: NDArray[np.float64]  # (folds,) calibrated
    mc_std: float  # standard deviation of the probability under Monte Carlo dropout, mean over the folds

    @property
    def gate_score(self) -> float:
        """Mean over the folds; NaN when there is none."""
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite mean is above every threshold, NaN gives no result
            return float(self.gate_scores.mean()) if len(self.gate_scores) else math.nan


@dataclass(frozen=True)
class Decision:
    """One of four answers. The numbers are None for a reject: a number beside it would be read as an answer."""

    decision: Literal["stroke", "normal", "refer", "reject"]
    reasons: tuple[str, ...]  # for people
    flags: tuple[str, ...]  # what the gate objects to, for programs; empty unless rejected
    probability: float | None
    uncertainty: float | None  # by the measure of the policy; higher is less sure


@dataclass(frozen=True)
class Policy:
    """Limits, thresholds and the refer band of one operating point."""

    models: tuple[str, ...]  # names of the models that ship: "0" … "4", or "student"
    threshold: float  # a slice is "stroke" from this probability on
    limits: dict[str, Limit]  # of the pixel checks
    texture: Texture
    texture_limit: float
    gate: str  # name of the feature gate's score
    gate_threshold: float
    measure: str  # one of uncertainty.MEASURES
    refer_above: float
    samples: int  # Monte Carlo samples
    series_share: float  # a series is rejected when more than this share of its slices is
    operating_point_sha256: str
    sha256: dict[str, dict[str, str]]  # model → the files of judge.model_hashes: what it was fitted for

    def decide(self, evidence: Evidence) -> Decision:
        """Evidence → Decision. Raises NoResultError when a number that a label needs is missing or not finite."""
        flags = [*evidence.flags, *([UNLIKE] if evidence.gate_score > self.gate_threshold else [])]
        if flags:
            return Decision("reject", tuple(REJECT_REASONS[flag] for flag in flags), tuple(flags), None, None)
        probability = self._probability(evidence)
        uncertainty = measure_uncertainty(self.measure, probability, self.threshold, evidence.mc_std, evidence.gate_score)
        if uncertainty > self.refer_above:
            return Decision("refer", (REFER_REASONS[self.measure],), (), probability, uncertainty)
        return Decision("stroke" if probability >= self.threshold else "normal", (), (), probability, uncertainty)

    def _probability(self, evidence: Evidence) -> float:
        """Mean over the models, all of which must have given finite numbers."""
        shape = (len(self.models),)
        # The logits too: the calibrator would turn an infinite one into a confident 0 or 1.
        each = (evidence.logits, evidence.probabilities, evidence.gate_scores)
        if any(numbers.shape != shape for numbers in each) or not np.isfinite([*np.concatenate(each), evidence.mc_std]).all():
            raise NoResultError("a model is missing or gave a number that is not finite")
        probability = float(evidence.probabilities.mean())
        if not (0 <= probability <= 1 and evidence.mc_std >= 0):
            raise NoResultError("a model gave a number that is no probability")
        return probability

    def rejects_series(self, decisions: Sequence[str]) -> bool:
        """Whether a series of slices with these decisions is rejected as a whole: one odd slice of thirty is not enough."""
        return sum(decision == "reject" for decision in decisions) > self.series_share * len(decisions) or not decisions

    def to_json(self) -> dict[str, Any]:
        """The form of policy.json."""
        return {
            "schema": SCHEMA,
            "operating_point_sha256": self.operating_point_sha256,
            "models": list(self.models),
            "sha256": self.sha256,
            "threshold": self.threshold,
            "pixel_checks": limits_to_json(self.limits),
            "texture": {**self.texture.to_json(), "limit": self.texture_limit},
            "feature_gate": {"score": self.gate, "threshold": self.gate_threshold},
            "refer": {"measure": self.measure, "above": self.refer_above},
            "mc_samples": self.samples,
            "series": {"reject_above_share": self.series_share},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Policy":
        """Inverse of `to_json`; raises ReleaseError on another schema and on anything unexpected."""
        try:
            if value["schema"] != SCHEMA:
                raise ReleaseError(f"policy.json: schema {value['schema']}, this version reads {SCHEMA}")
            gate, refer = value["feature_gate"], value["refer"]
            policy = cls(
                models=tuple(str(name) for name in value["models"]),
                threshold=float(value["threshold"]),
                limits=limits_from_json(value["pixel_checks"]),
                texture=Texture.from_json(value["texture"]),
                texture_limit=float(value["texture"]["limit"]),
                gate=str(gate["score"]),
                gate_threshold=float(gate["threshold"]),
                measure=str(refer["measure"]),
                refer_above=float(refer["above"]),
                samples=int(value["mc_samples"]),
                series_share=float(value["series"]["reject_above_share"]),
                operating_point_sha256=str(value["operating_point_sha256"]),
                sha256={str(name): {str(k): str(v) for k, v in files.items()} for name, files in value["sha256"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ReleaseError(f"policy.json is malformed ({error!r})") from None
        policy.check()
        return policy

    def check(self) -> None:
        """Raise ReleaseError unless this policy can decide anything."""
        problem = ""
        if not self.models or len(set(self.models)) != len(self.models):
            problem = f"models {list(self.models)}"
        elif self.sha256.keys() != set(self.models):
            problem = f"hashes for {sorted(self.sha256)}, models {sorted(self.models)}"
        elif not np.isfinite([self.gate_threshold, self.texture_limit, self.refer_above]).all():
            problem = "a threshold is not a finite number"
        elif not (0 <= self.threshold <= 1 and 0 <= self.series_share < 1):
            problem = f"threshold {self.threshold}, series share {self.series_share}: from 0 to 1, the share below 1"
        elif self.measure not in MEASURES or self.samples < 2:
            problem = f"measure {self.measure!r} with {self.samples} samples"
        if problem:
            raise ReleaseError(f"policy.json: {problem}")


def read_policy(path: Path) -> Policy:
    """Read policy.json. Raises ReleaseError naming what is wrong with it."""
    try:
        return Policy.from_json(read_json(path))
    except DataError:
        raise ReleaseError(f"{path.name} is missing or not valid JSON: run `dvc repro safety build_bento`") from None
