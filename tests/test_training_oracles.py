"""Loss, averaging, schedule, mining and views against formulas worked out here, by hand or in numpy."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_distributed import Small, task, train_params

from stages.hnm import raised_weights
from strokect.losses import slice_loss
from strokect.mining import HardSet, mine
from strokect.network import FoldNet, predict_logits
from strokect.params import HnmParams
from strokect.training import Trainer
from strokect.views import make_views

LOGITS = np.array([-30.0, -4.0, -1.0, 0.0, 0.3, 2.0, 30.0])


def focal_by_hand(logits: np.ndarray, labels: np.ndarray, gamma: float, smoothing: float) -> np.ndarray:
    """Lin et al. 2017, (1 − p_t)^γ · cross-entropy, for a target t that need not be 0 or 1: p_t = p·t + (1 − p)(1 − t)."""
    t = labels * (1 - smoothing) + smoothing / 2
    p = 1 / (1 + np.exp(-logits))
    log_p, log_not_p = -np.log1p(np.exp(-logits)), -np.log1p(np.exp(logits))
    return (1 - (p * t + (1 - p) * (1 - t))) ** gamma * -(t * log_p + (1 - t) * log_not_p)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_focal_loss_is_the_papers_formula(gamma: float, smoothing: float, label: float) -> None:
    params = train_params(loss="focal", focal_gamma=gamma, label_smoothing=smoothing)
    labels = np.full_like(LOGITS, label)
    logits = torch.tensor(LOGITS, requires_grad=True)
    got = slice_loss(logits, torch.tensor(labels), params)
    np.testing.assert_allclose(got.detach(), focal_by_hand(LOGITS, labels, gamma, smoothing), rtol=1e-6, atol=1e-12)
    got.sum().backward()
    assert logits.grad is not None
    step = 1e-5
    by_differences = (
        focal_by_hand(LOGITS + step, labels, gamma, smoothing) - focal_by_hand(LOGITS - step, labels, gamma, smoothing)
    ) / (2 * step)
    np.testing.assert_allclose(logits.grad, by_differences, rtol=1e-4, atol=1e-7)


def test_focal_loss_without_focus_is_cross_entropy_of_the_smoothed_label() -> None:
    focal = train_params(loss="focal", focal_gamma=0.0, label_smoothing=0.2)
    logits, labels = torch.tensor([math.log(3.0)] * 2), torch.tensor([1.0, 0.0])  # p = 3/4; targets 0.9 and 0.1
    by_hand = [-0.9 * math.log(0.75) - 0.1 * math.log(0.25), -0.1 * math.log(0.75) - 0.9 * math.log(0.25)]
    torch.testing.assert_close(slice_loss(logits, labels, focal), torch.tensor(by_hand))
    torch.testing.assert_close(
        slice_loss(logits, labels, dataclasses.replace(focal, loss="cross_entropy")), torch.tensor(by_hand)
    )


def recorded_run(tmp_path: Path, **changes: Any) -> tuple[Trainer, list[dict[str, torch.Tensor]]]:
    """A run of the small network, and its weights after every step."""
    torch.manual_seed(0)
    net = FoldNet(Small(), 6, (0.5,) * 3, (0.5,) * 3, 0.3)
    loop = Trainer(net, task(), train_params(**changes), seed=1, mine_epoch=0, resume=tmp_path / "r.pt")
    weights: list[dict[str, torch.Tensor]] = []
    update = loop.ema.update

    def record(model: torch.nn.Module, step: int | None = None) -> None:
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        update(model, step=step)

    loop.ema.update = record
    loop.run()
    return loop, weights


def test_averaged_weights_are_the_recursion_with_its_warm_up(tmp_path: Path) -> None:
    """w̄ₖ = dₖ·w̄ₖ₋₁ + (1 − dₖ)·wₖ with d₀ = d₁ = 0 and dₖ = min(0.7, 1 − k^(−2/3)) from k = 2 on."""
    loop, weights = recorded_run(tmp_path, ema_decay=0.7)
    assert len(weights) == 18
    decays = [0.0 if k < 2 else min(0.7, 1 - k ** (-2 / 3)) for k in range(18)]
    assert decays[2] == pytest.approx(0.370, abs=1e-3) and decays[6] < 0.7 == decays[7]
    averaged = loop.ema.module.state_dict()
    for name, last in weights[-1].items():
        if not last.is_floating_point():
            assert averaged[name] == last
            continue
        expected = np.zeros(last.shape)
        for decay, snapshot in zip(decays, weights, strict=True):
            expected = decay * expected + (1 - decay) * snapshot[name].double().numpy()
        np.testing.assert_allclose(averaged[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_schedule_of_a_run_worked_out(tmp_path: Path) -> None:
    """36 slices in batches of 7 are 6 steps an epoch; 5/6 epochs of warm-up are 5; epochs end at steps 5, 11 and 17 of 18."""
    loop, _ = recorded_run(tmp_path, warmup_epochs=5 / 6, learning_rate=0.01)
    shares = [0 / 13, 6 / 13, 12 / 13]  # of the way down
    expected = [0.01 * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2) for share in shares]
    assert [row["learning_rate"] for row in loop.progress.history] == pytest.approx(expected)
    assert expected[0] == 0.01


def test_mining_rounds_up_and_takes_the_first_of_equals() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    logits = np.array([0.5, -1, 2.0, 0.1, 0.5, 4, -3, -1], np.float32)
    hard = mine(logits, labels, HnmParams(True, 1, 0.3, 0.2, 2.0, 1, 1e-4))
    assert hard.negatives.tolist() == [0, 2]  # ⌈0.3 · 4⌉ = 2: the 2.0, then the first of the two 0.5
    assert hard.positives.tolist() == [1]  # ⌈0.2 · 4⌉ = 1: the first of the two −1


def test_what_is_mined_are_the_logits_of_the_early_averaged_weights(tmp_path: Path) -> None:
    def loop(name: str) -> Trainer:
        torch.manual_seed(0)
        net = FoldNet(Small(), 6, (0.5,) * 3, (0.5,) * 3, 0.3)
        return Trainer(net, task(), train_params(), seed=1, mine_epoch=2, resume=tmp_path / name)

    early, whole = loop("early.pt"), loop("whole.pt")
    early.run(until=2)
    expected = predict_logits(early.ema.module, task().images, torch.device("cpu"))
    mined = whole.run().mined
    assert mined is not None and whole.progress.epoch == 3
    np.testing.assert_allclose(mined, expected, atol=1e-6)
    assert np.abs(predict_logits(whole.ema.module, task().images, torch.device("cpu")) - mined).max() > 1e-3


def test_hard_slices_weigh_more_and_the_mean_stays_one() -> None:
    weights = np.array([0.5, 0.5, 0.5, 0.5, 2.0, 2.0], np.float32)
    raised = raised_weights(weights, HardSet(negatives=np.array([1]), positives=np.array([4])), 3.0)
    # 0.5 · 3 = 1.5 and 2 · 3 = 6 make the sum 11, the mean 11/6
    assert raised.tolist() == pytest.approx([3 / 11, 9 / 11, 3 / 11, 3 / 11, 36 / 11, 12 / 11])
    assert weights[1] == 0.5


def test_views_of_a_slice_written_out() -> None:
    row = np.array([1, 2, 3, 4], np.uint8)
    image = np.stack([row, row + 10])[None].repeat(2, axis=1)[:, :4]  # (1, 4, 4): rows 1…4, 1…4, 11…14, 11…14
    identity, mirror, left, right = make_views(image, ["identity", "mirror", "shift_left", "shift_right"])
    np.testing.assert_array_equal(identity, image)
    assert mirror[0, 0].tolist() == [4, 3, 2, 1] and mirror[0, 3].tolist() == [14, 13, 12, 11]
    assert left[0, 0].tolist() == [2, 3, 4, 0] and left[0, 3].tolist() == [12, 13, 14, 0]
    assert right[0, 0].tolist() == [0, 1, 2, 3] and right[0, 3].tolist() == [0, 11, 12, 13]
    wide = np.arange(64, dtype=np.uint8).reshape(1, 1, 64)
    assert make_views(wide, ["shift_left"])[0][0, 0].tolist() == [*range(2, 64), 0, 0]  # 1/32 of 64 columns
    assert all(view.flags["C_CONTIGUOUS"] for view in (identity, mirror, left, right))
