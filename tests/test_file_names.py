"""Names of copies and of made pictures are told from names that only look so."""

import pytest

from strokect.file_names import is_overlay, is_suspicious

COPIES = ["x - Copy.png", "Copy of x.png", "Kopie von 1.jpg", "1 - Kopie (2).jpg", "x - kopya.png", "Kopia x.png", "IMGCopy.png"]
AUGMENTED = ["aug_12.png", "12-AUG-3.png", "augImage1.jpg", "imgAug1.jpg", "x_augmented.png", "augmentation_3.png", "imgaug3.png"]
NUMBERED = ["5-aug-12.png", "12aug01.png", "aug_1999.png", "2001_aug.png", "2019-Aug-12/5_aug.png", "augmented/7.png"]
TURNED = ["img_flip.png", "hflip_3.png", "fliplr_3.png", "3_flipped.png", "rotated_12.png", "12_rot90.png", "imageRotated.png"]
OTHERS = ["mirror_1.png", "synthetic_4.png", "synth/4.png", "duplicate_3.png", "x_copied.png"]
DATED = [
    "12 Aug 2019/1.png",
    "03-AUG-2021_4.dcm",
    "2019-Aug-12/IM1.png",
    "Aug 12 2019/1.png",
    "AUG2019/1.png",
    "CT_Aug_2019/1.png",
]
DATED += ["12AUG19/1.png", "2021/Aug/P1_1.png", "Aug 3rd, 2020/1.png"]
IN_WORDS = ["Augsburg/1.png", "copyright.png", "daughter.png", "Augusta_3.png", "carotid.png", "rotterdam_1.png", "Flipper.png"]
IN_WORDS += ["mirrorless.png", "synthesis.png", "parrot_1.png", "ROT/1.png", "Rot_a.png", "RotKreuz/1.png"]
PLACES = ["58 (12).jpg", "58 (1).png", "p(1)(2).png", "P (1) (12).png", "IMG0001.dcm"]


@pytest.mark.parametrize("name", [*COPIES, *AUGMENTED, *NUMBERED, *TURNED, *OTHERS])
def test_names_of_copies_and_of_what_was_made(name: str) -> None:
    assert is_suspicious(name)


@pytest.mark.parametrize("name", [*DATED, *IN_WORDS, *PLACES])
def test_names_that_only_look_so(name: str) -> None:
    assert not is_suspicious(name)


def test_overlays_are_told_by_the_whole_word() -> None:
    assert is_overlay("OVERLAY/1.png") and is_overlay("1_overlays.png") and not is_overlay("overlayed.png")
