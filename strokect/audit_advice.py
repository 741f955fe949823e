"""What to do about each finding of the audit, as its page says it."""

LEAK = "One person under two ids, or a file copied: give both one patient id, or remove the copy."
BY_CLASS = "A model can learn this instead of the disease. Export all slices alike, or know that figures may rest on it."
ADVICE = {
    "identical_across_patients": LEAK,
    "identical_across_classes": "One of the labels is wrong: correct it, or remove both files.",
    "near_duplicates_across_patients": f"Look at each pair. {LEAK}",
    "near_duplicates_across_classes": "Look at each pair: correct the label that is wrong, or remove the copy.",
    "overlays": "What is drawn on a slice tells the answer: use the originals. Drains and electrodes, taken for lines, may stay.",
    "unlike_head_ct": "Look: take other things than heads out, and export the brain window; a few at base and vertex may stay.",
    "patient_in_two_classes": "Move the files to where they belong, or, if labels were given per slice, say so: label_unit.",
    "label_conflict": "Find out which statement is right and correct the other; leave the subtype of negative slices empty.",
    "one_slice_per_patient": "Make the pattern or the column for the patient id fit, so that it says whose a slice is.",
    "too_few_patients": "Ask for fewer folds or a smaller test part (section split of params.yaml), or bring more patients.",
    "identical_within_patient": "Remove the doubles, or know that they count twice.",
    "near_duplicates_within_patient": "Mostly thin neighbouring slices, which may stay; remove copies of one slice.",
    "suspicious_names": "Use original slices only: what was made of them must not be in the cohort.",
    "resolution_by_class": BY_CLASS,
    "encoding_by_class": BY_CLASS,
    "frame_by_class": f"{BY_CLASS} Cut the frames off.",
    "text_by_class": f"{BY_CLASS} Export without burned-in text.",
    "shortcut_probes": BY_CLASS,
    "patient_level": "Get the patient ids from whoever has the originals: figures by patient need them.",
    "blank_slices": "Above the head they are harmless; elsewhere the window is wrong or the file is broken.",
    "said_by_prepare": "Read each. What you did not mean is mended in the table of labels or in params.yaml, section data.",
    "unreadable": "Mend or remove the files; data.max_unreadable says how many may be left out.",
    "left_out": "Nothing, if the reasons are what you expect.",
}
