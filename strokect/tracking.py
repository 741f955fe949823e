"""Weights & Biases behind one interface: `Tracker` itself does nothing, `start_tracker` gives one that does where params say so.

Tracking sees what a run says about itself and never acts on it: weights and figures are the same with and without. wandb is
asked for nothing where it is disabled, and whatever goes wrong in it costs one line and some seconds, never the run.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from strokect.files import write_text
from strokect.params import Params
from strokect.run_params import TrackingParams

# Longest that a run may wait for a server that does not answer, when it starts and when it ends.
INIT_TIMEOUT_S, FINISH_TIMEOUT_S = 15, 30
# Set before wandb's service starts: without these it sends crash reports, code and the git diff even where nobody asked for it.
PRIVATE = {"WANDB_ERROR_REPORTING": "false", "WANDB_DISABLE_CODE": "true", "WANDB_DISABLE_GIT": "true", "WANDB_SILENT": "true"}
SHAPING = ("split", "model", "train", "hnm")  # sections that make the fold models; they name the run group


class Tracker:
    """The tracker of `tracking.wandb: disabled`, and the interface of the other: takes everything, says nothing."""

    listens = False  # whether it is worth waiting for figures that are still on a GPU

    def step(self, row: Mapping[str, float]) -> None:
        """One optimiser step: `step` (counted from 1 over the whole run) and its figures."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """One finished epoch: `epoch` (from 1) and its figures."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Figures of the run as a whole."""

    def plots(self, folder: Path) -> None:
        """The PNG files of a folder: drawings of figures, not of patients."""

    def slices(self, name: str, make: Callable[[], NDArray[np.uint8]]) -> None:
        """Pictures (n, C, S, S) uint8, made and shown only with `tracking.log_images`, and without saying whose they are."""

    def artifact(self, name: str, kind: str, files: Mapping[str, Path], metadata: Mapping[str, Any]) -> None:
        """Files by the names that they get in the artifact."""

    def finish(self, failed: bool = False) -> None:
        """End of the run; what is called later does nothing."""

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.finish(failed=error is not None)


