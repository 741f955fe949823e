"""The steps of docs/results/training.md: what each changes, and which earlier step it is compared with."""

from dataclasses import dataclass

PROFILE = "ct_ich"
TUNING_SEED = 100  # of the split on which steps are chosen; never a seed of the headline
HEADLINE_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Step:
    """One change of params; all of `overrides` are given to the run, also those of earlier steps that were kept."""

    change: str  # in words
    against: str | None  # the step that differs by this change only
    overrides: tuple[str, ...]


SMALL = ("data.image_size=96", "train.epochs=8", "hnm.enabled=false")
STEPS = {
    "base": Step("Lite0 at 96 px, 8 epochs, no mining", None, SMALL),
    "hnm": Step("mining of hard slices after training", "base", (*SMALL[:2], "hnm.enabled=true")),
}
HEADLINE = "base"
