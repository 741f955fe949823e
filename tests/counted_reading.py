"""prepare with a reader that notes each file it decodes, in this process or in one that can be killed.

python tests/counted_reading.py RAW TARGET CACHE LOG PAUSE_S
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from conftest import tiny_params

from stages import prepare as stage
from strokect.params import DataParams, load_params
from strokect.sources import Pixels, Row, Source


def params_of_folder(scratch: Path, **changes: Any) -> DataParams:
    """The tiny params with `source: folder`."""
    path = scratch / "params.yaml"
    path.write_text(yaml.safe_dump(tiny_params()))
    return dataclasses.replace(load_params(path).data, source="folder", **changes)


def counted(source: Source, log: Path, pause_s: float = 0.0) -> Source:
    """The same source; what it decodes is appended to `log`."""
    plain = source.read

    def read(row: Row) -> Pixels:
        with open(log, "a") as stream:
            stream.write(row.file + "\n")
        time.sleep(pause_s)
        return plain(row)

    return dataclasses.replace(source, read=read)


def main(raw: str, target: str, cache: str, log: str, pause_s: str) -> None:
    """Prepare; the params lie beside the log."""
    plain = stage.read_source
    stage.read_source = lambda params, root: counted(plain(params, root), Path(log), float(pause_s))
    stage.prepare(params_of_folder(Path(log).parent), Path(raw), Path(target), Path(cache))


if __name__ == "__main__":
    main(*sys.argv[1:])
