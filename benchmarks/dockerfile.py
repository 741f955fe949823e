"""The steps of a bento's Dockerfile, run without Docker: in a folder instead of an image's root.

Paths of the image are mapped into the folder, and programs that change the machine are left out and counted (`LEFT_OUT`). An
instruction that is not known ends it, so that a Dockerfile that BentoML writes differently one day is not half run.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

LEFT_OUT = ("apt-get", "chown", "groupadd", "useradd")  # users and system packages
INHERITED = re.compile(r"(BENTOML|STROKECT|PYTHON|VIRTUAL_ENV|OMP)")  # of this process's environment: what the image has not


@dataclass
class Image:
    """What the steps left behind."""

    root: Path  # stands for /
    base: str = ""  # FROM
    environment: dict[str, str] = field(default_factory=dict)  # ENV and ARG, paths mapped
    workdir: str = "/"
    entrypoint: Path = Path()
    left_out: list[str] = field(default_factory=list)  # commands that were not run

    def place(self, text: str) -> str:
        """`text` with the image's paths mapped into the folder."""
        return re.sub(r"(?<![\w./])/(app|home)\b", lambda match: f"{self.root}/{match[1]}", text)

    def filled(self, text: str) -> str:
        """`text` with $NAME and ${NAME} replaced by their values so far."""
        return re.sub(r"\$\{?(\w+)\}?", lambda match: self.environment[match[1]], text)


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, argument) in order; comments dropped, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, argument.strip()) for name, _, argument in (line.partition(" ") for line in joined.splitlines())]


def run_steps(context: Path, root: Path) -> Image:
    """Run `context`/env/docker/Dockerfile with the build context `context` into the empty folder `root`."""
    image = Image(root, environment={name: value for name, value in os.environ.items() if not INHERITED.match(name)})
    (root / "home" / "bentoml").mkdir(parents=True)  # useradd would
    stand_ins = root / "left_out"
    stand_ins.mkdir()
    for name in LEFT_OUT:
        (stand_ins / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{root}/left_out/commands"\n')
        (stand_ins / name).chmod(0o755)
    image.environment["PATH"] = f"{stand_ins}:{image.environment['PATH']}"
    for name, argument in instructions((context / "env" / "docker" / "Dockerfile").read_text()):
        step(image, context, name, argument)
    if (stand_ins / "commands").exists():
        image.left_out = (stand_ins / "commands").read_text().replace(str(root), "").splitlines()
    return image


def step(image: Image, context: Path, name: str, argument: str) -> None:
    """One instruction. Raises ValueError on one that is not known, CalledProcessError when a command fails."""
    if name == "FROM":
        image.base = argument.split()[0]
    elif name in ("ENV", "ARG"):
        key, _, value = argument.partition("=")
        image.environment[key] = image.filled(image.place(value))
    elif name == "WORKDIR":
        image.workdir = image.filled(image.place(argument))
    elif name == "COPY":
        source, target = argument.split()[-2:]
        shutil.copytree(context / source, Path(image.workdir) / target, dirs_exist_ok=True)
    elif name == "RUN":
        folder = image.workdir if image.workdir != "/" else image.root
        subprocess.run(["/bin/sh", "-c", image.place(argument)], cwd=folder, env=image.environment, check=True)
    elif name == "ENTRYPOINT":
        image.entrypoint = Path(image.place(re.sub(r'[\[\]" ]', "", argument)))
    elif name not in ("EXPOSE", "USER"):
        raise ValueError(f"the Dockerfile has {name} {argument}")
