"""Rules of the statistical protocol that no test of a single module holds: what the schedule may see, and what must be said."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import tiny_params
from test_training import bright_or_dark, fake_net

from strokect.intended_use import OUT_OF_SCOPE
from strokect.params import load_params
from strokect.reporting import notes
from strokect.training import Trainer


def test_no_label_nor_picture_of_the_held_out_part_reaches_the_weights_or_what_is_mined(tmp_path: Path) -> None:
    """A fixed schedule and the last averaged weights: another held-out part changes what is watched and nothing else."""
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tiny_params()))
    train, task = dataclasses.replace(load_params(path).train, epochs=3), bright_or_dark()
    other = dataclasses.replace(task, held_out_labels=1 - task.held_out_labels, held_out_images=task.held_out_images[::-1].copy())
    tasks = enumerate((task, other))
    loops = [Trainer(fake_net(), given, train, seed=1, mine_epoch=2, resume=tmp_path / f"{i}.pt") for i, given in tasks]
    one, two = (loop.run() for loop in loops)
    for name, value in loops[0].ema.module.state_dict().items():
        torch.testing.assert_close(loops[1].ema.module.state_dict()[name], value, rtol=0, atol=0, msg=name)
    np.testing.assert_array_equal(one.mined, two.mined)
    assert [row["loss"] for row in one.history] == [row["loss"] for row in two.history]
    assert one.history[-1]["held_out_log_loss"] != two.history[-1]["held_out_log_loss"]  # it was watched


@pytest.mark.parametrize("student", [{}, {"taught_by": {}}])
def test_out_of_fold_figures_say_that_what_ships_has_none(student: dict[str, Any]) -> None:
    cohort = {"patient_level_verifiable": True, "labels": "slice", "synthetic": False}
    (line,) = notes("oof", cohort, {"group_by": "patient"} | student, {"allowed": []})
    assert "has no out-of-fold estimate" in line and "calibration and thresholds chosen on other patients" in line


def test_a_normal_answer_may_be_an_infarct_and_that_is_said() -> None:
    assert any("ischaem" in line.lower() or "infarct" in line.lower() for line in OUT_OF_SCOPE)
