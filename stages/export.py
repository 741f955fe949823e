"""export@k: fold k to ONNX, checked against torch, with the out-of-fold predictions of the artefact that ships."""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from strokect.engine import FoldModel, FoldScores, score_slices
from strokect.errors import run_stage
from strokect.files import atomic_folder, atomic_path, sha256_file
from strokect.manifest import Prepared, load_prepared
from strokect.network import load_network, predict_logits
from strokect.onnx_export import evenly, export_model
from strokect.params import ExportParams, load_params
from strokect.splits import SPLIT, held_out_rows, read_split, training_rows
from strokect.views import make_views


def export_out_of_fold(
    source: Path, folder: Path, fold: int, prepared: Prepared, split: pd.DataFrame, params: ExportParams
) -> tuple[FoldScores, float]:
    """Export the network in `source` to `folder` and score the slices that `fold` holds out.

    Returns the scores and the largest |Δ probability| from torch.
    """
    net, sidecar = load_network(source)
    rows = held_out_rows(split, fold)
    sample, calibration = evenly(rows, params.parity_slices), evenly(training_rows(split, fold), params.calibration_slices)
    worst = export_model(net, sidecar, folder, params, prepared.images[sample], prepared.images[calibration])
    with tqdm(total=len(rows), desc=f"export@{fold} out-of-fold", unit="slice", mininterval=1) as bar:
        return score_slices(FoldModel(folder), prepared.images[rows], params.views, lambda done: bar.update()), worst


def before_mining(fold: int, prepared: Prepared, split: pd.DataFrame, params: ExportParams) -> NDArray[np.float32] | None:
    """Logits (n, V) of the held-out slices by the weights before the fine-tuning on hard slices; None where there was none.

    By torch, as these weights do not ship: what the fine-tuning did must be told, not served.
    """
    folders = [Path("models") / stage / str(fold) for stage in ("folds", "hnm")]
    if len({sha256_file(folder / "model.safetensors") for folder in folders}) == 1:
        return None
    net, _ = load_network(folders[0])
    views = [make_views(image, params.views) for image in prepared.images[held_out_rows(split, fold)]]
    return np.stack([predict_logits(net, np.stack(view), torch.device("cpu")) for view in zip(*views, strict=True)], axis=1)


def main() -> None:
    """Write models/export/<k>/: model.onnx, head.npz, model.json, oof.npz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fold", type=int, required=True)
    fold = parser.parse_args().fold
    params = load_params().export
    prepared = load_prepared()
    split = read_split(SPLIT, prepared.manifest)
    rows, trained = held_out_rows(split, fold), Path(f"models/hnm/{fold}")
    source = trained if params.student == "none" else Path(f"models/student/{fold}")

    with atomic_folder(f"models/export/{fold}") as folder:
        scores, worst = export_out_of_fold(source, folder, fold, prepared, split, params)
        arrays: dict[str, Any] = {"rows": rows, "logits": scores.logits, "features": scores.features, "stages": scores.stages}
        if source != trained or params.precision != "fp32":  # what ships is judged against the fold model in fp32
            plain = dataclasses.replace(params, precision="fp32")
            with tempfile.TemporaryDirectory() as scratch:
                arrays["reference"] = export_out_of_fold(trained, Path(scratch), fold, prepared, split, plain)[0].logits
        if (before := before_mining(fold, prepared, split, params)) is not None:
            arrays["before_mining"] = before
        with atomic_path(folder / "oof.npz") as path:
            np.savez(path, **arrays, views=np.array(params.views))
    print(
        f"export@{fold}: {params.precision}, at most {worst:.1e} in probability from torch on "
        f"{min(params.parity_slices, len(rows))} slices; {len(rows)} out-of-fold slices scored"
    )


if __name__ == "__main__":
    run_stage(main)
