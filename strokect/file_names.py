"""What the name of a file gives away about the picture in it."""

import re
from collections.abc import Mapping

# Seen in public copies: copies by file managers and browsers, augmented or generated pictures, slices with the lesion's contour
# drawn on them. The words stand alone ("aug_12", "x - Copy", "augImage"), so that names such as "Augsburg" or "copyright" pass.
WORDS = (
    "copy|copies|copied|copie|kopie|kopia|copia|kopya|duplicates?|duplicated|(img)?aug(mented|mentations?)?|synthetic|synth|"
    r"[hv]?flip(ped)?|flip(lr|ud)|rot(?=[-_ ]?\d)|rotat(e|ed|ions?)|mirror(ed)?"
)
CAMEL = "Copy|Aug|Augmented|Synthetic|Flip|Flipped|Rotated|Mirror|Mirrored"  # behind a letter or before a capital one
SUSPICIOUS = re.compile(rf"(?<![a-z])(?:{WORDS})(?![a-z])", re.IGNORECASE)
IN_CAMEL = re.compile(rf"(?:(?<=[A-Za-z])(?:{CAMEL})|(?<![A-Za-z])(?:{CAMEL}|{CAMEL.lower()})(?=[A-Z]))(?![a-z])")
OVERLAY = re.compile(r"(?<![a-z])overlays?(?![a-z])", re.IGNORECASE)
AUGUST = re.compile(r"\d{1,2}[-_. ]?aug[-_. ]?(19|20)\d\d(?!\d)", re.IGNORECASE)  # 12 Aug 2019
# Exports name folders by date, also as Aug 12 2019, AUG2019; 2019-Aug-12, 2019/Aug; 12AUG19. In the name of a
# file these are rather numbers: 5-aug-12.png, aug_1999.png.
AUGUST_FOLDER = re.compile(
    r"(\d{1,2}[-_. ]?)?aug[-_., ]*(\d{1,2}(st|nd|rd|th)?[-_., ]+)?(19|20)\d\d(?!\d)"
    r"|(?<!\d)(19|20)\d\d[-_. /]?aug([-_. /]?\d{1,2})?(?![a-z0-9])"
    r"|(?<!\d)\d{1,2}[-. ]?aug[-. ]?\d\d(?!\d)",
    re.IGNORECASE,
)


def is_suspicious(name: str) -> bool:
    """Whether a path is named like a copy or like an augmented or synthetic picture."""
    folder, slash, own = name.rpartition("/")
    left = AUGUST_FOLDER.sub("", folder) + slash + AUGUST.sub("", own)
    return bool(SUSPICIOUS.search(left) or IN_CAMEL.search(left))


def is_overlay(name: str) -> bool:
    """Whether a path is named like a picture with something drawn on it."""
    return bool(OVERLAY.search(name))


def behind_pseudonyms(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Pseudonym → real path; which pseudonyms have a path that is suspicious or an overlay, for those who may not see paths."""
    kinds = {"suspicious": is_suspicious, "overlay": is_overlay}
    return {kind: sorted(file for file, name in names.items() if test(name)) for kind, test in kinds.items()}
