"""Stage `build_bento`: exported folds + operating point + metrics → models/release and models/bento/strokect.bento."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from strokect.errors import ReleaseError, run_stage
from strokect.files import atomic_path, read_json, sha256_file
from strokect.release import write_release

# The part of the package that the service imports and the bento carries. None of it may import torch.
SERVING_MODULES = (
    "__init__",
    "calibration",
    "dicom",
    "engine",
    "errors",
    "files",
    "http",
    "images",
    "predictor",
    "release",
    "sidecar",
    "slices",
    "views",
)
CODE = ("bentofile.yaml", "service.py", *(f"strokect/{module}.py" for module in SERVING_MODULES))


def bento_version(root: Path, release_version: str) -> str:
    """12 hex of a hash over the release and the service's code: the same content is the same bento."""
    lines = [release_version, *(f"{path} {sha256_file(root / path)}" for path in CODE)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def build_bento(root: Path, release: Path, version: str, target: Path) -> None:
    """Build the bento from `root`'s code and `release`, and export it to `target`."""
    with tempfile.TemporaryDirectory(prefix="strokect-bento-") as scratch, atomic_path(target) as partial:
        # A context of its own holds nothing that must not be packed, and real files where DVC may have left links.
        context, home = Path(scratch) / "context", Path(scratch) / "home"
        for path in CODE:
            (context / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, context / path)
        shutil.copytree(release, context / "models" / "release")
        home.mkdir()
        environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
        environment.pop("PYTHONPATH", None)  # the context's own modules are the ones to be built
        exported = Path(scratch) / "strokect.bento"
        for arguments in (("build", "--version", version), ("export", f"strokect:{version}", str(exported))):
            _bentoml(arguments, context, environment)
        shutil.copyfile(exported, partial)


def _bentoml(arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "bentoml", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"`bentoml {' '.join(arguments[:1])}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def main() -> None:
    """Read the outputs of export, tune_threshold, evaluate and audit; write the release and the bento."""
    models, metrics = Path("models"), Path("metrics")
    # Not every folder there: a fold that params.yaml no longer lists leaves its export behind.
    exports = [models / "export" / str(fold) for fold in read_json(models / "operating_point.json")["folds"]]
    version = write_release(
        models / "release", exports, models / "operating_point.json", metrics / "evaluate.json", metrics / "audit.json"
    )
    tag = bento_version(Path(), version)
    build_bento(Path(), models / "release", tag, models / "bento" / "strokect.bento")
    print(f"release {version} in {models / 'release'}, bento strokect:{tag} in {models / 'bento'}")


if __name__ == "__main__":
    run_stage(main)
