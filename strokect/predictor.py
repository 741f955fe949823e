"""One picture → one prediction: fold models × views → calibrated probability → decision. Fails closed. No torch."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from strokect.engine import FoldModel, available_cores
from strokect.errors import StrokectError
from strokect.files import sha256_bytes
from strokect.release import load_release
from strokect.slices import load_slice
from strokect.views import make_views

DATA_KEYS = ("source", "labels", "label_unit", "data_sha256", "split_sha256")
UNGROUPED = "The split was not grouped by patient: these numbers are not patient-independent and may be far too good."

SHUFFLED = "The labels were permuted between patients: this is a control run and its answers mean nothing."


class NoResultError(StrokectError):
    """The models gave a number that is not finite; no label may be made of it."""


class Uncertainty(BaseModel):
    """Spread of the probability. A part this release does not have is null."""

    mc_std: float | None = None
    fold_std: float | None = None
    refer_above: float | None = None


class OutOfDistribution(BaseModel):
    """What the out-of-distribution gate says; all null as long as the release has no gate."""

    score: float | None = None
    threshold: float | None = None
    flags: list[str] | None = None


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
    """A loaded release and the one thread pool all its requests share."""

    def __init__(self, folder: Path | str):
        self.release = load_release(folder)
        self._pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="fold")
        # The whole path once: models that cannot run are found now, and the first client does not pay for lazy imports.
        self.predict(_blank_picture())

    def predict(self, data: bytes, request_id: str = "") -> Prediction:
        """Judge the bytes of one picture. Raises ImageError (not judgeable) or NoResultError (no finite number)."""
        start = time.perf_counter()
        point, sidecar = self.release.operating_point, self.release.sidecar
        image = load_slice(data, sidecar["image_size"]).pixels
        logits = self.fold_logits(image)
        probabilities = point.calibrator(logits)  # (folds,)
        probability = float(probabilities.mean())
        # The logits too: the calibrator would turn an infinite one into a confident 0 or 1.
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all() and 0 <= probability <= 1):
            raise NoResultError("a fold model gave a number that is not finite")
        return Prediction(
            request_id=request_id,
            model_version=self.release.version,
            target=sidecar["target"],
            input_sha256=sha256_bytes(data),
            decision="stroke" if probability >= point.slice_threshold else "normal",
            reasons=[],
            probability=probability,
            threshold=point.slice_threshold,
            uncertainty=Uncertainty(fold_std=float(probabilities.std())),
            ood=OutOfDistribution(),
            latency_ms=round(1000 * (time.perf_counter() - start), 2),
        )

    def fold_logits(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(1, S, S) uint8 → mean logit over the views of each fold (folds,).

        Every fold and view is its own job: a batch of one, so the answer depends on nothing but the picture.
        """
        views = make_views(image, self.release.operating_point.views)
        jobs = [[self._pool.submit(_logit, model, view) for view in views] for model in self.release.models]
        logits = np.array([[job.result() for job in row] for row in jobs])  # (folds, views)
        return logits.mean(axis=1)

    def describe(self) -> dict[str, Any]:
        """What GET /model says about the release."""
        release, point = self.release, self.release.operating_point
        answer: dict[str, Any] = {
            "version": release.version,
            "backbone": release.sidecar.get("backbone"),
            "target": release.sidecar["target"],
            "classes": release.sidecar["classes"],
            "folds": len(release.models),
            "views": list(point.views),
            "image_size": release.sidecar["image_size"],
            "calibration": point.calibrator.to_json(),
            "thresholds": {"slice": point.slice, "patient": point.patient},
            "metrics": release.metrics,
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


def _blank_picture() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, "PNG")
    return stream.getvalue()


def _logit(model: FoldModel, view: NDArray[np.uint8]) -> float:
    features, _ = model.run(view)  # the feature map is not needed for a prediction
    return float(model.logit(features))
