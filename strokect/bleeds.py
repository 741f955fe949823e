"""Synthetic bleeds: a share of the training slices without one is given one, and with it the label.

A few dozen patients show too few bleeds to learn the look of them from; what surrounds a bleed, though, any slice shows. Three
kinds are painted, as CT shows fresh blood (15–40 HU above the brain, Hounsfield units of a clot 50–80): a crescent or lens along
the inside of the skull, a clot in the brain, and blood in place of fluid. Only training slices, only where a closed skull says
where the brain is, and only for a target that counts bleeds.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from strokect.batches import Rows
from strokect.errors import TrainingError

WORK_PX = 96  # the brain is outlined on a copy of at most this side: 2.5 mm a pixel
STEPS = 4  # depths are kept in quarters of its pixels
BONE, TISSUE = 225, 50  # grey levels in the brain window
MIN_BRAIN = 0.04  # share of the picture; below it a bleed would be all there is
MIN_BLEED = 6 / 96**2  # share of the picture
RIM, CLOT = 0.5, 0.3  # shares of the kinds; the rest is blood in place of fluid
FLUID = 8.0  # grey levels that fluid is darker than the brain at least: 4 HU
GAIN = (25.0, 85.0)  # grey levels that blood is brighter than the brain: 12–40 HU in a window of 120


def brain_depth(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(S, S) grey in the brain window → (w, w), w = min(S, WORK_PX): how deep each pixel lies in the brain, 0 outside of it.

    In quarters of a pixel of the copy, up to 255. All 0 where no closed ring of bone encloses a brain.
    """
    side = min(len(grey), WORK_PX)
    small = np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BOX))
    bone = small >= BONE
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(bone, iterations=2)) & ~bone & (small > TISSUE)
    parts, count = ndimage.label(ndimage.binary_opening(inside))
    if count == 0:
        return np.zeros(small.shape, np.uint8)
    largest = parts == 1 + np.argmax(ndimage.sum_labels(parts > 0, parts, range(1, count + 1)))
    brain = ndimage.binary_fill_holes(largest) & ~bone  # with what is darker in it: fluid
    if brain.mean() < MIN_BRAIN:
        return np.zeros(small.shape, np.uint8)
    return np.minimum(ndimage.distance_transform_edt(brain) * STEPS, 255).astype(np.uint8)


