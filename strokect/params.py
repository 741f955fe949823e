"""params.yaml as frozen dataclasses. An unknown, missing or ill-typed key is an error that names its path.

Every key is required in the file: a default hidden in code would not show in `dvc params diff`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from strokect.errors import ParamsError
from strokect.head_crop import Crop
from strokect.hounsfield import Window
from strokect.param_ranges import check_ranges
from strokect.reader_params import DicomParams, FolderParams, ManifestParams, NiftiParams, PhantomParams
from strokect.run_params import SearchParams, TrackingParams
from strokect.strict import build

Views = Literal["identity", "mirror", "shift_left", "shift_right"]


@dataclass(frozen=True)
class DataParams:
    """What is learned from."""

    source: str  # one of strokect.readers.READERS
    labels: Literal["slice", "folder", "shuffled"]
    shuffle_seed: int
    image_size: int
    crop: Crop  # head: each slice is cut to its head before it is resized
    windows: tuple[Window, ...]  # that the models see, one or three; of sources with Hounsfield units only but for the brain's
    max_unreadable: int
    phantom: PhantomParams
    folder: FolderParams
    manifest: ManifestParams
    dicom: DicomParams
    nifti: NiftiParams


@dataclass(frozen=True)
class AuditParams:
    """Knowing exceptions: checks whose errors do not stop the pipeline. Every report repeats them."""

    allow: tuple[str, ...]


SHUFFLE_CONTROL = "shuffle_control"  # the one check that comes after the split; audit.allow names it like the audit's own


@dataclass(frozen=True)
class SplitParams:
    """Who is trained on and who is held out."""

    group_by: Literal["patient", "none"]
    test_fraction: float
    folds: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class ModelParams:
    """The network of every fold."""

    backbone: str
    weights: str  # package | hub | none | a path to a .safetensors or .pth file
    dropout: float
    frozen_stages: int  # the stem and so many stages keep the weights they start with
    symmetry: bool  # the mirrored slice as a second input; see symmetry.py

    @property
    def weights_kind(self) -> str:
        """`weights`, or "file" for a path: that is this machine's, and may name somebody."""
        return self.weights if self.weights in ("package", "hub", "none") else "file"


@dataclass(frozen=True)
class AugmentParams:
    """What a head CT can undergo. `strength` scales all of it; 0 switches it off."""

    strength: float
    rotate_deg: float
    scale: float
    shift: float
    mirror: bool
    brightness: float
    contrast: float
    noise: float
    erase: float
    bleeds: float  # share of the slices labelled 0 that is given a synthetic bleed, and the label 1


@dataclass(frozen=True)
class TrainParams:
    """The fixed schedule of a fold."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_epochs: float
    loss: Literal["focal", "cross_entropy"]
    focal_gamma: float
    label_smoothing: float
    class_balance: bool
    mixup_alpha: float  # 0: off
    auxiliary: float  # weight of the loss of types and fractures beside the label's; 0: off
    layer_decay: float  # of the learning rate, from each block to the one before it; 1: all layers learn alike
    clip_norm: float
    ema_decay: float
    amp: Literal["auto", "bf16", "fp16", "off"]
    device: Literal["auto", "cpu", "cuda"]
    devices: int  # of this machine, that share each batch of a fold; more machines: docs/multi-gpu.md
    seed: int
    augment: AugmentParams


@dataclass(frozen=True)
class HnmParams:
    """Hard negatives and missed positives of a fold's own training part."""

    enabled: bool
    mine_epoch: int
    negative_fraction: float
    positive_fraction: float
    weight: float
    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class ToleranceParams:
    """How much worse than the fp32 fold models a variant may be out-of-fold, absolute, on slices."""

    roc_auc: float
    ece: float
    sensitivity: float  # of the cross-fitted decisions


@dataclass(frozen=True)
class ExportParams:
    """How a fold leaves torch, and what ships."""

    views: tuple[Views, ...]
    parity_slices: int
    parity_tolerance: float
    precision: Literal["fp32", "int8"]
    calibration_slices: int  # of the training part; int8 only
    student: str  # none, or the backbone of the one network that ships instead of the folds
    student_epochs: int
    tolerance: ToleranceParams


@dataclass(frozen=True)
class TuneThresholdParams:
    """Calibration and operating point, both from out-of-fold predictions."""

    goal: str  # see strokect.thresholds.ALLOWED
    patient_rule: Literal["mean_top_k", "sequence"]
    patient_top_k: int
    calibration: Literal["auto", "none", "temperature", "affine", "isotonic"]
    resamples: int
    seed: int


@dataclass(frozen=True)
class SafetyParams:
    """Out-of-distribution gate and refer band, fitted on development slices only."""

    max_false_reject: float  # share of development slices that all layers of the gate together may reject
    refer_rate: float  # share of the accepted development slices that is referred
    refer_error_rate: float  # above 0 it takes the place of refer_rate: error rate that the answered ones may have
    mc_samples: int  # Monte Carlo dropout samples
    outliers: Literal["built_in", "outliers"]  # folder below data/raw with further pictures that must be rejected
    outliers_per_category: int
    proxies_per_kind: int  # per fold
    resamples: int
    seed: int


@dataclass(frozen=True)
class EvaluateParams:
    """What is reported."""

    open_test: Literal[True, False, "synthetic"]  # synthetic: only where the cohort is, so nothing real is opened by accident
    prevalence: tuple[float, ...]  # shares of positives that PPV and NPV are given for
    resamples: int
    seed: int


@dataclass(frozen=True)
class Params:
    """The whole of params.yaml."""

    data: DataParams
    audit: AuditParams
    split: SplitParams
    model: ModelParams
    train: TrainParams
    hnm: HnmParams
    export: ExportParams
    tune_threshold: TuneThresholdParams
    safety: SafetyParams
    evaluate: EvaluateParams
    search: SearchParams
    tracking: TrackingParams


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check params.yaml. Raises ParamsError naming file and key."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing: run the command from the repository root") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from None
    params: Params = build(Params, raw, path.name)
    check_ranges(params, path.name)
    return params