class WandbTracker(Tracker):
    """A W&B run. `run_file` remembers its id until it has finished, so that a killed and resumed run goes on under that id."""

    listens = True

    def __init__(self, params: TrackingParams, about: Mapping[str, Any], run_file: Path | None):
        self.params, self.run_file, self.name = params, run_file, about["name"]
        self.run: Any = None
        online = params.wandb == "online"
        if not (online and self._attempt(lambda: self._start("online", about), "this run is tracked offline")):
            self._attempt(lambda: self._start("offline", about))

    def step(self, row: Mapping[str, float]) -> None:
        self._log("step", row)

    def epoch(self, row: Mapping[str, float]) -> None:
        self._log("epoch", row)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._tell(lambda wandb: self.run.summary.update(dict(values)))

    def plots(self, folder: Path) -> None:
        pictures = sorted(folder.glob("*.png"))
        self._tell(lambda wandb: self.run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in pictures}))

    def slices(self, name: str, make: Callable[[], NDArray[np.uint8]]) -> None:
        if self.params.log_images:
            self._tell(lambda wandb: self.run.log({name: [wandb.Image(np.hstack(picture), mode="L") for picture in make()]}))

    def artifact(self, name: str, kind: str, files: Mapping[str, Path], metadata: Mapping[str, Any]) -> None:
        def send(wandb: Any) -> None:
            artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
            for inside, path in files.items():
                artifact.add_file(str(path), name=inside)
            self.run.log_artifact(artifact)

        self._tell(send)

    def finish(self, failed: bool = False) -> None:
        if self.run is not None:
            self._attempt(
                lambda: self.run.finish(exit_code=int(failed)),
                f"what was not sent stays on disk: wandb sync {Path(self.run.dir).parent}",
            )
        self.run = None
        if not failed and self.run_file is not None:
            self.run_file.unlink(missing_ok=True)

    def _log(self, axis: str, row: Mapping[str, float]) -> None:
        """`axis` is logged as a value, because W&B's own step counter would refuse what a resumed run does again."""
        self._tell(
            lambda wandb: self.run.log({axis: row[axis], **{f"{axis}/{k}": float(v) for k, v in row.items() if k != axis}})
        )

    def _tell(self, action: Callable[[Any], Any]) -> None:
        """Do something with the run, if there is one, and with the module wandb."""
        if self.run is not None:
            self._attempt(lambda: action(importlib.import_module("wandb")))

    def _attempt(self, action: Callable[[], Any], otherwise: str = "it goes on untracked") -> bool:
        """Whether `action` worked; an error ends tracking and is said in one line."""
        try:
            action()
        except Exception as error:  # wandb raises its own, and those of sockets, threads and its service process
            reason = " ".join(str(error).split())[:200]
            print(f"{self.name}: W&B {self.params.wandb} failed, {otherwise} ({type(error).__name__}: {reason})", flush=True)
            self.run = None
            if wandb := sys.modules.get(
                "wandb"
            ):  # its service process holds the run's id, or is dead and would be missed at exit
                with contextlib.suppress(Exception):
                    wandb.teardown()
            return False
        return True

    def _start(self, mode: Literal["online", "offline"], about: Mapping[str, Any]) -> None:
        folder = Path(os.environ.get("WANDB_DIR", "."))
        os.environ.update(PRIVATE, WANDB_MODE=mode)
        # Where wandb keeps an artifact's files until they are sent; by default in the home folder.
        os.environ.setdefault("WANDB_DATA_DIR", str((folder / "wandb" / "data").absolute()))
        wandb = importlib.import_module("wandb")
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise ConnectionError("no account on this machine: run `wandb login` or set WANDB_API_KEY")
        settings = wandb.Settings(
            console="off",  # what the stages print, progress bars included
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            finish_timeout=FINISH_TIMEOUT_S,
            finish_timeout_raises=True,
            init_timeout=INIT_TIMEOUT_S,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,  # user, host, paths and command line
            x_disable_stats=True,
            x_save_requirements=False,
        )
        run = wandb.init(
            id=self._run_id(), resume="allow", project=self.params.project, mode=mode, dir=folder, settings=settings, **about
        )
        for axis in ("step", "epoch"):
            run.define_metric(axis)
            run.define_metric(f"{axis}/*", step_metric=axis)
        self.run = run
        where = run.url if mode == "online" else f"run {run.id} in {folder / 'wandb'}"
        print(f"{self.name}: W&B {mode}, {where}, group {about['group']}", flush=True)

    def _run_id(self) -> str:
        """A new id, or that of the run that was killed."""
        if self.run_file is None:
            return secrets.token_hex(4)
        if not self.run_file.is_file():
            write_text(self.run_file, secrets.token_hex(4))
        return self.run_file.read_text(encoding="utf-8")


def run_group(params: Params, cohort: Mapping[str, Any], split_sha256: str) -> str:
    """The name that all runs of one pipeline share without talking to each other: of its data, its split and what trains."""
    shaping = {name: dataclasses.asdict(getattr(params, name)) for name in SHAPING}
    content = json.dumps([cohort["data_sha256"], split_sha256, shaping], sort_keys=True)
    return f"{cohort['source']}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of metrics/evaluate.json without their intervals, by names like `slice/roc_auc`."""
    figures = {
        f"{level}/{name}": figure["value"]
        for level in ("slice", "patient")
        for name, figure in metrics[level].items()
        if isinstance(figure, dict) and set(figure) == {"value", "ci95"}  # not the same value with its analytic interval
    }
    return {"part": metrics["part"], "n_slices": metrics["n_slices"], "n_patients": metrics["n_patients"], **figures}


def start_tracker(
    params: Params,
    job: str,
    name: str,
    cohort: Mapping[str, Any],
    split_sha256: str,
    *,
    group: str = "",
    config: Mapping[str, Any] | None = None,
    run_file: Path | None = None,
) -> Tracker:
    """The tracker that `tracking` asks for, with a run called `name` of the kind `job`.

    `cohort` needs source, labels, image_size and data_sha256 (cohort.json and model.json have them); `group` is the pipeline's
    by default, `config` is added to the params. A starting-weights file goes by the word "file": its path is this machine's.
    """
    if params.tracking.wandb == "disabled":
        return Tracker()
    sections = {section: dataclasses.asdict(getattr(params, section)) for section in SHAPING}
    sections["model"]["weights"] = params.model.weights_kind
    data = {key: cohort[key] for key in ("source", "labels", "image_size", "data_sha256")}
    about = {
        "name": name,
        "job_type": job,
        "group": group or run_group(params, cohort, split_sha256),
        "config": {"data": data, "split_sha256": split_sha256, **sections, **(config or {})},
    }
    return WandbTracker(params.tracking, about, run_file)
