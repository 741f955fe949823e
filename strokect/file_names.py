"""What the name of a file gives away about the picture in it."""

import re
from collections.abc import Mapping

# Seen in public copies: Explorer's copies, augmented or generated pictures, slices with the lesion's contour drawn on them.
# The words stand alone ("aug_12", "x - Copy"), so that names such as "Augsburg" or "copyright" pass.
SUSPICIOUS = re.compile(r"(?<![a-z])(copy|aug|augmented|synthetic|synth)(?![a-z])", re.IGNORECASE)
OVERLAY = re.compile(r"(?<![a-z])overlays?(?![a-z])", re.IGNORECASE)
AUGUST = re.compile(r"\d{1,2}[-_. ]?aug[-_. ]?(19|20)\d\d(?!\d)", re.IGNORECASE)  # 12 Aug 2019: exports name folders by date


def is_suspicious(name: str) -> bool:
    """Whether a path is named like a copy or like an augmented or synthetic picture."""
    return bool(SUSPICIOUS.search(AUGUST.sub("", name)))


def is_overlay(name: str) -> bool:
    """Whether a path is named like a picture with something drawn on it."""
    return bool(OVERLAY.search(name))


def behind_pseudonyms(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Pseudonym → real path; which pseudonyms have a path that is suspicious or an overlay, for those who may not see paths."""
    kinds = {"suspicious": is_suspicious, "overlay": is_overlay}
    return {kind: sorted(file for file, name in names.items() if test(name)) for kind, test in kinds.items()}
