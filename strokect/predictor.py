"""A release that answers: one picture in, one prediction out. Fails closed. No torch."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.answers import LeftOut, OutOfDistribution, Prediction, SeriesPrediction, SliceAnswer, Uncertainty
from strokect.errors import DeadlineError
from strokect.files import sha256_bytes
from strokect.hounsfield import windows_to_json
from strokect.judge import Examination
from strokect.operating_point import series_probability
from strokect.policy import Decision, Evidence
from strokect.release import load_release
from strokect.series import Arranged, Member, arrange
from strokect.series_policy import SeriesDecision, decide_series, rule_in_words
from strokect.slices import Picture, decode

DATA_KEYS = ("source", "labels", "label_unit", "patient_level_verifiable", "data_sha256", "split_sha256")
UNGROUPED = "The split was not grouped by patient: these numbers are not patient-independent and may be far too good."
UNVERIFIABLE = "The data had no patient ids: its groups are clusters of near-duplicates, and patient level is not verifiable."
SHUFFLED = "The labels were permuted between patients: this is a control run and its answers mean nothing."


class Predictor:
    """A loaded release."""

    def __init__(self, folder: Path | str):
        self.release = load_release(folder)
        self.windows = self.release.judge.windows  # what `slices.decode` and decoders have to make of a file

    def predict(
        self, data: bytes, request_id: str = "", deadline: float = float("inf"), picture: Picture | None = None
    ) -> Prediction:
        """Judge the bytes of one picture; `picture` is what they decode to, if that is known already.

        Raises ImageError (the bytes are no picture), NoResultError (a needed number is missing) or DeadlineError (it is later
        than `deadline`, a time of `time.monotonic`).
        """
        return self.explain(data, picture, deadline, request_id)[0]

    def explain(
        self, data: bytes, picture: Picture | None = None, deadline: float = float("inf"), request_id: str = ""
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """`predict`, and the class activation map (h, w) of the same examination. A rejected picture's map means nothing."""
        start = time.perf_counter()
        sha256, policy = sha256_bytes(data), self.release.policy
        examination = self.release.judge.examine(picture or decode(data, self.windows), sha256, deadline)
        decision = policy.decide(examination.evidence)
        prediction = Prediction(
            request_id=request_id,
            model_version=self.release.version,
            target=self.release.sidecar["target"],
            input_sha256=sha256,
            decision=decision.decision,
            reasons=list(decision.reasons),
            probability=decision.probability,
            threshold=policy.threshold,
            uncertainty=self._uncertainty(examination.evidence, decision),
            ood=self._ood(examination.evidence, decision),
            latency_ms=_since(start),
        )
        return prediction, examination.activation

    def predict_series(
        self,
        members: Sequence[Member],
        request_id: str = "",
        deadline: float = float("inf"),
        gone: Callable[[], bool] = lambda: False,
    ) -> SeriesPrediction:
        """Judge the files of one upload (see `series.read_series`) as one series of one patient.

        Each slice is judged as `predict` does, the patient as stages/evaluate.py does and by `series_policy.decide_series`.
        Raises NoResultError when one slice gives no result: without it nothing is known about the patient. DeadlineError as
        `predict`, and when `gone`, which is asked before each slice, says that nobody waits any more.
        """
        start = time.perf_counter()
        policy, point, arranged = self.release.policy, self.release.operating_point, arrange(members)
        evidence = [self._examine(member, deadline, gone).evidence for member in arranged.order]
        decisions = [policy.decide(found) for found in evidence]
        series = self._decide_series(evidence, decisions, arranged)
        answers = [
            self._slice_answer(position, *judged)
            for position, judged in enumerate(zip(arranged.order, evidence, decisions, strict=True))
        ]
        # The least sure of the slices that the patient's probability is made of: above `refer_above` the series is not normal.
        unsure = [answers[i].uncertainty for i in series.top if decisions[i].uncertainty is not None]
        rejected = sum(decision.decision == "reject" for decision in decisions)
        return SeriesPrediction(
            request_id=request_id,
            model_version=self.release.version,
            target=self.release.sidecar["target"],
            input_sha256=sha256_bytes("\n".join(sorted(member.sha256 for member in members)).encode()),
            decision=series.decision,
            reasons=list(series.reasons),
            probability=series.probability,
            threshold=float(point.patient["threshold"]),
            uncertainty=max(unsure, key=lambda found: found.value or 0.0, default=None),
            ood=OutOfDistribution(
                score=rejected / len(decisions) if decisions else None, threshold=policy.series_share, flags=list(series.flags)
            ),
            latency_ms=_since(start),
            rule=rule_in_words(point.patient, arranged.by),
            n_slices=len(answers),
            slices=answers,
            left_out=[LeftOut(number=number, code=code, message=message) for number, code, message in arranged.left_out],
        )

    def _examine(self, member: Member, deadline: float, gone: Callable[[], bool]) -> Examination:
        if gone():
            raise DeadlineError("nobody waits for the answer")
        assert member.picture is not None  # arranged members are readable
        return self.release.judge.examine(member.picture, member.sha256, deadline)

    def _decide_series(self, evidence: Sequence[Evidence], decisions: Sequence[Decision], arranged: Arranged) -> SeriesDecision:
        policy, patient = self.release.policy, self.release.operating_point.patient
        own = np.array([found.probabilities.mean() for found in evidence], np.float64)
        logits = np.array([found.logits for found in evidence], np.float64)  # (n, models)
        one = np.zeros(len(own), np.str_)  # the id of the one patient
        in_series = series_probability(patient, own, logits, one, np.arange(len(own))) if len(own) else own
        return decide_series(policy, patient, decisions, own, in_series, arranged.incomplete, arranged.several)

    def _slice_answer(self, position: int, member: Member, evidence: Evidence, decision: Decision) -> SliceAnswer:
        return SliceAnswer(
            number=member.number,
            position=position,
            decision=decision.decision,
            reasons=list(decision.reasons),
            probability=decision.probability,
            threshold=self.release.policy.threshold,
            uncertainty=self._uncertainty(evidence, decision),
            ood=self._ood(evidence, decision),
            input_sha256=member.sha256,
        )

    def _uncertainty(self, evidence: Evidence, decision: Decision) -> Uncertainty:
        policy, rejected = self.release.policy, decision.decision == "reject"
        return Uncertainty(
            mc_std=None if rejected else evidence.mc_std,
            fold_std=None if rejected or len(policy.models) == 1 else float(evidence.probabilities.std()),
            measure=policy.measure,
            value=decision.uncertainty,
            refer_above=policy.refer_above,
        )

    def _ood(self, evidence: Evidence, decision: Decision) -> OutOfDistribution:
        threshold = self.release.policy.gate_threshold
        return OutOfDistribution(score=_finite(evidence.gate_score), threshold=threshold, flags=list(decision.flags))

    def describe(self) -> dict[str, Any]:
        """What GET /model says about the release."""
        release, point = self.release, self.release.operating_point
        # The figures know of one exception more than the audit may: that of the shuffle control, which comes after the split.
        allowed = [*release.audit.get("allowed", []), *release.metrics.get("audit_allowed", [])]
        answer: dict[str, Any] = {
            "version": release.version,
            "backbone": release.sidecar.get("backbone"),
            "target": release.sidecar["target"],
            "classes": release.sidecar["classes"],
            "models": list(release.policy.models),
            "precision": release.sidecar.get("precision", "fp32"),
            "views": list(point.views),
            "image_size": release.sidecar["image_size"],
            "crop": release.judge.crop,
            "windows_hu": windows_to_json(self.windows),
            "calibration": point.calibrator.to_json(),
            "thresholds": {"slice": point.slice, "patient": point.patient},
            "policy": release.policy.to_json(),
            "metrics": release.metrics,
            "safety": release.safety,
            "group_by": point.group_by,
            "site": point.site,  # None unless this is a recalibrated release: its name, cases and parent version
            "data": {key: release.created_from.get(key) for key in DATA_KEYS},
            "audit": {"passed": release.audit.get("passed"), "allowed": list(dict.fromkeys(allowed))},
            "warnings": [],
        }
        if point.group_by == "none":
            answer["warnings"].append(UNGROUPED)
        if release.created_from.get("patient_level_verifiable") is False:
            answer["warnings"].append(UNVERIFIABLE)
        if release.created_from.get("labels") == "shuffled":
            answer["warnings"].append(SHUFFLED)
        return answer


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _since(start: float) -> float:
    return round(1000 * (time.perf_counter() - start), 2)
