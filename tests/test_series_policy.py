"""The decision about a series: whatever its slices are, it never says more than they allow."""

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_policy import POLICY

from strokect.errors import NoResultError
from strokect.policy import Decision
from strokect.series_policy import (
    NOTHING,
    REFER_REASONS,
    REJECTED,
    SEVERAL,
    UNANSWERED,
    SeriesDecision,
    decide_series,
    rule_in_words,
)

PATIENT: dict[str, Any] = {"threshold": 0.4, "goal": "f2", "rule": "mean_top_k", "top_k": 3, "sequence": None}
VERDICTS = ("stroke", "normal", "refer", "reject")  # slice threshold of POLICY: 0.3; a series is rejected above a half

slices = st.tuples(st.sampled_from(VERDICTS), st.floats(0, 1), st.floats(0, 1))  # decision, own probability, that in the series
serieses = st.lists(slices, min_size=1, max_size=12)


def judged(*given: tuple[str, float, float], incomplete: bool = False, several: bool = False) -> SeriesDecision:
    decisions = [
        Decision(verdict, (), ("blank",) if verdict == "reject" else (), None if verdict == "reject" else own, 0.0)  # type: ignore[arg-type]
        for verdict, own, _ in given
    ]
    own, in_series = (np.array([piece[i] for piece in given], np.float64) for i in (1, 2))
    return decide_series(POLICY, PATIENT, decisions, own, in_series, incomplete, several)


def alike(verdict: str, *probabilities: float) -> list[tuple[str, float, float]]:
    return [(verdict, p, p) for p in probabilities]


def reasons(found: SeriesDecision) -> set[str]:
    return {name for name, reason in REFER_REASONS.items() if reason in found.reasons}


LOW = alike("normal", 0.1, 0.1, 0.1, 0.05)


def test_the_four_answers() -> None:
    stroke = judged(*alike("stroke", 0.9, 0.5, 0.7), *LOW)
    assert (stroke.decision, stroke.reasons, stroke.top) == ("stroke", (), (0, 1, 2))
    assert stroke.probability == pytest.approx(0.7)
    assert (judged(*LOW).decision, judged(*LOW).reasons) == ("normal", ())
    assert judged(*LOW, *alike("refer", 0.2)).decision == "refer"
    rejected = judged(*LOW[:2], *alike("reject", 0.9, 0.9, 0.9))
    assert rejected == SeriesDecision("reject", (REJECTED, "blank picture"), ("blank",), None, ())
    assert judged() == SeriesDecision("reject", (NOTHING,), (), None, ())


def test_every_doubt_about_a_normal_series_refers_it_with_its_reason() -> None:
    assert reasons(judged(*LOW, *alike("refer", 0.2))) == {"leaning"}
    assert reasons(judged(*LOW, *alike("reject", 0.2))) == {"leaning"}
    assert reasons(judged(*LOW, ("refer", 0.31, 0.01))) == {"suspicious"}
    assert reasons(judged(*LOW, ("reject", 0.3, 0.01))) == {"suspicious"}
    assert judged(*LOW, ("reject", 0.29, 0.01)).decision == judged(*LOW, ("normal", 0.2, 0.2)).decision == "normal"
    assert reasons(judged(*LOW[:2])) == {"few"}
    assert reasons(judged(*LOW, incomplete=True)) == {"incomplete"}
    assert reasons(judged(*LOW, several=True)) == {"several"}
    assert judged(*LOW, ("stroke", 0.8, 0.01)).decision == "normal"  # as evaluated: one slice of five is not the patient


def test_stroke_needs_one_slice_that_was_answered() -> None:
    assert judged(*alike("refer", 0.9, 0.9), *alike("stroke", 0.5), *LOW, incomplete=True).decision == "stroke"
    doubtful = judged(*alike("refer", 0.9, 0.9), *alike("reject", 0.9), *LOW)
    assert (doubtful.decision, doubtful.reasons) == ("refer", (UNANSWERED,)) and doubtful.probability == pytest.approx(0.9)


def test_several_patients_leave_a_stroke_a_stroke_and_say_so() -> None:
    stroke = judged(*alike("stroke", 0.9, 0.5, 0.7), *LOW, several=True)
    assert (stroke.decision, stroke.reasons) == ("stroke", (SEVERAL,))
    assert judged(*alike("refer", 0.9, 0.9, 0.9), several=True).reasons == (UNANSWERED, SEVERAL)


