"""Running exported fold models with ONNX Runtime: independent batch-1 jobs over single-threaded sessions.

Parallel over jobs beats parallel inside operators on a CPU, and a batch of one makes a slice's answer independent of its
neighbours. Imports neither torch nor timm.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from strokect.errors import DeadlineError, ReleaseError
from strokect.sidecar import read_sidecar
from strokect.views import VIEWS, make_views


@dataclass(frozen=True)
class FoldScores:
    """What one exported fold model says about n slices in V views."""

    logits: NDArray[np.float32]  # (n, V)
    features: NDArray[np.float32]  # (n, V, F) pooled features
    stages: NDArray[np.float32]  # (n, G) pooled stages of the unchanged slice


@dataclass(frozen=True)
class Whole:
    """Everything one fold model says about one slice."""

    features: NDArray[np.float32]  # (F,) pooled features
    stages: NDArray[np.float32]  # (G,) pooled stages: the mean of every channel after each stage of the network, stem first
    activation: NDArray[np.float32]  # (h, w) class activation map; see `activation_map`


class FoldModel:
    """One exported fold: `model.onnx` (slice → pooled features, last feature map, pooled stages) and its linear `head.npz`."""

    def __init__(self, folder: Path | str):
        folder = Path(folder)
        self.sidecar = read_sidecar(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # One arena for all sessions, nothing planned per session: five B3 folds hold 0.7 GB instead of 1.3, at the same speed.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            with _ARENA_LOCK:  # models are loaded by several threads
                _share_arena()
            # Bytes, not a path: the graph then cannot pull in external data from beside the file.
            graph = (folder / "model.onnx").read_bytes()
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            with np.load(folder / "head.npz", allow_pickle=False) as head:
                self.weight = head["weight"].astype(np.float32)  # (F,)
                self.bias = np.float32(head["bias"])
                self.dropout = float(head["dropout"])
            self.num_stage_features = int({out.name: out.shape for out in self._session.get_outputs()}["stages"][1])
        except Exception as error:  # onnxruntime and zipfile raise many types; every one of them means: this fold is unusable
            raise ReleaseError(f"{folder}: cannot load model.onnx and head.npz ({type(error).__name__})") from error
        if self.weight.shape != (self.sidecar["num_features"],):
            raise ReleaseError(
                f"{folder}/head.npz: {self.weight.shape} weights, but model.json says {self.sidecar['num_features']} features"
            )

    def run(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(C, S, S) uint8 → pooled features (F,)."""
        features: NDArray[np.float32] = self._session.run(["features"], {"image": image[None].astype(np.float32)})[0]
        return features[0]

    def run_whole(self, image: NDArray[np.uint8]) -> Whole:
        """(C, S, S) uint8 → Whole, by the same pass."""
        outputs = self._session.run(["features", "stages", "map"], {"image": image[None].astype(np.float32)})
        features, stages, feature_map = (output[0] for output in outputs)
        return Whole(features, stages, activation_map(feature_map, self.weight))

    def logit(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pooled features (..., F) → logit of "stroke" (...), dropout off."""
        return features @ self.weight + self.bias


_ARENA_LOCK = threading.Lock()


@functools.cache
def _share_arena() -> None:
    """Register the arena that sessions with `session.use_env_allocators` take their activations from."""
    info = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    # No limit, grown by what is asked for (1) instead of to the next power of two, the rest as it is by default (-1).
    onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg(0, 1, -1, -1))


def activation_map(feature_map: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Last feature map (F, h, w), head weights (F,) → what each place adds to the logit of "stroke" (h, w), without the bias.

    The class activation map (Zhou et al. 2016). With global average pooling and a linear head the gradient of the logit by the
    map is weight / (h·w) everywhere, so max(map, 0) is exactly Grad-CAM (Selvaraju et al. 2017), without a backward pass.
    """
    places = feature_map.shape[1] * feature_map.shape[2]
    return np.asarray(np.tensordot(weight / np.float32(places), feature_map, axes=1), np.float32)


@dataclass(frozen=True)
class Passes:
    """What K fold models say about one slice in V views, dropout off."""

    features: NDArray[np.float32]  # (K, V, F) pooled features
    stages: NDArray[np.float32]  # (K, G) pooled stages of the unchanged slice
    logits: NDArray[np.float32]  # (K, V)
    activation: NDArray[np.float32]  # (h, w) class activation map of the unchanged slice, mean over the folds


class Engine:
    """Fold models and the one pool of workers that all requests share: as many workers as cores, one job per fold and view."""

    def __init__(self, models: Sequence[FoldModel], views: Sequence[str], workers: int | None = None):
        check_views(views)
        self.models = tuple(models)
        self.views = tuple(views)
        self._pool = ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="fold")

    def run(self, image: NDArray[np.uint8], deadline: float = float("inf")) -> Passes:
        """(C, S, S) uint8 → Passes. `deadline` is a time of `time.monotonic`, checked before each job.

        Raises DeadlineError when it passes; jobs that have not begun are then dropped, so no work is left behind.
        """
        views = make_views(image, self.views)
        jobs = [
            self._pool.submit(_pass, model, view, number == 0, deadline)
            for model in self.models
            for number, view in enumerate(views)
        ]
        try:
            results = [job.result() for job in jobs]
        finally:
            for job in jobs:
                job.cancel()
        features = np.stack([features for features, _ in results]).reshape(len(self.models), len(views), -1)
        logits = np.stack([model.logit(rows) for model, rows in zip(self.models, features, strict=True)])
        unchanged = [whole for _, whole in results if whole is not None]
        activation = np.stack([whole.activation for whole in unchanged]).mean(axis=0, dtype=np.float32)
        return Passes(features, np.stack([whole.stages for whole in unchanged]), logits, np.asarray(activation))


def _pass(
    model: FoldModel, view: NDArray[np.uint8], unchanged: bool, deadline: float
) -> tuple[NDArray[np.float32], Whole | None]:
    if time.monotonic() > deadline:
        raise DeadlineError("the time allowed for this request is over")
    if not unchanged:
        return model.run(view), None
    whole = model.run_whole(view)
    return whole.features, whole


def available_cores() -> int:
    """Cores this process may use (a container's CPU mask counts)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def score_slices(
    model: FoldModel,
    images: NDArray[np.uint8],
    views: Sequence[str],
    progress: Callable[[int], object] = lambda done: None,
) -> FoldScores:
    """Score images (n, C, S, S) uint8 in every view. `progress` is called with the number of slices done."""
    check_views(views)

    def score(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        unchanged, *others = make_views(image, views)
        whole = model.run_whole(unchanged)
        return np.stack([whole.features, *map(model.run, others)]), whole.stages  # (V, F), (G,)

    features = np.empty((len(images), len(views), len(model.weight)), np.float32)
    stages = np.empty((len(images), model.num_stage_features), np.float32)
    with ThreadPoolExecutor(available_cores()) as pool:
        for i, row in enumerate(pool.map(score, images)):
            features[i], stages[i] = row
            progress(i + 1)
    return FoldScores(model.logit(features), features, stages)


def check_views(views: Sequence[str]) -> None:
    """Raise ReleaseError unless `views` are known and begin with the unchanged slice, which map and gate are about."""
    unknown = [name for name in views if name not in VIEWS]
    if unknown or not views or views[0] != "identity":
        raise ReleaseError(f"views {list(views)}: expected identity first, then any of {', '.join(VIEWS)}")
