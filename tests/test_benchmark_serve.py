"""The parts of the serving benchmark that can be wrong without anybody noticing: counting, ratios, targets, the eager loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import SIZE, fake_export
from torch import nn

from benchmarks import answering, serve
from benchmarks.eager import Eager, count_macs
from strokect.engine import Engine
from strokect.network import FoldNet
from strokect.uncertainty import logit_variance


def test_macs_of_layers_counted_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),  # 8 × 5 × 5 outputs of 27 products
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # depthwise: 8 × 5 × 5 outputs of 9
        nn.Flatten(),
        nn.Linear(200, 4),
    )
    assert count_macs(net, torch.zeros(1, 3, 10, 10)) == 8 * 25 * 27 + 8 * 25 * 9 + 200 * 4
    assert not any(module._forward_hooks for module in net.modules())


class Tiny(nn.Module):
    """Stands in for a backbone; its BatchNorm would show a switch to training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 40, 3)
        self.norm = nn.BatchNorm2d(40)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


@pytest.mark.parametrize("batched", [False, True])
def test_the_eager_loop_is_monte_carlo_dropout_in_the_head_only(batched: bool) -> None:
    torch.manual_seed(0)
    net = FoldNet(Tiny(), 40, [0.5] * 3, [0.5] * 3, dropout=0.3).eval()
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16), np.uint8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    eager = Eager([net, net], ("identity", "mirror"), "channels_last", batched)
    plain, sampled = eager.run(image, 1), eager.run(image, 150)
    assert plain.shape == (2, 1, 2) and sampled.shape == (2, 150, 2)
    with torch.inference_mode():
        expected = net(torch.from_numpy(np.stack([image, image[..., ::-1]])))
        pooled = net.features(torch.from_numpy(image[None].copy()))[0][0].numpy()
    torch.testing.assert_close(plain[0, 0], expected)
    variance = logit_variance(pooled, net.head.weight.detach().numpy()[0], 0.3)
    assert sampled[:, :, 0].var() == pytest.approx(float(variance), rel=0.3)
    assert not net.dropout.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_ratios_compare_best_with_best_and_median_with_median() -> None:
    assert serve.ratio({"slow": [4, 6, 100], "fast": [2, 4, 1]}, "slow", "fast") == {"min": 4.0, "median": 3.0}


def test_rivals_take_turns_after_a_warm_up() -> None:
    order: list[str] = []
    times = serve.take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3 and len(times["a"]) == len(times["b"]) == 2


def test_targets_know_their_direction() -> None:
    rows = serve.judge(
        {
            "efficientnet_b3: eager / ours, T = 1": {"min": 2.1, "median": 2.3},
            "efficientnet_b3: eager / ours, T = 20": {"min": 45.0, "median": 44.0},
            "efficientnet_b3: ours / arithmetic floor": {"min": 2.3, "median": 2.5},
            "tf_efficientnet_lite0: start to first answer, s": {"min": 1.4, "median": 1.6},
            "resnet18: eager / ours, T = 1": {"min": 9.0, "median": 9.0},
        }
    )
    assert [(row["target"], row["met"]) for row in rows] == [("≥ 2.2", False), ("≥ 45", True), ("≤ 2.2", False), ("≤ 1.5", True)]


def test_a_fresh_process_answers_and_says_so(tmp_path: Path) -> None:
    for k in range(2):
        fake_export(tmp_path / str(k), k)
    run = serve.start(tmp_path, "--views", "2", "--answers", "30", "--pictures", "3")
    assert 0 < run["first_answer_s"] < run["start_s"]
    assert run["same_answer_to_same_picture"] and run["different_answers_to_different_pictures"]
    assert run["settled_mb"] > 10


def test_an_answer_is_the_passes_and_every_head_sampled(tmp_path: Path) -> None:
    engine = answering.load_engine(fake_export(tmp_path / "0", 0).parent, 2)
    assert isinstance(engine, Engine) and engine.views == ("identity", "mirror")
    image = answering.pictures(1, SIZE)[0]
    passes, sampled = answering.answer(engine, image, "ab" * 32, 3000)
    assert sampled.shape == (1, 2, 3000)
    np.testing.assert_allclose(sampled.mean(axis=2), passes.logits, atol=0.1)
    assert answering.digest(passes, sampled) == answering.digest(*answering.answer(engine, image, "ab" * 32, 3000))
    assert answering.digest(passes, sampled) != answering.digest(*answering.answer(engine, image, "ac" * 32, 3000))
