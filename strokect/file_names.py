"""What the name of a file gives away about the picture in it."""

import re
from collections.abc import Mapping

# Seen in public copies: copies by file managers and browsers, augmented or generated pictures, slices with the lesion's contour
# drawn on them. The words stand alone ("aug_12", "x - Copy", "augImage"), so that names such as "Augsburg" or "copyright" pass.
WORDS = "copy|copie|kopie|copia|kopya|aug(mented|mentations?)?|synthetic|synth|[hv]?flip(ped)?|rot(ated?|ations?)?|mirror(ed)?"
CAMEL = "Copy|Aug|Augmented|Synthetic|Flip|Flipped|Rot|Rotated|Mirror|Mirrored"  # behind a small letter or before a capital one
SUSPICIOUS = re.compile(rf"(?<![a-z])(?:{WORDS})(?![a-z])", re.IGNORECASE)
IN_CAMEL = re.compile(rf"(?:(?<=[a-z])(?:{CAMEL})|(?<![A-Za-z])(?:{CAMEL}|{CAMEL.lower()})(?=[A-Z]))(?![a-z])")
SAVED_AGAIN = re.compile(r"\(\d+\) ?\(\d+\)(?=\.\w+$|$)")  # "58 (12) (1).jpg": a browser's second download of "58 (12).jpg"
OVERLAY = re.compile(r"(?<![a-z])overlays?(?![a-z])", re.IGNORECASE)
AUGUST = re.compile(r"\d{1,2}[-_. ]?aug[-_. ]?(19|20)\d\d(?!\d)", re.IGNORECASE)  # 12 Aug 2019: exports name folders by date


def is_suspicious(name: str) -> bool:
    """Whether a path is named like a copy or like an augmented or synthetic picture."""
    name = AUGUST.sub("", name)
    return any(pattern.search(name) for pattern in (SUSPICIOUS, IN_CAMEL, SAVED_AGAIN))


def is_overlay(name: str) -> bool:
    """Whether a path is named like a picture with something drawn on it."""
    return bool(OVERLAY.search(name))


def behind_pseudonyms(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Pseudonym → real path; which pseudonyms have a path that is suspicious or an overlay, for those who may not see paths."""
    kinds = {"suspicious": is_suspicious, "overlay": is_overlay}
    return {kind: sorted(file for file, name in names.items() if test(name)) for kind, test in kinds.items()}
