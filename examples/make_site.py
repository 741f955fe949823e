"""A made-up hospital: phantom patients whom the committed run never saw, on a scanner that shows them a little brighter, as PNG.

    python -m examples.make_site [FOLDER]        from the repository root; FOLDER is `example/site` by default

`FOLDER/slices` holds `stroke/` and `normal/`, as `data.source: folder` wants them; `FOLDER/site.yaml` is the params.yaml of here
with the target that these labels have. docs/external.md says what to do with both.
"""

import io
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from strokect.files import write_text
from strokect.phantom import make_cohort, window

PATIENTS, SLICES, SEED, SIZE, BRIGHTER = 60, 8, 4711, 96, 6
AIR = 8  # grey level up to which nothing is there to be brighter
TARGET = "synthetic bleed or infarct on this slice"


def site_slices(patients: int, slices: int, seed: int, size: int, brighter: int) -> list[tuple[str, int, bytes]]:
    """(name, label, PNG bytes) of a phantom cohort; `brighter` is how many grey levels are added to what is no air."""
    made = []
    for piece in make_cohort(patients=patients, slices=slices, size=size, seed=seed):
        grey = window(piece.hu)
        grey = np.where(grey > AIR, np.clip(grey.astype(int) + brighter, 0, 255), grey).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(grey).save(stream, "PNG")
        made.append((f"{piece.patient}_{piece.slice}.png", int(piece.lesion != ""), stream.getvalue()))
    return made


def write_site(root: Path, slices: list[tuple[str, int, bytes]]) -> None:
    """The files in a folder per class."""
    for name, label, data in slices:
        path = root / ("stroke" if label else "normal") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def main() -> None:
    """Write the slices and the params."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "example/site")
    write_site(folder / "slices", site_slices(PATIENTS, SLICES, SEED, SIZE, BRIGHTER))
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["data"]["folder"]["target"] = TARGET
    write_text(folder / "site.yaml", yaml.safe_dump(params, sort_keys=False))
    print(f"{folder}: {PATIENTS * SLICES} slices of {PATIENTS} phantom patients, nobody's pictures")


if __name__ == "__main__":
    main()
