"""What a machine that only trains must have, and what a machine that only serves must not need."""

import subprocess
import sys

import pytest
from conftest import ROOT

BLOCK = """
import sys
sys.modules.update(dict.fromkeys({blocked}))  # None: importing it raises ModuleNotFoundError
import {module}
"""
NOT_ON_A_GPU_MACHINE = {"onnxruntime", "onnx", "onnxscript", "pydicom", "dvc", "bentoml", "wandb", "optuna", "hydra", "jinja2"}


@pytest.mark.parametrize("module", ["stages.prepare", "stages.split", "stages.train_fold", "stages.hnm", "benchmarks.train"])
def test_training_runs_where_only_the_training_packages_are(module: str) -> None:
    code = BLOCK.format(blocked=NOT_ON_A_GPU_MACHINE, module=module)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]
