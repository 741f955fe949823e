"""What `make repro` prints last: the figures with their intervals and what to do next."""

from strokect.errors import run_stage
from strokect.files import read_json
from strokect.reporting import metrics_table


def main() -> None:
    """Print metrics/evaluate.json as a table, its notes, and three next commands."""
    metrics = read_json("metrics/evaluate.json")
    part = "test part" if metrics["part"] == "test" else "out-of-fold"
    print(
        f"\n{metrics['target']}: {part}, {metrics['n_slices']} slices of {metrics['n_patients']} patients "
        f"({metrics['n_positive_patients']} positive), grouped by {metrics['group_by']}, trained on {metrics['device']}"
    )
    print(f"{metrics['interval']}\n\n{metrics_table(metrics)}\n")
    for note in metrics["notes"]:
        print(f"  • {note}")
    print(
        "\nnext:\n"
        "  make serve                                   # the service on http://127.0.0.1:3000; then, in another terminal:\n"
        "                                               # curl -F image=@slice.png http://127.0.0.1:3000/predict\n"
        "  dvc plots show                               # ROC, PR, calibration, training curves; PNGs are in reports/plots/\n"
        "  make import SOURCE=folder FROM=/your/slices  # your own data, then: dvc exp run -S profile=folder"
    )


if __name__ == "__main__":
    run_stage(main)
