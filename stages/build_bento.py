"""Stage `build_bento`: exported folds + operating point + metrics → models/release and models/bento/strokect.bento."""

import hashlib
import io
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from strokect.ct_slice import ct_slice
from strokect.errors import ReleaseError, run_stage
from strokect.files import atomic_path, read_json, sha256_file
from strokect.hounsfield import BRAIN_ONLY, Windows, windows_of
from strokect.model_card import model_card
from strokect.params import load_params
from strokect.phantom import make_cohort, window
from strokect.release_writer import write_release
from strokect.shipping import shipped_folders
from strokect.sidecar import read_sidecar
from strokect.tracking import start_tracker

# The part of the package that the service imports and the bento carries. None of it may import torch.
SERVING_MODULES = (
    "__init__",
    "access",
    "admission",
    "annotations",
    "answers",
    "archive",
    "audit_chain",
    "audit_log",
    "calibration",
    "decode_messages",
    "decode_worker",
    "decoding",
    "dicom",
    "dicom_out",
    "dicom_pixels",
    "engine",
    "errors",
    "explanation",
    "feature_gate",
    "files",
    "gate",
    "geometry",
    "guard",
    "head_crop",
    "hounsfield",
    "http",
    "identity",
    "images",
    "intended_use",
    "json_log",
    "judge",
    "lifecycle",
    "monitoring",
    "morphology",
    "openapi",
    "operating_point",
    "overlay",
    "pixel_checks",
    "policy",
    "predictor",
    "release",
    "self_test",
    "sequence",
    "series",
    "series_policy",
    "settings",
    "shipping",
    "sidecar",
    "slices",
    "texture",
    "uncertainty",
    "uploads",
    "views",
    "window",
    "worker_pool",
)
SELF_TEST_SLICES = 5


def code_files(root: Path) -> list[str]:
    """What a bento carries besides the release, relative to the repository `root`."""
    page = sorted(f"page/{path.name}" for path in (root / "page").iterdir())
    return ["bentofile.yaml", *page, "service.py", *(f"strokect/{module}.py" for module in SERVING_MODULES)]


def bento_version(root: Path, release_version: str) -> str:
    """12 hex of a hash over the release and the service's code: the same content is the same bento."""
    lines = [release_version, *(f"{path} {sha256_file(root / path)}" for path in code_files(root))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def build_bento(root: Path, release: Path, version: str, target: Path) -> None:
    """Build the bento from `root`'s code and `release`, and export it to `target`."""
    with tempfile.TemporaryDirectory(prefix="strokect-bento-") as scratch, atomic_path(target) as partial:
        # A context of its own holds nothing that must not be packed, and real files where DVC may have left links.
        context, home = Path(scratch) / "context", Path(scratch) / "home"
        for path in code_files(root):
            (context / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, context / path)
        shutil.copytree(release, context / "models" / "release")
        home.mkdir()
        environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
        environment.pop("PYTHONPATH", None)  # the context's own modules are the ones to be built
        exported = Path(scratch) / "strokect.tar"
        for arguments in (("build", "--version", version), ("export", f"strokect:{version}", str(exported))):
            _bentoml(arguments, context, environment)
        # A .bento is that tar under xz. Weights hardly shrink: the lowest preset gives the same size in a tenth of the time.
        with exported.open("rb") as tar, lzma.open(partial, "wb", preset=0) as packed:
            shutil.copyfileobj(tar, packed)


def _bentoml(arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "bentoml", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"`bentoml {' '.join(arguments[:1])}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def self_test_slice(size: int, windows: Windows = BRAIN_ONLY) -> bytes:
    """A synthetic slice as a file that models of these `windows` can judge: a release must not carry anybody's picture."""
    piece = list(make_cohort(patients=1, slices=SELF_TEST_SLICES, size=size, seed=0))[SELF_TEST_SLICES // 2]
    if windows != BRAIN_ONLY:
        return ct_slice(piece.hu)
    stream = io.BytesIO()
    Image.fromarray(window(piece.hu)).save(stream, "PNG")
    return stream.getvalue()


def track_release(folders: dict[str, Path], sidecar: dict[str, Any], versions: dict[str, str]) -> None:
    """Tell the tracker about the exported models. Not the whole release: what the audit found names files."""
    hashes = {key: sidecar[key] for key in ("data_sha256", "split_sha256")}
    models = ("model.onnx", "head.npz", "model.json")
    files = {f"models/{name}/{file}": folder / file for name, folder in folders.items() for file in models}
    with start_tracker(load_params(), "build_bento", "build_bento", sidecar, hashes["split_sha256"]) as tracker:
        tracker.summary(versions)
        files["operating_point.json"] = Path("models/operating_point.json")
        tracker.artifact("exported-models", "model", files, {**hashes, **versions})


def main() -> None:
    """Read the outputs of export, tune_threshold, safety, evaluate and audit; write the release and the bento."""
    models, metrics = Path("models"), Path("metrics")
    point = read_json(models / "operating_point.json")
    # Not every folder there: a fold that params.yaml no longer lists leaves its export behind.
    folders = dict(zip(point["exports"], shipped_folders(point), strict=True))
    files = {
        "operating_point.json": models / "operating_point.json",
        "safety/policy.json": models / "safety" / "policy.json",
        "metrics.json": metrics / "evaluate.json",
        "safety.json": metrics / "safety.json",
        "audit.json": metrics / "audit.json",
    }
    sidecar = read_sidecar(next(iter(folders.values())))
    version = write_release(
        models / "release",
        folders,
        models / "safety" / "gates",
        files,
        model_card(sidecar, point, read_json(files["metrics.json"]), read_json(files["safety.json"])),
        self_test_slice(sidecar["image_size"], windows_of(sidecar)),
    )
    tag = bento_version(Path(), version)
    build_bento(Path(), models / "release", tag, models / "bento" / "strokect.bento")
    track_release(folders, sidecar, {"release": version, "bento": tag})
    print(f"release {version} in {models / 'release'}, bento strokect:{tag} in {models / 'bento'}")


if __name__ == "__main__":
    run_stage(main)
