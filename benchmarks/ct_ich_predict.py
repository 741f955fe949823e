"""Ask the served CT-ICH model about slices of known patients: `python -m benchmarks.ct_ich_predict URL`, while `make serve` runs.

Writes docs/results/ct-ich/predict.json, which `python -m benchmarks.ct_ich` puts on the page.
"""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import requests

from benchmarks.ct_ich import RESULTS
from strokect.errors import DataError, run_stage
from strokect.files import write_json
from strokect.manifest import load_prepared

RAW = Path("data/raw/kaggle_ct_ich")
PATIENTS_PER_CLASS = 3
SLICES_PER_PATIENT = 4


def choose(manifest: pd.DataFrame) -> pd.DataFrame:
    """Slices at even steps through the first patients of each class: chosen by number, not by outcome."""
    positive = manifest.groupby("patient")["label"].max()
    chosen = []
    for label in (1, 0):
        for patient in sorted(positive.index[positive == label], key=int)[:PATIENTS_PER_CLASS]:
            rows = manifest[(manifest["patient"] == patient)]
            steps = [round((i + 0.5) * len(rows) / SLICES_PER_PATIENT) for i in range(SLICES_PER_PATIENT)]
            chosen.append(rows.iloc[steps])
    return pd.concat(chosen)


def ask(url: str, slices: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per slice: what the radiologists say and what the service answers."""
    answers = []
    for row in slices.itertuples():
        reply = requests.post(f"{url}/predict", files={"image": (RAW / row.file).read_bytes()}, timeout=60)
        if reply.status_code != 200:
            raise DataError(f"{url}/predict answered {reply.status_code}: {reply.text}")
        body = reply.json()
        answers.append(
            {
                "patient": row.patient,
                "slice": int(row.slice),
                "label": "haemorrhage" if row.label else "none",
                "decision": body["decision"],
                "probability": round(body["probability"], 3),
                "threshold": round(body["threshold"], 3),
                "model_version": body["model_version"],
            }
        )
    return answers


def main() -> None:
    """Ask, write, print."""
    if len(sys.argv) != 2:
        raise DataError("usage: python -m benchmarks.ct_ich_predict http://127.0.0.1:3000")
    answers = ask(sys.argv[1].rstrip("/"), choose(load_prepared().manifest))
    write_json(RESULTS / "ct-ich" / "predict.json", answers)
    print(pd.DataFrame(answers).to_string(index=False))


if __name__ == "__main__":
    run_stage(main)
