"""The bento: what it carries, that it needs no training library, and (slow) that it runs from its own requirements alone."""

import ast
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from conftest import tiny_params, workspace
from fakes import encode, fake_inputs, fake_release, grey_slice
from serving import serve

from stages import build_bento as stage
from stages.build_bento import SERVING_MODULES, bento_version, build_bento, code_files
from strokect.predictor import Predictor
from strokect.release import load_release

ROOT = Path(__file__).parents[1]
CODE = code_files(ROOT)
BENTOFILE = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
OPTIONAL = {
    "dicom_out": "highdicom",
    "dicom_pixels": "gdcm",
}  # serving module → the package that it imports when asked to, which the bento may lack
FORBIDDEN = ("torch", "timm", "sklearn", "scipy", "pandas", "matplotlib", "dvc", "optuna", "wandb", "uvloop")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "strokect":
            yield from (f"strokect.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_the_bento_includes_the_serving_modules_and_nothing_else() -> None:
    assert BENTOFILE["include"] == ["service.py", "page/", *(f"strokect/{m}.py" for m in SERVING_MODULES), "models/release/"]


def test_serving_modules_import_only_each_other_and_what_the_bento_installs() -> None:
    names = {"pillow": "PIL", "prometheus-client": "prometheus_client"}
    installed = {names.get(name, name) for name in (line.split("==")[0] for line in BENTOFILE["python"]["packages"])}
    for path in (path for path in CODE if path.endswith(".py")):
        for module in imports(ROOT / path):
            package, _, name = module.partition(".")
            allowed = installed | sys.stdlib_module_names | {OPTIONAL.get(Path(path).stem, "")}
            known = name in (*SERVING_MODULES, "__version__") if package == "strokect" else package in allowed
            assert known, f"{path} imports {module}"


def test_pins_agree_with_the_lock() -> None:
    locked = {line.split()[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert set(BENTOFILE["python"]["packages"]) <= locked
    assert BENTOFILE["python"]["lock_packages"] is False


def test_importing_the_service_imports_no_training_library() -> None:
    code = f"import sys, service, strokect.dicom_out; print([m for m in {(*FORBIDDEN, 'highdicom')!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_version_follows_release_and_code(tmp_path: Path) -> None:
    for path in CODE:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    version = bento_version(tmp_path, "a" * 12)
    assert version == bento_version(ROOT, "a" * 12) and version != bento_version(ROOT, "b" * 12)
    (tmp_path / "service.py").write_text("changed")
    assert version != bento_version(tmp_path, "a" * 12)


def test_main_writes_release_and_bento(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = fake_inputs(tmp_path / "models")
    (tmp_path / "metrics").mkdir()
    for key, name in (("metrics.json", "evaluate.json"), ("safety.json", "safety.json"), ("audit.json", "audit.json")):
        inputs["files"][key].rename(tmp_path / "metrics" / name)
    built: list[Path] = []
    monkeypatch.setattr(stage, "bento_version", lambda root, version: version)
    monkeypatch.setattr(stage, "build_bento", lambda root, release, version, target: built.append(target))
    with workspace(tmp_path, tiny_params()):
        stage.main()
    assert len(load_release(tmp_path / "models" / "release").models) == 2 and built == [Path("models/bento/strokect.bento")]


@pytest.mark.slow
def test_the_bento_runs_from_its_own_requirements(tmp_path: Path) -> None:
    release = fake_release(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "strokect.bento"
    build_bento(ROOT, release, "0123456789ab", target)
    bento = tmp_path / "bento"
    with tarfile.open(target) as archive:
        names = archive.getnames()
        archive.extractall(bento, filter="data")
    packed = sorted(name.removeprefix("./src/") for name in names if name.startswith("./src/") and (bento / name).is_file())
    assert packed == sorted([*CODE, *(f"models/release/{p.relative_to(release)}" for p in release.rglob("*") if p.is_file())])
    python = tmp_path / "venv" / "bin" / "python"
    uv = ["uv", "--quiet"]
    clean = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([*uv, "venv", "--python", version, str(tmp_path / "venv")], check=True, env=clean)
    install = [*uv, "pip", "install", "--python", str(python), "-r", str(bento / "env" / "python" / "requirements.txt")]
    subprocess.run(install, check=True, env=clean, timeout=400)
    home = {**clean, "BENTOML_HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [str(python), "-m", "bentoml", "import", str(target)], env=home, capture_output=True, check=True, text=True
    )
    assert "strokect:0123456789ab" in done.stdout
    command = [str(python), "-m", "bentoml", "serve", str(bento)]
    with serve(command, tmp_path / "elsewhere", tmp_path / "serving") as server:
        assert requests.get(f"{server.url}/readyz", timeout=30).status_code == 200
        answer = requests.post(f"{server.url}/predict", files={"image": ("a.png", encode(grey_slice()))}, timeout=30).json()
    assert answer["probability"] == pytest.approx(Predictor(release).predict(encode(grey_slice())).probability, abs=1e-6)
    for module in FORBIDDEN:
        done = subprocess.run(
            [str(python), "-c", f"import {module}"], capture_output=True, cwd=tmp_path / "elsewhere", check=False
        )
        assert done.returncode != 0, f"the bento's environment carries {module}"
