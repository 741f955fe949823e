"""One picture → evidence → decision: pixel checks, fold models in every view, feature gate, dropout samples, policy. No torch.

Service, safety stage and evaluation all judge through this class, so what is evaluated is what is served.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strokect.calibration import Calibrator
from strokect.engine import Engine, FoldModel, available_cores
from strokect.errors import NoResultError, ReleaseError
from strokect.files import sha256_file
from strokect.gate import Gate, load_gate
from strokect.head_crop import crop_of
from strokect.hounsfield import windows_of
from strokect.pixel_checks import find_flags, measure
from strokect.policy import Evidence, Policy, read_policy
from strokect.slices import Picture, model_input
from strokect.texture import TEXTURE
from strokect.uncertainty import dropout_masks, mc_std, sample_logits

REFIT = "run `dvc repro safety build_bento`"


@dataclass(frozen=True)
class Examination:
    """What was found out about one picture; `Policy.decide` makes a decision of its evidence."""

    evidence: Evidence
    activation: NDArray[np.float32]  # (h, w) class activation map of the unchanged slice
    sampled: NDArray[np.float64]  # (folds, T) logits under Monte Carlo dropout, mean over the views


class Judge:
    """The models that ship under one policy."""

    def __init__(
        self,
        models: Sequence[FoldModel],
        views: Sequence[str],
        calibrator: Calibrator,
        gates: Sequence[Gate],
        policy: Policy,
        workers: int | None = None,
    ):
        """`models` and `gates` in the order of `policy.models`."""
        self.engine = Engine(models, views, workers)
        self.windows = windows_of(self.engine.models[0].sidecar)  # `slices.decode` takes them
        self.crop = crop_of(self.engine.models[0].sidecar)
        self.calibrator = calibrator
        self.gates = tuple(gates)
        self.policy = policy

    def examine(self, picture: Picture, sha256: str, deadline: float = float("inf")) -> Examination:
        """Examine a decoded picture; `sha256` is that of its bytes and seeds the dropout masks.

        The models see its windows; the pixel checks see the brain window, for which their limits are, at the file's resolution.

        Raises DeadlineError after `deadline` (time.monotonic), and NoResultError for a picture decoded for other windows. The
        numbers may be anything: `Policy.decide` checks them.
        """
        if len(picture.planes) != len(self.windows):
            raise NoResultError(f"a picture in {len(picture.planes)} windows for models that see {len(self.windows)}")
        passes = self.engine.run(model_input(picture, self.engine.models[0].sidecar["image_size"], self.crop), deadline)
        logits = passes.logits.astype(np.float64).mean(axis=1)  # (folds,)
        sampled = self._sample(passes.features, sha256)
        evidence = Evidence(
            flags=self._flags(picture),
            gate_scores=np.array(
                [
                    float(gate(features[:1], stages[None])[0])
                    for gate, features, stages in zip(self.gates, passes.features, passes.stages, strict=True)
                ]
            ),
            logits=logits,
            probabilities=self.calibrator(logits),
            mc_std=mean_spread(sampled, self.calibrator),
        )
        return Examination(evidence, passes.activation, sampled)

    def _flags(self, picture: Picture) -> tuple[str, ...]:
        """What the pixel checks object to. Where no brain was found that is said by other flags, and it has no texture."""
        measured = measure(picture)
        flags = find_flags(measured, self.policy.limits)
        distance = float(self.policy.texture.distance(measured))
        usual = distance <= self.policy.texture_limit or (flags and not math.isfinite(distance))
        return tuple(flags if usual else [*flags, TEXTURE])

    def _sample(self, features: NDArray[np.float32], sha256: str) -> NDArray[np.float64]:
        """Features (folds, V, F) → logits of the dropout samples (folds, T), mean over the views."""
        rows = []
        for number, (model, own) in enumerate(zip(self.engine.models, features, strict=True)):
            masks = dropout_masks(sha256, number, len(own), self.policy.samples, own.shape[1], model.dropout)
            sampled = sample_logits(own, model.weight, float(model.bias), model.dropout, masks)
            rows.append(sampled.astype(np.float64).mean(axis=0))
        return np.array(rows)


def mean_spread(sampled: NDArray[np.float64], calibrator: Calibrator) -> float:
    """Logits of dropout samples (folds, T) → standard deviation of the probability over the samples, mean over the folds."""
    return float(np.mean([mc_std(row[None], calibrator) for row in sampled]))


def load_judge(folders: Mapping[str, Path], views: Sequence[str], calibrator: Calibrator, safety: Path, point: Path) -> Judge:
    """Models by name from their exported folders, under the policy and gates in `safety` (models/safety, or a release's).

    Raises ReleaseError naming what is wrong, also when the policy was fitted for other models, other gates or another operating
    point than the file `point`.
    """
    policy = read_policy(safety / "policy.json")
    if sorted(policy.models) != sorted(folders):
        raise ReleaseError(f"policy.json was fitted for the models {sorted(policy.models)}, not {sorted(folders)}: {REFIT}")
    if policy.operating_point_sha256 != sha256_file(point):
        raise ReleaseError(f"policy.json was fitted for another operating point than {point.name}: {REFIT}")
    for name, folder in folders.items():
        for file, found in model_hashes(folder, safety / "gates" / f"{name}.npz").items():
            if policy.sha256[name].get(file) != found:
                raise ReleaseError(f"policy.json was fitted for another {file} of model {name} than this one: {REFIT}")
    # Sessions take most of the start; ONNX Runtime builds them without holding the interpreter's lock.
    with ThreadPoolExecutor(available_cores()) as pool:
        models = list(pool.map(lambda name: FoldModel(folders[name]), policy.models))
    gates = [
        load_gate(safety / "gates" / f"{name}.npz", len(model.weight), model.num_stage_features)
        for name, model in zip(policy.models, models, strict=True)
    ]
    for name, gate in zip(policy.models, gates, strict=True):
        if gate.score != policy.gate:
            raise ReleaseError(f"gates/{name}.npz scores by {gate.score}, policy.json by {policy.gate}: {REFIT}")
    return Judge(models, views, calibrator, gates, policy)


def model_hashes(folder: Path, gate: Path) -> dict[str, str]:
    """SHA-256 of everything a model's numbers depend on. Raises ReleaseError naming a file that is missing."""
    files = {name: folder / name for name in ("model.onnx", "head.npz", "model.json")} | {"gate": gate}
    for name, path in files.items():
        if not path.is_file():
            raise ReleaseError(f"{path}: the {name} of a model is missing: run `dvc repro`")
    return {name: sha256_file(path) for name, path in files.items()}
