"""The container without a container: a Dockerfile's steps run in order in a folder, and what is measured is what is there."""

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks import bento_start
from benchmarks.bento_start import judge, sizes_mb
from benchmarks.dockerfile import instructions, run_steps

DOCKERFILE = """
# a comment
FROM python:3.11-slim AS base-container
ENV LANG=C.UTF-8
ARG BENTO_USER=bentoml
RUN useradd -m $BENTO_USER && \\
    groupadd $BENTO_USER
ARG BENTO_PATH=/home/bentoml/bento
ENV BENTO_PATH=$BENTO_PATH
RUN mkdir $BENTO_PATH && chown bentoml $BENTO_PATH
WORKDIR $BENTO_PATH
COPY --chown=bentoml:bentoml ./env ./env/
RUN mkdir -p /app/.venv/bin && ls > /app/before && pwd > /app/where
ENV PATH=/app/.venv/bin:${PATH}
COPY --chown=bentoml:bentoml . ./
EXPOSE 3000
USER bentoml
RUN ls > /app/after
ENTRYPOINT [ "/home/bentoml/bento/env/docker/entrypoint.sh" ]
"""


def context(folder: Path, dockerfile: str = DOCKERFILE) -> Path:
    (folder / "env" / "docker").mkdir(parents=True)
    (folder / "src").mkdir()
    (folder / "env" / "docker" / "Dockerfile").write_text(dockerfile)
    (folder / "env" / "docker" / "entrypoint.sh").write_text("#!/bin/sh\n")
    return folder


def test_steps_run_in_order_and_only_below_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere")
    monkeypatch.setenv("PATH", f"/home/of/somebody/bin:{os.environ['PATH']}")
    (tmp_path / "root").mkdir()
    image = run_steps(context(tmp_path / "context"), tmp_path / "root")
    root = tmp_path / "root"
    assert (image.base, image.workdir) == ("python:3.11-slim", f"{root}/home/bentoml/bento")
    assert image.entrypoint == root / "home/bentoml/bento/env/docker/entrypoint.sh" and image.entrypoint.is_file()
    assert (root / "app/before").read_text() == "env\n" and (root / "app/after").read_text() == "env\nsrc\n"
    assert (root / "app/where").read_text().strip() == image.workdir
    path = image.environment["PATH"].split(":")
    assert path[0] == f"{root}/app/.venv/bin" and "/home/of/somebody/bin" in path and "VIRTUAL_ENV" not in image.environment
    assert image.left_out == ["useradd -m bentoml", "groupadd bentoml", "chown bentoml /home/bentoml/bento"]


def test_a_failing_or_unknown_step_ends_it(tmp_path: Path) -> None:
    for number, (line, error) in enumerate([("RUN false", subprocess.CalledProcessError), ("ADD . /", ValueError)]):
        (tmp_path / f"root{number}").mkdir()
        with pytest.raises(error):
            run_steps(context(tmp_path / f"context{number}", f"FROM x\n{line}\n"), tmp_path / f"root{number}")


def test_continued_lines_are_one_instruction() -> None:
    assert instructions("RUN a && \\\n    b\n# no\n\nUSER c") == [("RUN", "a &&  b"), ("USER", "c")]


def test_sizes_are_those_of_all_files_largest_first(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_bytes(b"x" * 1_000_000)
    (tmp_path / "large" / "deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (tmp_path / "large" / name).write_bytes(b"x" * 2_000_000)
    assert list(sizes_mb(tmp_path).items()) == [("large", 4.0), ("small.py", 1.0)]


def test_targets_are_upper_bounds() -> None:
    rows = judge({"packages_mb": 400.0, "start above the trivial bento's, s": 2.6})
    assert [(row["target"], row["met"]) for row in rows] == [("≤ 400", True), ("≤ 2.5", False)]


def test_the_trivial_bento_is_one(tmp_path: Path) -> None:
    bento = bento_start.build_trivial(tmp_path)
    assert (bento / bento_start.ENTRYPOINT).is_file() and (bento / "env" / "docker" / "Dockerfile").is_file()
    assert "onnxruntime" not in (bento / "env" / "python" / "requirements.txt").read_text()
