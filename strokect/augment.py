"""Batched augmentation on the training device: what a head CT can undergo, and nothing else.

No vertical flip and no quarter turn: no head is scanned that way up. Grey-level changes stay small because the window is
fixed; the noise is that of a lower dose.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from strokect.params import AugmentParams


def augment(images: Tensor, params: AugmentParams) -> Tensor:
    """Images (B, C, S, S) uint8 → float (B, C, S, S) in 0–255, the C windows of a slice alike, in grey levels of each.

    Draws from torch's global generator of the device.
    """
    x = images.float()
    if params.strength == 0:
        return x
    x = _affine(x, params)
    x = _grey_levels(x, params)
    x = _erase(x, params.erase * params.strength)
    return x.clamp_(0.0, 255.0)


def _uniform(n: int, half_width: float, device: torch.device) -> Tensor:
    return (torch.rand(n, device=device) * 2 - 1) * half_width


def _affine(x: Tensor, params: AugmentParams) -> Tensor:
    """Rotation, isotropic scale, shift and left–right mirroring in one resampling; outside the picture is air (0)."""
    n, device, k = len(x), x.device, params.strength
    angle = _uniform(n, math.radians(params.rotate_deg) * k, device)
    scale = 1.0 + _uniform(n, params.scale * k, device)
    mirror = (torch.rand(n, device=device) < 0.5).float() * -2 + 1 if params.mirror else torch.ones(n, device=device)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = [_uniform(n, 2 * params.shift * k, device) for _ in range(2)]  # grid coordinates run from -1 to 1
    rows = torch.stack([cos * mirror, -sin, shift[0], sin * mirror, cos, shift[1]], dim=1).view(n, 2, 3)
    return F.grid_sample(x, F.affine_grid(rows, list(x.shape), align_corners=False), align_corners=False)


def _grey_levels(x: Tensor, params: AugmentParams) -> Tensor:
    n, device, k = len(x), x.device, params.strength
    gain = 1.0 + _uniform(n, params.contrast * k, device).view(n, 1, 1, 1)
    offset = 255.0 * _uniform(n, params.brightness * k, device).view(n, 1, 1, 1)
    sigma = 255.0 * params.noise * k * torch.rand(n, 1, 1, 1, device=device)
    inside = x > 0  # air is clipped black in the window: it carries no noise
    noise = torch.randn_like(x[:, :1])  # the windows of a slice show one measurement
    return torch.where(inside, x * gain + offset + sigma * noise, x)


def _erase(x: Tensor, probability: float) -> Tensor:
    """Black out one square of a tenth to a quarter of the side in a share `probability` of the slices."""
    n, _, size, _ = x.shape
    device = x.device
    side = (torch.rand(n, device=device) * 0.15 + 0.1) * size
    corner = [torch.rand(n, device=device) * (size - side) for _ in range(2)]
    position = torch.arange(size, device=device)
    within = [(position >= c[:, None]) & (position < (c + side)[:, None]) for c in corner]  # (B, S) rows, columns
    hole = within[0][:, :, None] & within[1][:, None, :] & (torch.rand(n, device=device) < probability)[:, None, None]
    return x.masked_fill(hole[:, None], 0.0)
