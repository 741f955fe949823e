"""What `make repro` prints last: the figures with their intervals and what to do next."""

from typing import Any

from strokect.errors import run_stage
from strokect.files import read_json
from strokect.reporting import metrics_table

NEXT = """\
next:
  make serve                                   # the service on http://127.0.0.1:3000; then, in another terminal:
  .venv/bin/python -m examples.make_scan       # a synthetic scan: drop example/scan.zip on the page
  . .venv/bin/activate && dvc plots show       # ROC, PR, calibration, training curves; PNGs are in reports/plots/
  make import SOURCE=folder FROM=/your/slices  # your own data; it prints how to go on"""


def summary(metrics: dict[str, Any]) -> str:
    """metrics/evaluate.json as text: what the figures are of, the table, the notes."""
    part = "test part" if metrics["part"] == "test" else "out-of-fold"
    return "\n".join(
        [
            f"{metrics['target']}: {part}, {metrics['n_slices']} slices of {metrics['n_patients']} patients "
            f"({metrics['n_positive_patients']} positive),",
            f"grouped by {metrics['group_by']}, trained on {metrics['device']}; {metrics['interval']}",
            "",
            metrics_table(metrics),
            "",
            *(f"  • {note}" for note in metrics["notes"]),
        ]
    )


def main() -> None:
    """Print the summary of metrics/evaluate.json and three next commands."""
    print(f"\n{summary(read_json('metrics/evaluate.json'))}\n\n{NEXT}")


if __name__ == "__main__":
    run_stage(main)
