"""The policy: whatever the numbers are, it never says more than they allow."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from fakes import open_limits
from hypothesis import given
from hypothesis import strategies as st

from strokect.errors import NoResultError, ReleaseError
from strokect.policy import REFER_REASONS, REJECT_REASONS, UNLIKE, Decision, Evidence, Policy
from strokect.texture import Texture
from strokect.uncertainty import MEASURES

POLICY = Policy(
    models=("0", "1", "2"),
    threshold=0.3,
    limits=open_limits(),
    texture=Texture((1.0, 5.0, 3.0), ((2.0, 0.1, 0.0), (0.1, 1.0, 0.0), (0.0, 0.0, 1.0))),
    texture_limit=4.0,
    gate="mahalanobis",
    gate_threshold=4.0,
    measure="nearness",
    refer_above=-0.2,
    samples=20,
    series_share=0.5,
    operating_point_sha256="0" * 64,
    sha256={name: {"model.onnx": "1" * 64} for name in ("0", "1", "2")},
)
BROKEN = [math.nan, math.inf, -math.inf]


def evidence(probability: float = 0.8, **changes: Any) -> Evidence:
    given = Evidence((), np.zeros(3), np.full(3, 1.0), np.full(3, probability), 0.01)
    return dataclasses.replace(given, **changes)


def decide(given: Evidence, policy: Policy = POLICY) -> Decision | None:
    """The decision, or None for no result."""
    try:
        return policy.decide(given)
    except NoResultError:
        return None


probabilities = st.floats(0, 1)
anything = st.floats(allow_nan=True, allow_infinity=True)
flag_lists = st.lists(st.sampled_from(sorted(set(REJECT_REASONS) - {UNLIKE})), max_size=3).map(tuple)


def test_the_four_decisions() -> None:
    sure = decide(evidence(0.8))
    assert sure is not None and (sure.decision, sure.reasons, sure.flags) == ("stroke", (), ())
    # minus the distance of the logits of 0.8 and of the threshold 0.3
    assert sure.probability == pytest.approx(0.8) and sure.uncertainty == pytest.approx(-np.log(0.8 / 0.2 * 0.7 / 0.3))
    assert decide(evidence(0.05)).decision == "normal"  # type: ignore[union-attr]
    unsure = decide(evidence(0.31))
    assert unsure is not None and unsure.decision == "refer" and unsure.reasons == (REFER_REASONS["nearness"],)
    strange = decide(evidence(0.8, gate_scores=np.full(3, 5.0)))
    assert strange is not None and strange == Decision("reject", ("unlike any training slice",), (UNLIKE,), None, None)


@given(
    st.lists(anything, min_size=3, max_size=3),
    st.lists(anything, min_size=3, max_size=3),
    st.lists(anything, min_size=3, max_size=3),
    anything,
    st.sampled_from(sorted(MEASURES)),
)
def test_a_number_that_is_not_finite_never_gives_a_label(
    logits: list[float], values: list[float], gates: list[float], std: float, measure: str
) -> None:
    policy = dataclasses.replace(POLICY, measure=measure)
    with np.errstate(all="ignore"):
        decision = decide(Evidence((), np.array(gates), np.array(logits), np.array(values), std), policy)
    if not np.isfinite([*logits, *values, *gates, std]).all():
        assert decision is None or decision.decision == "reject"
    if decision is not None and decision.decision != "reject":
        assert 0 <= decision.probability <= 1  # type: ignore[operator]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("name", ["logits", "probabilities", "gate_scores"])
def test_one_broken_number_of_one_model_is_enough(name: str, broken: float) -> None:
    numbers = getattr(evidence(), name).copy()
    numbers[1] = broken
    decision = decide(evidence(**{name: numbers}))
    assert decision is None or (decision.decision == "reject" and name == "gate_scores")


@given(st.integers(0, 6).filter(lambda n: n != 3), probabilities)
def test_a_missing_or_additional_fold_gives_no_label(n: int, probability: float) -> None:
    for short in ("logits", "probabilities", "gate_scores"):
        assert decide(evidence(probability, **{short: np.full(n, 0.5)})) is None
    assert decide(Evidence((), np.zeros(n), np.zeros(n), np.full(n, probability), 0.01)) is None


@given(probabilities, probabilities, st.floats(0, 0.5), st.floats(-3, 3.9), st.sampled_from(sorted(MEASURES)), st.floats(-5, 5))
def test_raising_the_probability_never_turns_stroke_into_normal(
    a: float, b: float, std: float, gate: float, measure: str, above: float
) -> None:
    low, high = sorted((a, b))
    policy = dataclasses.replace(POLICY, measure=measure, refer_above=above)
    answers = [decide(evidence(p, mc_std=std, gate_scores=np.full(3, gate)), policy) for p in (low, high)]
    assert answers[0] is not None and answers[1] is not None
    assert not (answers[0].decision == "stroke" and answers[1].decision == "normal")


@given(st.floats(allow_nan=True), flag_lists.filter(bool), anything, anything)
def test_reject_dominates(probability: float, flags: tuple[str, ...], gate: float, std: float) -> None:
    decision = decide(evidence(probability, flags=flags, gate_scores=np.full(3, gate), mc_std=std))
    assert decision is not None and decision.decision == "reject" and decision.probability is None
    assert set(flags) <= set(decision.flags) and len(decision.reasons) == len(decision.flags)


def test_a_series_is_rejected_by_its_own_rule() -> None:
    assert not POLICY.rejects_series(["reject"] + ["normal"] * 29)
    assert not POLICY.rejects_series(["reject", "normal"])
    assert POLICY.rejects_series(["reject", "reject", "stroke"])
    assert POLICY.rejects_series([])


def test_json_round_trip() -> None:
    assert Policy.from_json(POLICY.to_json()) == POLICY


BAD: list[dict[str, Any]] = [
    {"schema": 2},
    {"models": []},
    {"models": ["0", "0", "1"]},
    {"threshold": 1.5},
    {"threshold": None},
    {"feature_gate": {"score": "knn", "threshold": math.nan}},
    {"feature_gate": {"score": "knn"}},
    {"refer": {"measure": "fold_std", "above": 0.1}},
    {"refer": {"measure": "entropy", "above": math.inf}},
    {"pixel_checks": {}},
    {"mc_samples": 0},
    {"series": {}},
    {"series": {"reject_above_share": 1.0}},
    {"sha256": {"0": {}}},
]


@pytest.mark.parametrize("changes", BAD, ids=lambda changes: next(iter(changes)))
def test_a_policy_that_cannot_decide_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError):
        Policy.from_json(POLICY.to_json() | changes)


def test_the_spread_between_folds_is_no_measure_to_refer_by() -> None:
    assert "fold_std" not in MEASURES