def paint(images: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Paint a bleed into each of the images (B, 1, S, S), float 0–255. Draws from torch's global generator of the device.

    depth: (B, S, S) float, pixels from the border of the brain, 0 outside. Returns the images and (B,) whether a bleed of visible
    size was painted; the others are as they came.
    """
    size, x = images.shape[-1], images[:, 0]
    brain = (depth > 0) & (x < BONE)
    local = F.avg_pool2d(F.pad(x[:, None], (2, 2, 2, 2), mode="replicate"), 5, 1)[:, 0]
    tissue = torch.where(brain, x, torch.nan).flatten(1).nanmedian(1).values.view(-1, 1, 1)
    edge = F.interpolate(torch.randn(len(x), 1, 8, 8, device=x.device), (size, size), mode="bicubic", align_corners=False)[:, 0]
    shapes = (_rim(brain, depth, edge), _clot(brain, edge), _fluid(brain, local < tissue - FLUID))
    kind = torch.rand(len(x), 1, 1, device=x.device)
    bleed = torch.where(kind < RIM, shapes[0], torch.where(kind < RIM + CLOT, shapes[1], shapes[2])) & brain
    visible = (bleed.float().mean((1, 2)) >= MIN_BLEED) & (brain.float().mean((1, 2)) >= MIN_BRAIN)
    soft = F.avg_pool2d(bleed[:, None].float(), 3, 1, 1)[:, 0]
    # Only the local mean is moved: the slice keeps its own noise.
    painted = x + soft * (tissue + _between(*GAIN, x) + 6.0 * edge - local)
    return torch.where(visible.view(-1, 1, 1), painted, x)[:, None].clamp(0.0, 255.0), visible


def _between(low: float, high: float, like: Tensor) -> Tensor:
    return low + (high - low) * torch.rand(len(like), 1, 1, device=like.device)


def _offsets(allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns (B, S, 1), (B, 1, S) counted from a random pixel of `allowed` (B, S, S), else from a corner."""
    n, size, _ = allowed.shape
    chosen = (torch.rand(n, size * size, device=allowed.device) * allowed.flatten(1)).argmax(1)
    position = torch.arange(size, device=allowed.device, dtype=torch.float32)
    rows, columns = (chosen // size).view(n, 1, 1), (chosen % size).view(n, 1, 1)
    return position.view(1, size, 1) - rows, position.view(1, 1, size) - columns


def _rim(brain: Tensor, depth: Tensor, edge: Tensor) -> Tensor:
    """A crescent or lens along the border of the brain, thickest in its middle: epidural and subdural bleeds."""
    size = brain.shape[-1]
    dy, dx = _offsets(brain & (depth <= 2.0 * size / WORK_PX))
    half, thick = size * _between(0.06, 0.28, brain), size * _between(0.02, 0.09, brain)
    return depth < thick * torch.sqrt((1.0 - (dy**2 + dx**2) / half**2).clamp(min=0.0)) * (1.0 + 0.35 * edge)


def _clot(brain: Tensor, edge: Tensor) -> Tensor:
    """An ellipse with an uneven edge anywhere in the brain: intraparenchymal bleeds."""
    size = brain.shape[-1]
    dy, dx = _offsets(brain)
    turn, long = _between(0.0, math.pi, brain), size * _between(0.025, 0.115, brain)
    short = long * _between(0.4, 1.0, brain)
    along, across = dy * turn.cos() + dx * turn.sin(), dx * turn.cos() - dy * turn.sin()
    return (along / long) ** 2 + (across / short) ** 2 + 0.45 * edge < 1.0


def _fluid(brain: Tensor, dark: Tensor) -> Tensor:
    """What is dark around a place: blood in ventricles, cisterns and sulci."""
    dy, dx = _offsets(brain & dark)
    return dark & (dy**2 + dx**2 < (brain.shape[-1] * _between(0.08, 0.3, brain)) ** 2)


class Bleeds:
    """Gives a share of the slices without a bleed one, anew in each epoch."""

    def __init__(self, images: Rows | NDArray[np.uint8], labels: NDArray[Any], share: float, device: torch.device):
        """Images (n, 1, S, S), labels (n,) 0 or 1. Outlines the brain of every slice labelled 0 once; ~3 ms a slice and core."""
        if images.shape[1] != 1:
            raise TrainingError(f"train.augment.bleeds paints grey slices; these have {images.shape[1]} channels: set it to 0")
        if not np.isin(labels, (0, 1)).all():
            raise TrainingError("train.augment.bleeds needs labels, not a teacher's probabilities: set it to 0")
        self.share, self.size = share, images.shape[-1]
        self.empty = torch.from_numpy(np.asarray(labels) == 0)
        side = min(self.size, WORK_PX)
        depths = np.zeros((len(labels), side, side), np.uint8)

        def outline(row: int) -> None:
            depths[row] = brain_depth(np.asarray(images[row : row + 1])[0, 0])

        with ThreadPoolExecutor() as pool:
            list(pool.map(outline, np.flatnonzero(self.empty.numpy()).tolist()))
        self.depths = torch.from_numpy(depths).to(device)

    def choose(self, order: Tensor) -> Tensor:
        """(n,) bool, on the CPU: which of the slices at the positions `order` (n,) are to be given a bleed."""
        return (torch.rand(len(order)) < self.share) & self.empty[order]

    def __call__(
        self, images: Tensor, positions: Tensor, chosen: Tensor, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 1, S, S), labels and weights (B,) of a batch with a bleed in those numbered `chosen` (k,) that have room for
        it: label 1, weight 1. All on the device.
        """
        if not len(chosen):
            return images, labels, weights
        images, labels, weights = images.float(), labels.clone(), weights.clone()
        depth = self.depths[positions[chosen]][:, None].float() * (self.size / self.depths.shape[-1] / STEPS)
        if depth.shape[-1] != self.size:
            depth = F.interpolate(depth, (self.size, self.size), mode="bilinear", align_corners=False)
        painted, visible = paint(images[chosen], depth[:, 0])
        images[chosen] = painted
        labels[chosen] = torch.where(visible, 1.0, labels[chosen])
        weights[chosen] = torch.where(visible, 1.0, weights[chosen])
        return images, labels, weights
