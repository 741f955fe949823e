"""export@k: fold k to ONNX, checked against torch, with the out-of-fold predictions of the artefact that ships."""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from strokect.engine import FoldModel, score_slices
from strokect.errors import run_stage
from strokect.files import atomic_folder, atomic_path, sha256_file, write_json
from strokect.fold import SPLIT
from strokect.manifest import load_prepared
from strokect.network import load_network
from strokect.onnx_export import check_parity, export_fold
from strokect.params import load_params
from strokect.splits import held_out_rows, read_split


def main() -> None:
    """Write models/export/<k>/: model.onnx, head.npz, model.json, oof.npz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fold", type=int, required=True)
    fold = parser.parse_args().fold
    params = load_params().export
    prepared = load_prepared()
    rows = held_out_rows(read_split(SPLIT, prepared.manifest), fold)
    net, sidecar = load_network(Path(f"models/hnm/{fold}"))

    with atomic_folder(f"models/export/{fold}") as folder:
        export_fold(net, folder, channels=sidecar["channels"], size=sidecar["image_size"])
        write_json(folder / "model.json", {**sidecar, "stage": "export", "onnx_sha256": sha256_file(folder / "model.onnx")})
        exported = FoldModel(folder)
        sample = rows[np.linspace(0, len(rows) - 1, min(params.parity_slices, len(rows))).astype(int)]
        worst = check_parity(net, exported, prepared.images[sample], params.parity_tolerance)
        with tqdm(total=len(rows), desc=f"export@{fold} out-of-fold", unit="slice", mininterval=1) as bar:
            scores = score_slices(exported, prepared.images[rows], params.views, lambda done: bar.update())
        with atomic_path(folder / "oof.npz") as path:
            np.savez(path, rows=rows, logits=scores.logits, features=scores.features, views=np.array(params.views))
    print(f"export@{fold}: torch and ONNX agree to {worst:.1e} on {len(sample)} slices; {len(rows)} out-of-fold slices scored")


if __name__ == "__main__":
    run_stage(main)
