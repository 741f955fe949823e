"""CLAIM and TRIPOD+AI, filled where the pipeline knows the answer; what only the authors of a study know is marked so.

The items are numbered as in CLAIM, 2024 update (Tejani et al. 2024, Radiology: Artificial Intelligence 6(4):e240300) and in
TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378); the topics are in our words, so read them beside the originals.
"""

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined

AUTHOR = "author"


@dataclass(frozen=True)
class Item:
    """One line of a checklist. `answer` is a Jinja template over the facts of `strokect.report_facts`; None: authors know."""

    number: str
    topic: str
    answer: str | None = None


COHORT = "{{ n_slices }} slices of {{ n_patients }} patients ({{ n_positive_patients }} positive) from {{ source }}"
PARTS = (
    "Test part and folds are dealt out by {{ group_by }} (seed {{ params.split.seed }}); near-duplicates are kept together where "
    "patients are."
)
REFERENCE = "A positive means: {{ target }}; labels: {{ labels }}, one per {{ label_unit }}."
FIGURES = "Report, section Headline: each figure with its 95 % interval ({{ interval }})."
MODEL = (
    "{{ backbone }} at {{ params.data.image_size }} px, started from {{ params.model.weights }} weights, dropout "
    "{{ params.model.dropout }}; what ships: {{ ships }}."
)
TRAINING = (
    "{{ params.train.epochs }} epochs of AdamW, learning rate {{ params.train.learning_rate }}, weight decay "
    "{{ params.train.weight_decay }}, batch {{ params.train.batch_size }}, {{ params.train.loss }} loss, averaged weights; fixed "
    "schedule, nothing of the held-out part is seen."
    "{% if params.hnm.enabled and params.hnm.epochs %} Then {{ params.hnm.epochs }} epochs of fine-tuning with the hardest "
    "{{ '%.0f' | format(100 * params.hnm.negative_fraction) }} % of the negatives and "
    "{{ '%.0f' | format(100 * params.hnm.positive_fraction) }} % of the positives of the fold's own training part (scored after "
    "epoch {{ params.hnm.mine_epoch }}) weighted {{ params.hnm.weight }} times, learning rate {{ params.hnm.learning_rate }}."
    "{% else %} No fine-tuning on hard slices.{% endif %}"
    "{% if params.export.student != 'none' %} Distillation: students of {{ params.export.student }}, "
    "{{ params.export.student_epochs }} epochs, learn the probabilities of the fold models; the student of fold k is taught by "
    "fold model k alone, on its training part.{% endif %}"
)
AUGMENTATION = (
    "{% if params.train.augment.strength %}In training only: rotation up to ±{{ params.train.augment.rotate_deg }}°, scale "
    "±{{ params.train.augment.scale }}, shift ±{{ params.train.augment.shift }} of the side"
    "{{ ', mirroring' if params.train.augment.mirror }}, brightness ±{{ params.train.augment.brightness }}, contrast "
    "±{{ params.train.augment.contrast }}, noise {{ params.train.augment.noise }}, erasing {{ params.train.augment.erase }}, all "
    "times {{ params.train.augment.strength }}{% else %}No augmentation{% endif %}"
    "{% if params.train.augment.bleeds %}; synthetic bleeds drawn into "
    "{{ '%.0f' | format(100 * params.train.augment.bleeds) }} % of the negative training slices{% endif %}"
    "{% if params.train.mixup_alpha %}; mixup α {{ params.train.mixup_alpha }}{% endif %}. "
    "Judged and served are the mean logits of the views: {{ views }}."
)
UNREADABLE = "{{ left_out }} files left out with the reason and {{ unreadable }} unreadable ones, counted in the audit."
SOFTWARE = (
    "{% for name, version in versions.items() %}{{ name }} {{ version }}{{ ', ' if not loop.last }}{% endfor %}; on {{ device }}."
)
CODE = "strokect at commit {{ commit }}; data SHA-256 {{ data_sha256[:12] }}; commands in section Reproduce."
SUBGROUPS = "Report, section Subgroups: {{ subgroups }} looked at, with counts and intervals."
THRESHOLDS = (
    "Probabilities calibrated by {{ calibration }}, thresholds {{ '%.3f' | format(slice_threshold) }} (slice) and "
    "{{ '%.3f' | format(patient_threshold) }} (patient) for the goal {{ params.tune_threshold.goal }}, chosen out-of-fold."
)
LIMITS = "Report, sections Notes and Must not be used for."
AUDIT = "Audit: {{ audit_errors }} errors, {{ audit_warnings }} warnings; exceptions in force: {{ audit_allowed or 'none' }}."