@given(serieses, st.booleans())
def test_several_patients_are_never_normal(given: list[tuple[str, float, float]], incomplete: bool) -> None:
    found, alone = judged(*given, incomplete=incomplete, several=True), judged(*given, incomplete=incomplete)
    assert found.decision == (alone.decision if alone.decision != "normal" else "refer")
    assert found.decision == "reject" or SEVERAL in found.reasons


@given(serieses, st.booleans())
def test_probability_and_label_are_those_of_evaluation(given: list[tuple[str, float, float]], incomplete: bool) -> None:
    found = judged(*given, incomplete=incomplete)
    if found.decision == "reject":
        assert found.probability is None
        return
    highest = sorted((p for _, _, p in given), reverse=True)[:3]
    assert found.probability == pytest.approx(sum(highest) / len(highest))
    evaluated = "stroke" if found.probability >= 0.4 else "normal"  # type: ignore[operator]
    assert found.decision in (evaluated, "refer")
    assert bool(found.reasons) == (found.decision == "refer")


@given(serieses, st.integers(0, 11), st.integers(0, 2**32), st.sampled_from([math.nan, math.inf, -math.inf, -0.1, 1.1]))
def test_a_number_that_is_no_probability_never_gives_a_label(
    given: list[tuple[str, float, float]], place: int, which: int, broken: float
) -> None:
    at = place % len(given)
    verdict, own, in_series = given[at]
    given[at] = (verdict, broken, in_series) if which % 2 else (verdict, own, broken)
    with contextlib.suppress(NoResultError):
        assert judged(*given).decision == "reject"


@given(serieses)
def test_reject_dominates(given: list[tuple[str, float, float]]) -> None:
    share = sum(verdict == "reject" for verdict, _, _ in given) / len(given)
    assert (judged(*given).decision == "reject") == (share > POLICY.series_share)


@given(serieses, st.randoms(use_true_random=False))
def test_the_order_of_the_slices_does_not_matter(given: list[tuple[str, float, float]], shuffler: Any) -> None:
    shuffled = list(given)
    shuffler.shuffle(shuffled)
    one, two = judged(*given), judged(*shuffled)
    assert (one.decision, one.reasons, one.flags, one.probability) == (two.decision, two.reasons, two.flags, two.probability)


@settings(max_examples=300)
@given(serieses, st.integers(0, 11), st.sampled_from(VERDICTS[:3]), st.floats(0, 1), st.floats(0, 1))
def test_raising_a_slice_never_turns_stroke_into_normal(
    given: list[tuple[str, float, float]], place: int, verdict: str, own: float, in_series: float
) -> None:
    at = place % len(given)
    raised = [*given[:at], (verdict, max(own, given[at][1]), max(in_series, given[at][2])), *given[at + 1 :]]
    assert (judged(*given).decision, judged(*raised).decision) != ("stroke", "normal")


@given(serieses, st.integers(0, 11), st.sampled_from(["refer", "reject"]))
def test_doubting_a_slice_never_gives_a_label_that_was_not_given(
    given: list[tuple[str, float, float]], place: int, doubt: str
) -> None:
    at = place % len(given)
    doubted = [*given[:at], (doubt, *given[at][1:]), *given[at + 1 :]]
    assume(given[at][0] in ("stroke", "normal"))
    assert judged(*doubted).decision in (judged(*given).decision, "refer", "reject")


def test_the_wrong_number_of_probabilities_gives_no_result() -> None:
    decisions = [Decision("normal", (), (), 0.1, 0.0)] * 3
    with pytest.raises(NoResultError):
        decide_series(POLICY, PATIENT, decisions, np.full(2, 0.1), np.full(3, 0.1))


def test_the_rule_is_said_in_words() -> None:
    plain = rule_in_words(PATIENT, "position")
    assert "3 highest slice probabilities;" in plain and "0.400" in plain and "lowest up by their positions" in plain
    assert "neighbours" in rule_in_words(PATIENT | {"sequence": {}}, "upload") and "order sent" in rule_in_words(
        PATIENT, "upload"
    )
