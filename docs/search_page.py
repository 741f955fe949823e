"""docs/results/search.md from the metrics/search.json of the committed search."""

from typing import Any

NAMES = {
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "dropout": "dropout",
    "batch_size": "batch size",
    "focal_gamma": "focal γ",
    "label_smoothing": "label smoothing",
    "augment_strength": "augmentation strength",
}


def search_page(result: dict[str, Any]) -> str:
    """The whole page."""
    best, baseline, counts = result["best"], result["baseline"], result["n_trials"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# A small search of the phantom",
        "",
        "```bash",
        "dvc exp run -S profile=search split && make search",
        "git checkout params.yaml dvc.lock 'metrics/*.json' ':!metrics/search.json'     # back to the committed run",
        "```",
        "",
        f"{result['backbone']} at {result['image_size']} px, {result['epochs']} epochs, folds "
        f"{', '.join(map(str, result['folds']))} of split seed {result['split_seed']} (reported: "
        f"{result['reported_split_seed']}), search seed {result['seed']}, on {', '.join(result['device'])}; {versions}. "
        f"{counts['complete']} trials complete, "
        f"{counts['pruned']} pruned, {counts['failed']} failed, {counts['abandoned']} abandoned; {result['training_minutes']:g} "
        "minutes of trials. Filled by `make readme` from `docs/phantom/search.json`.",
        "",
        f"Judged by: {result['objective']}.",
        "",
        f"| | range | current params | winner | importance (of {counts['complete']} trials) |",
        "|---|---|---|---|---|",
    ]
    for name, words in NAMES.items():
        if name in best["params"]:
            given = result["ranges"][name]
            span = ", ".join(f"{v:g}" for v in given) if name == "batch_size" else f"{given[0]:g} – {given[1]:g}"
            now = "–" if baseline is None else f"{baseline['params'][name]:g}"
            share = "–" if result["importance"] is None else f"{result['importance'][name]:.2f}"
            lines.append(f"| {words} | {span} | {now} | {best['params'][name]:g} | {share} |")
    now = "–" if baseline is None else f"{baseline['value']:.4f}"
    lines += [
        f"| **log loss** | | {now} | **{best['value']:.4f}** | |",
        "",
        *(f"- {note}" for note in result["notes"]),
        "- Synthetic phantom, and few trials for seven dimensions: it shows that the search works, and says nothing about "
        "patients or other image sizes. The committed params are not its winner.",
        "",
        *(f"![{name}](../phantom/search_{name}.png)\n" for name in ("history", "curves", "importance", "slices")),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"
