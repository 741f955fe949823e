"""Auxiliary heads: the targets a manifest offers, the masked loss, one step of the loop by hand, nothing of them afterwards."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, composed
from test_distributed import Small, task, train_params

from stages.hnm import fine_tune_params
from strokect.auxiliary import WithHeads, auxiliary_loss, auxiliary_targets
from strokect.distillation import student_schedule
from strokect.errors import ParamsError, TrainingError
from strokect.losses import slice_loss
from strokect.network import FoldNet
from strokect.params import load_params
from strokect.training import Trainer

NAN = float("nan")
PLAIN = {"epochs": 2, "batch_size": 36, "warmup_epochs": 0.0, "clip_norm": 1e9}


def net() -> FoldNet:
    torch.manual_seed(0)
    return FoldNet(Small(), 6, (0.5,) * 3, (0.5,) * 3, 0.0)


def loop(folder: Path, *, beside: np.ndarray | None, **changes: Any) -> Trainer:
    """Of the tiny net, without augmentation, whose batch is the whole training part."""
    params = train_params(**(PLAIN | changes))
    augment = dataclasses.replace(params.augment, strength=0.0, bleeds=0.0)
    given = dataclasses.replace(task(), auxiliary=beside)
    return Trainer(net(), given, dataclasses.replace(params, augment=augment), seed=1, mine_epoch=0, resume=folder / "r.pt")


# What the manifest offers


def test_targets_of_a_worked_manifest() -> None:
    manifest = pd.DataFrame(
        {
            "label": [1, 1, 0, 1],
            "subtype": ["Subdural+Epidural", "Subdural", "", ""],  # the type of the last one is not known
            "fracture": ["1", "", "0", "0"],
        }
    )
    expected = [[1, 1, 1], [0, 1, NAN], [0, 0, 0], [NAN, NAN, 0]]  # Epidural, Subdural, fracture
    np.testing.assert_array_equal(auxiliary_targets(manifest), np.float32(expected))


@pytest.mark.parametrize("columns", [{}, {"subtype": ["", ""]}, {"subtype": ["", ""], "fracture": ["", ""]}])
def test_a_manifest_without_either_is_an_error_that_names_the_key(columns: dict[str, list[str]], tmp_path: Path) -> None:
    targets = auxiliary_targets(pd.DataFrame({"label": [1, 0], **columns}))
    assert targets.shape == (2, 0)
    for beside in (np.zeros((36, 0), np.float32), None):
        with pytest.raises(TrainingError, match=r"train\.auxiliary: the manifest has neither types .* set it to 0"):
            loop(tmp_path, beside=beside, auxiliary=0.3)


def test_they_are_of_slices_so_labels_must_be_too(tmp_path: Path) -> None:
    params = composed("data.labels=shuffled", "train.auxiliary=0.3")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ParamsError, match=r"train\.auxiliary is 0\.3; it must be 0 unless data\.labels is slice"):
        load_params(tmp_path / "params.yaml")


# The loss


def test_the_loss_of_a_worked_batch_and_no_gradient_where_it_is_masked() -> None:
    logits = torch.tensor([[0.0, math.log(9.0)], [5.0, 1.0], [2.0, math.log(4.0)]], requires_grad=True)
    targets = torch.tensor([[1.0, 1.0], [NAN, NAN], [NAN, 0.0]])
    losses = auxiliary_loss(logits, targets)
    # σ = 0.5 and 0.9, both known, the mean of −ln 0.5 and −ln 0.9; nothing known; σ = 0.8 of a 0: −ln 0.2.
    torch.testing.assert_close(losses, torch.tensor([-(math.log(0.5) + math.log(0.9)) / 2, 0.0, -math.log(0.2)]))
    losses.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, -0.05], [0.0, 0.0], [0.0, 0.8]]))


def test_a_step_takes_it_beside_the_loss_of_the_label(tmp_path: Path) -> None:
    """The loss of the first step against the formula, from the features that the network gave."""
    beside = task().auxiliary
    one = loop(tmp_path, beside=beside, auxiliary=0.5)
    assert one.heads is not None
    weight, bias = (parameter.detach().clone() for parameter in one.heads.heads.parameters())
    seen: list[torch.Tensor] = []
    one.net.dropout.register_forward_hook(lambda module, given, pooled: seen.append(pooled.detach().clone()))
    torch.manual_seed(10_000)
    order = torch.randperm(36)
    head = [parameter.detach().clone() for parameter in one.net.head.parameters()]
    row = one.train_epoch(0)
    logits = (seen[0] @ head[0].T + head[1])[:, 0]
    given = one.task
    labels, weights = torch.from_numpy(given.labels)[order].float(), torch.from_numpy(given.weights)[order]
    of_types = auxiliary_loss(seen[0] @ weight.T + bias, torch.from_numpy(np.asarray(beside))[order])
    expected = ((slice_loss(logits, labels, one.params) + 0.5 * of_types) * weights).mean()
    assert row["loss"] == pytest.approx(float(expected), rel=1e-5) and float(of_types.mean()) > 0.1


def weights_after(one: Trainer) -> dict[str, torch.Tensor]:
    one.run()
    return one.ema.module.state_dict()


def test_where_all_is_masked_the_network_learns_what_it_learns_without_heads(tmp_path: Path) -> None:
    for name in ("with", "without", "known"):
        (tmp_path / name).mkdir()
    nothing = np.full((36, 3), NAN, np.float32)
    with_heads = weights_after(loop(tmp_path / "with", beside=nothing, auxiliary=0.5))
    without = weights_after(loop(tmp_path / "without", beside=nothing))
    known = weights_after(loop(tmp_path / "known", beside=task().auxiliary, auxiliary=0.5))
    # What is saved and exported has the names and shapes of a network that never had heads.
    assert {name: value.shape for name, value in known.items()} == {name: value.shape for name, value in without.items()}
    for name, value in without.items():
        torch.testing.assert_close(with_heads[name], value, rtol=0, atol=0)
    assert any(not torch.equal(known[name], value) for name, value in without.items())


def test_the_heads_learn_and_a_resumed_run_goes_on_with_them(tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    beside = np.repeat(task().labels[:, None], 2, axis=1).astype(np.float32)
    whole = loop(tmp_path, beside=beside, auxiliary=1.0, epochs=30, batch_size=12, learning_rate=0.05)
    whole.run()
    assert whole.progress.history[-1]["loss"] < 0.5 * whole.progress.history[0]["loss"]
    settings = {"beside": beside, "auxiliary": 1.0, "epochs": 4, "batch_size": 12}
    loop(tmp_path / "killed", **settings).run(until=2)
    again = loop(tmp_path / "killed", **settings)
    assert again.progress.epoch == 2
    again.run()
    (tmp_path / "straight").mkdir()
    straight = loop(tmp_path / "straight", **settings)
    straight.run()
    for got, expected in ((again.ema.module, straight.ema.module), (again.heads, straight.heads)):
        assert got is not None and expected is not None
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(got.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_painted_bleed_has_no_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = np.ones((36, 2), np.float32)
    one = loop(tmp_path, beside=beside, auxiliary=0.5)
    painted = torch.zeros(36, dtype=torch.bool)
    painted[[3, 8]] = True

    class Painter:
        def choose(self, order: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(order), dtype=torch.bool)

        def __call__(self, images: Any, positions: torch.Tensor, chosen: Any, labels: Any, weights: Any) -> Any:
            return images, torch.where(painted[positions], 1 - labels, labels), weights

    one.bleeds = Painter()  # type: ignore[assignment]
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        "strokect.training.auxiliary_loss", lambda logits, targets: seen.append(targets) or auxiliary_loss(logits, targets)
    )
    one.train_epoch(0)
    torch.manual_seed(10_000)
    order = torch.randperm(36)
    assert torch.equal(seen[0].isnan().all(dim=1), painted[order]) and int(seen[0].isnan().sum()) == 4


# Where there are none


def test_mining_and_student_go_without() -> None:
    params = load_params(ROOT / "params.yaml")
    train = dataclasses.replace(params.train, auxiliary=0.3)
    assert fine_tune_params(train, params.hnm).auxiliary == 0
    assert student_schedule(dataclasses.replace(params, train=train)).auxiliary == 0


def test_the_logit_is_that_of_the_network_without_heads() -> None:
    images = torch.from_numpy(task().images)
    one = net().eval()
    with torch.inference_mode():
        logits, others = WithHeads(one, torch.zeros(36, 3))(images)
        torch.testing.assert_close(logits, one(images), rtol=0, atol=0)
    assert others.shape == (36, 3)