CLUSTERS = (
    "{% if sites %}By site: report, section Subgroups.{% else %}Not told apart: the data name no site, scanner or "
    "hospital. Slices of a patient are clusters, too; intervals resample patients.{% endif %}"
)
DEIDENTIFIED = (
    "{% if source == 'dicom' %}Patient ids become keyed hashes; no name, date or UID of a file reaches manifest, logs or "
    "metrics. {% endif %}Report and metrics name no patient. Of the raw data: author."
)
PROTOCOL = "params.yaml and dvc.yaml of the commit; the study's own protocol: author."
CHARACTERISTICS = "Counts: report, section Cohort; age, gender, types where the source has them: section Subgroups."
BALANCE = (
    "{{ 'Classes are balanced in the loss' if params.train.class_balance else 'Not balanced' }}; calibration that ships: "
    "{{ calibration }}."
)
EXTERNAL = (
    "Not part of this run: `python -m stages.external` judges other data by the frozen release, and reports it with the shift."
)

CLAIM = (
    Item("1", "Title names the AI technique"),
    Item("2", "Structured summary"),
    Item("3", "Background, intended use and clinical role"),
    Item("4", "Aims and hypotheses"),
    Item("5", "Prospective or retrospective"),
    Item("6", "Goal of the study"),
    Item("7", "Data sources", f"{COHORT}. How they were collected: author."),
    Item("8", "Inclusion and exclusion criteria", f"{UNREADABLE} Clinical criteria: author."),
    Item(
        "9",
        "Preprocessing",
        "{{ 'Cutting to the square around the head' if params.data.crop == 'head' else 'Square padding' }} and resampling to "
        "{{ params.data.image_size }} px of {{ windows }}.",
    ),
    Item("10", "Selection of subsets of the data", UNREADABLE),
    Item("11", "De-identification", DEIDENTIFIED),
    Item("12", "Missing data", UNREADABLE),
    Item("13", "Acquisition protocol"),
    Item("14", "Reference standard", REFERENCE),
    Item("15", "Why this reference standard"),
    Item("16", "Who annotated, with what experience"),
    Item("17", "How the test part was annotated", "Like the rest: parts are dealt out of one cohort. How that was: author."),
    Item("18", "Agreement between and within readers"),
    Item("19", "How data was assigned to parts", PARTS),
    Item("20", "Level at which parts are disjoint", "{{ group_by }}. {{ control }}"),
    Item("21", "Intended sample size and why", "Not planned by the pipeline; what it allows to promise: {{ guarantee }}"),
    Item("22", "Model", MODEL),
    Item("23", "Software", SOFTWARE),
    Item("24", "Initial weights", "{{ params.model.weights }}."),
    Item("25", "Training", f"{TRAINING} {AUGMENTATION}"),
    Item(
        "26",
        "How the final model was chosen",
        "Not chosen: a fixed schedule, last averaged weights. A search uses split seed {{ params.search.split_seed }} only.",
    ),
    Item("27", "Ensembling", "What ships: {{ ships }}."),
    Item("28", "Metrics", FIGURES),
    Item("29", "Uncertainty of the metrics", "{{ interval }}; DeLong and Obuchowski beside."),
    Item("30", "Robustness", "Safety layer: false rejects, outliers by kind, selective prediction (report, section Safety)."),
    Item("31", "Explanation", "Class activation maps.{{ pointing }}"),
    Item("32", "Evaluation on internal data", FIGURES),
    Item("33", "Evaluation on external data", EXTERNAL),
    Item("34", "Trial registration"),
    Item("35", "Flow of included and excluded cases", f"{COHORT}; {UNREADABLE}"),
    Item(
        "36",
        "Characteristics of each part",
        CHARACTERISTICS,
    ),
    Item("37", "Performance on every part", FIGURES),
    Item("38", "Performance with its precision", FIGURES),
    Item("39", "Failures", "The worst false negatives and positives are in the local error sheet (reports/errors.html)."),
    Item("40", "Limits", LIMITS),
    Item("41", "What it means for practice"),
    Item("42", "Where the protocol is", PROTOCOL),
    Item("43", "Availability of code, model and data", CODE + " Where data and weights may be had: author."),
    Item("44", "Funding"),
)
TRIPOD_AI = (
    Item("1", "Title"),
    Item("2", "Abstract"),
    Item("3a", "Healthcare context and rationale"),
    Item("3b", "Target population, purpose and users"),
    Item("3c", "Known health inequalities"),
    Item("4", "Objectives"),
    Item("5a", "Sources of data and how representative they are", f"{COHORT}. How representative: author."),
    Item("5b", "Dates of the data"),
    Item("6a", "Setting and centres"),
    Item("6b", "Eligibility", f"{UNREADABLE} Clinical criteria: author."),
    Item("6c", "Treatments"),
    Item("7", "Data preparation and quality checks", AUDIT),
    Item("8a", "Outcome", REFERENCE),
    Item("8b", "Who assessed the outcome"),
    Item("8c", "Blinding of the assessment"),
    Item("9a", "Choice of predictors", "The picture alone; no clinical variable is used."),
    Item("9b", "Definition of predictors", "Grey levels of {{ windows }} at {{ params.data.image_size }} px."),
    Item("9c", "Who assessed predictors", "Nobody: they are pixels."),
    Item("10", "Sample size", "Not planned by the pipeline; what it allows to promise: {{ guarantee }}"),
    Item("11", "Missing data", UNREADABLE),
    Item("12a", "Use of the data for development and evaluation", PARTS),
    Item("12b", "Handling of predictors", f"Scaled to the statistics of the starting weights. {AUGMENTATION}"),
    Item("12c", "Model, how it was built and validated", f"{MODEL} {TRAINING}"),
    Item("12d", "Differences between clusters", CLUSTERS),
    Item("12e", "Measures of performance", FIGURES),
    Item("12f", "Updating after evaluation", "None; a site may recalibrate (`python -m stages.recalibrate`), as a new version."),
    Item("12g", "How predictions were computed for evaluation", "By the exported model, with the views that ship: {{ views }}."),
    Item("13", "Class imbalance", BALANCE),
    Item("14", "Fairness", SUBGROUPS),
    Item("15", "Output of the model", THRESHOLDS),
    Item("16", "Differences between development and evaluation data", EXTERNAL),
    Item("17", "Ethical approval"),
    Item("18a", "Funding"),
    Item("18b", "Conflicts of interest"),
    Item("18c", "Protocol", PROTOCOL),
    Item("18d", "Registration"),
    Item("18e", "Availability of the data", "Data SHA-256 {{ data_sha256[:12] }}. Where they may be had: author."),
    Item("18f", "Availability of the code", CODE),
    Item("19", "Patient and public involvement"),
    Item("20a", "Flow of participants", f"{COHORT}; {UNREADABLE}"),
    Item(
        "20b",
        "Characteristics of participants",
        CHARACTERISTICS,
    ),
    Item("20c", "Development against evaluation data", EXTERNAL),
    Item("21", "Participants and events in each analysis", "Report: each table gives its counts."),
    Item("22", "The full model", "models/release of this run: weights, calibration, thresholds and policy under one manifest."),
    Item("23a", "Performance with intervals, in subgroups too", f"{FIGURES} {SUBGROUPS}"),
    Item("23b", "Differences between clusters", CLUSTERS),
    Item("24", "Results of updating", "None was done in this run."),
    Item("25", "Interpretation"),
    Item("26", "Limits", LIMITS),
    Item("27a", "Poor or missing input in use", "Rejected by the safety layer, without a label (report, section Safety)."),
    Item("27b", "What users must do and know"),
    Item("27c", "Next steps"),
)
CHECKLISTS = {"CLAIM (2024 update)": CLAIM, "TRIPOD+AI": TRIPOD_AI}


def fill(items: tuple[Item, ...], facts: dict[str, Any]) -> list[dict[str, str]]:
    """The items as {"number", "topic", "answer"}. Raises jinja2.UndefinedError where a fact is missing: no silent blank."""
    environment = Environment(undefined=StrictUndefined, autoescape=False)  # the page escapes
    return [
        {
            "number": item.number,
            "topic": item.topic,
            "answer": AUTHOR if item.answer is None else environment.from_string(item.answer).render(facts),
        }
        for item in items
    ]
