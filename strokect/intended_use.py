"""What the model is and is not for, in words: for GET /model, the page, the model card and the report. Needs no package."""

INTENDED_USE = (
    "Research software, not a medical device. It scores single axial brain CT slices for the target named in `target`, "
    "for research on data like the data it was trained on. It must not be used to diagnose, triage or treat."
)
OUT_OF_SCOPE = [
    "Clinical decisions of any kind; a `normal` answer does not rule out a stroke, and an infarct may be answered `normal`.",
    "Anything but axial brain CT slices in the brain window: other body parts, MRI, X-ray, photographs, localisers.",
    "Scanners, protocols, ages or patient groups that the training data does not hold.",
    "Pictures with drawings or text on them; below 500 pixels a side, contours, calipers and dark text are not noticed.",
]
