"""Synthetic bleeds: only inside the brain, as bright as blood, of every kind, and never where there is a bleed already."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from strokect import bleeds
from strokect.bleeds import GAIN, STEPS, WORK_PX, Bleeds, brain_depth, paint
from strokect.errors import TrainingError

AIR, BRAIN, BONE, FLUID = 0, 120, 255, 90


def head(size: int = 96, noise: float = 3.0, seed: int = 0) -> NDArray[np.uint8]:
    """(size, size): a ring of bone around a brain with two ventricles."""
    rows, columns = np.mgrid[:size, :size] * (96 / size) - 47.5
    radius = np.hypot(rows, columns)
    picture = np.select([radius < 34, radius < 40], [BRAIN, BONE], AIR).astype(float)
    for side in (-7, 7):
        picture[((rows / 9) ** 2 + ((columns - side) / 4) ** 2) < 1] = FLUID
    soft = (picture > AIR) & (picture < BONE)
    picture[soft] += np.random.default_rng(seed).normal(0, noise, soft.sum())
    return picture.clip(0, 255).astype(np.uint8)


def batch(n: int, size: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, size, size) and the depth in their brains (n, size, size), pixels."""
    images = np.stack([head(size, seed=i) for i in range(n)])
    depth = torch.from_numpy(np.stack([brain_depth(image) for image in images])).float() / STEPS
    return torch.from_numpy(images)[:, None].float(), depth


def test_depth_is_the_distance_to_the_skull() -> None:
    depth = brain_depth(head()) / STEPS
    rows, columns = np.mgrid[:96, :96] - 47.5
    radius = np.hypot(rows, columns)
    assert (depth[radius > 35] == 0).all()
    inside = radius < 32
    np.testing.assert_allclose(depth[inside], 34 - radius[inside], atol=1.0)  # also in the ventricles


@pytest.mark.parametrize("size", [48, 96, 200])
def test_depth_is_kept_on_a_copy_of_at_most_96_pixels(size: int) -> None:
    assert brain_depth(head(size)).shape == (min(size, WORK_PX),) * 2


def test_without_a_closed_skull_there_is_no_brain_and_no_bleed() -> None:
    opened = head()
    opened[:, 48:] = 0
    blank = np.zeros((96, 96), np.uint8)
    assert not brain_depth(opened).any()
    assert not brain_depth(blank).any()
    images = torch.from_numpy(np.stack([opened, blank]))[:, None].float()
    painted, visible = paint(images, torch.zeros(2, 96, 96))
    assert not visible.any()
    torch.testing.assert_close(painted, images)


def only(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {"rim": (1.0, 0.0), "clot": (0.0, 1.0), "fluid": (0.0, 0.0)}[kind]
    monkeypatch.setattr(bleeds, "RIM", shares[0])
    monkeypatch.setattr(bleeds, "CLOT", shares[1])


@pytest.mark.parametrize("kind", ["rim", "clot", "fluid"])
def test_every_kind_is_blood_in_the_brain_and_nothing_else_changes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only(kind, monkeypatch)
    torch.manual_seed(0)
    images, depth = batch(20)
    painted, visible = paint(images, depth)
    assert visible.float().mean() > 0.5
    changed = (painted - images)[:, 0]
    outside = depth == 0
    # The edge is softened over one pixel.
    grown = torch.nn.functional.max_pool2d((~outside)[:, None].float(), 3, 1, 1)[:, 0] > 0
    assert (changed[~grown] == 0).all()
    assert (changed[~visible] == 0).all()
    for slice_change, picture, deep in zip(changed[visible], painted[visible, 0], depth[visible], strict=True):
        core = slice_change > 0.8 * slice_change.max()
        assert core.any()
        level = float(picture[core].median()) - BRAIN
        assert GAIN[0] - 15 < level < GAIN[1] + 15
        if kind == "rim":
            assert float(deep[core].min()) <= 3
    if kind == "fluid":
        was = images[visible, 0][changed[visible] > 15]
        assert float((was < BRAIN - 8).float().mean()) > 0.5


def test_a_slice_keeps_its_own_noise() -> None:
    torch.manual_seed(0)
    images, depth = batch(30)
    painted, visible = paint(images, depth)
    for before, after in zip(images[visible, 0], painted[visible, 0], strict=True):
        core = (after - before) > 15
        if core.sum() < 60:
            continue
        pairs = core[:, 1:] & core[:, :-1]
        rough = [float((x[:, 1:] - x[:, :-1])[pairs].abs().median()) for x in (before, after)]
        assert rough[1] > 0.5 * rough[0]


def test_the_share_of_negatives_and_no_positive_is_painted() -> None:
    labels = np.arange(400) % 2
    images = np.repeat(head(48)[None, None], 400, axis=0)
    painter = Bleeds(images, labels, 0.25, torch.device("cpu"))
    torch.manual_seed(0)
    order = torch.randperm(400)
    chosen = painter.choose(order)
    assert not chosen[torch.from_numpy(labels)[order] == 1].any()
    assert 30 <= chosen.sum() <= 70  # 50 of 200 on average, sd 6
    positions = order[:64]
    numbers = chosen[:64].nonzero()[:, 0]
    given = torch.from_numpy(images[positions])
    known, weights = torch.from_numpy(labels)[positions].float(), torch.full((64,), 0.6)
    painted, new_labels, new_weights = painter(given, positions, numbers, known, weights)
    turned = (new_labels != known).nonzero()[:, 0]
    assert len(turned) > 0
    assert set(turned.tolist()) <= set(numbers.tolist())
    assert (new_labels[turned] == 1).all()
    assert (new_weights[turned] == 1).all()
    same = torch.ones(64, dtype=torch.bool)
    same[turned] = False
    torch.testing.assert_close(painted[same], given[same].float())
    torch.testing.assert_close(new_weights[same], weights[same])
    assert (known != 1)[numbers].all()  # the labels that came in are untouched


@pytest.mark.parametrize("size", [96, 160])
def test_bleeds_of_a_larger_slice_lie_in_its_brain(size: int) -> None:
    images = np.stack([head(size, seed=i) for i in range(24)])[:, None]
    painter = Bleeds(images, np.zeros(24, np.int64), 1.0, torch.device("cpu"))
    torch.manual_seed(0)
    everything = torch.arange(24)
    painted, labels, _ = painter(torch.from_numpy(images), everything, everything, torch.zeros(24), torch.ones(24))
    assert labels.mean() > 0.5
    rows, columns = np.mgrid[:size, :size] * (96 / size) - 47.5
    far_outside = torch.from_numpy(np.hypot(rows, columns) > 37)
    assert (painted[:, 0][:, far_outside] == torch.from_numpy(images)[:, 0][:, far_outside]).all()


def test_three_windows_or_a_teachers_targets_are_refused() -> None:
    images = np.zeros((2, 3, 48, 48), np.uint8)
    with pytest.raises(TrainingError, match="3 channels"):
        Bleeds(images, np.array([0, 1]), 0.2, torch.device("cpu"))
    with pytest.raises(TrainingError, match="teacher"):
        Bleeds(images[:, :1], np.array([0.2, 0.7]), 0.2, torch.device("cpu"))


def test_a_student_is_taught_without_bleeds() -> None:
    from strokect.distillation import student_schedule
    from strokect.params import load_params

    params = load_params("params.yaml")
    augment = dataclasses.replace(params.train.augment, bleeds=0.3)
    changed = dataclasses.replace(params, train=dataclasses.replace(params.train, augment=augment))
    assert student_schedule(changed).augment.bleeds == 0
