"""Which device and which precision a fold is trained with."""

import torch

from strokect.errors import TrainingError
from strokect.params import TrainParams


def pick_device(params: TrainParams) -> torch.device:
    """The device that `train.device` asks for. Raises TrainingError when it is not there."""
    if params.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "params.yaml: train.device is cuda but torch sees no CUDA device; use auto or cpu, or see README, GPU"
        )
    return torch.device("cuda" if params.device != "cpu" and torch.cuda.is_available() else "cpu")


def pick_amp(params: TrainParams, device: torch.device) -> torch.dtype | None:
    """Autocast type, None for full precision. A CPU without AMX emulates bf16 at a twentieth of the speed, so never there."""
    if device.type != "cuda" or params.amp == "off":
        return None
    if params.amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if params.amp == "bf16" else torch.float16


def device_name(device: torch.device) -> str:
    """`cpu` or the name of the GPU: GPU kernels are not bit-deterministic, so figures say where they come from."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
