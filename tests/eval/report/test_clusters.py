"""Intervals of clustered scores hold what they promise, and are the plain ones without clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import Estimate, bootstrap_mean, share
from eval.report.clusters import Answered, clustered, effective_questions, pool
from rl.figures.intervals import wilson


def answers(scores: list[float], clusters: list[int]) -> list[Answered]:
    return [
        Answered(cluster=str(cluster), scores=(score,))
        for score, cluster in zip(scores, clusters, strict=True)
    ]


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_single_questions_give_the_plain_interval(scores: list[float]) -> None:
    assert clustered(answers(scores, list(range(len(scores))))) == share(scores)


def test_single_questions_give_the_plain_bootstrap() -> None:
    scores = [0.1, 0.7, 0.4, 1.0, 0.0]
    assert clustered(answers(scores, list(range(5)))) == bootstrap_mean(scores)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 7)), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_clusters_are_worth_between_one_and_all(pairs: list[tuple[float, int]]) -> None:
    given_ = answers([score for score, _ in pairs], [cluster for _, cluster in pairs])
    worth = effective_questions(given_)
    assert 1.0 - 1e-9 <= worth <= len(given_)


def test_equal_answers_of_a_picture_count_once() -> None:
    one = answers([1.0, 0.0] * 20, list(range(40)))
    three = answers([1.0, 0.0] * 20 * 3, list(range(40)) * 3)
    assert effective_questions(three) == pytest.approx(effective_questions(one), rel=0.05)


def test_repeats_that_agree_are_no_further_evidence() -> None:
    once = [Answered(cluster=str(i), scores=(float(i % 2),)) for i in range(40)]
    twice = [Answered(cluster=str(i), scores=(float(i % 2),) * 2) for i in range(40)]
    assert effective_questions(twice) == pytest.approx(effective_questions(once), rel=0.03)


def simulate(binary: bool, clustered_by: str) -> float:
    """Share of 400 simulated runs whose interval holds the truth: 60 pictures with 1 to 6 questions
    whose success depends strongly on the picture; the truth is 0.6."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        given_: list[Answered] = []
        for picture in range(60):
            ease = rng.beta(1.2, 0.8)
            for number in range(int(rng.integers(1, 7))):
                score = float(rng.random() < ease) if binary else float(0.9 * ease + 0.1 * 0.6)
                name = str(picture) if clustered_by == "picture" else f"{picture} {number}"
                given_.append(Answered(cluster=name, scores=(score,)))
        found = clustered(given_)
        assert found is not None
        hits += found.low <= 0.6 <= found.high
    return hits / 400


@pytest.mark.parametrize("binary", [True, False])
def test_intervals_cover_the_truth_where_answers_are_correlated(
    binary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.metrics.NUM_RESAMPLES", 1000)
    assert 0.92 <= simulate(binary, "picture") <= 0.98
    # Without clusters they promise too much.
    assert simulate(binary, "question") < 0.91


def test_both_pooled_means_have_intervals_around_them() -> None:
    first = answers([1.0] * 30 + [0.0] * 70, list(range(100)))
    second = answers([1.0] * 9 + [0.0] * 1, list(range(10)))
    both, simple, weighted = pool([first, second])
    assert both.simple == pytest.approx(0.6)
    assert both.weighted == pytest.approx(39 / 110)
    assert simple[0] < both.simple < simple[1]
    assert weighted[0] < both.weighted < weighted[1]
    assert simple[1] - simple[0] > weighted[1] - weighted[0]


def test_pooled_means_of_equal_answers_stay_uncertain() -> None:
    """Wilson's interval of 0 of 25 ends at 0.1332; of the mean of two such, at that over sqrt 2."""
    sets = [answers([0.0] * 25, list(range(25))), answers([0.0] * 25, list(range(25)))]
    both, simple, weighted = pool(sets)
    assert (both.simple, both.weighted) == (0.0, 0.0)
    assert simple == weighted == pytest.approx((0.0, 0.1332 / 2**0.5), abs=1e-4)


def test_a_median_has_an_interval_and_nothing_has_none() -> None:
    values = [0.1, 0.2, 0.3, 0.9, 0.95]
    found = clustered(answers(values, [0, 0, 1, 2, 3]), statistic="median")
    assert found is not None and found.mean == 0.3 and found.low <= 0.3 <= found.high
    assert clustered([]) is None


# ---- several draws of one question --------------------------------------------------------------


def of_draws(draws_by_question: list[list[float]]) -> Estimate:
    answered = [
        Answered(cluster=str(number), scores=tuple(draws))
        for number, draws in enumerate(draws_by_question)
    ]
    found = clustered(answered)
    assert found is not None
    return found


def test_draws_that_always_agree_count_once() -> None:
    always = [[1.0] * 4] * 96 + [[0.0] * 4] * 32
    once = share([1.0] * 96 + [0.0] * 32)
    found = of_draws(always)
    assert found.n == 128
    assert (found.low, found.high) == pytest.approx((once.low, once.high), abs=1e-3)


def test_independent_draws_are_worth_more_than_questions() -> None:
    rng = np.random.default_rng(0)
    draws = (rng.random((400, 4)) < 0.7).astype(float).tolist()
    found, questions = of_draws(draws), wilson(0.7, 400)
    assert found.high - found.low < 0.65 * (questions[1] - questions[0])


def test_all_draws_right_is_as_wide_as_the_questions_alone() -> None:
    assert of_draws([[1.0, 1.0]] * 50).low == pytest.approx(wilson(1.0, 50)[0])


def test_clustered_interval_covers() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        chances = rng.beta(3, 2, size=128)
        draws = (rng.random((128, 4)) < chances[:, None]).astype(float).tolist()
        interval = of_draws(draws)
        covered += interval.low <= 0.6 <= interval.high
    assert covered >= 180


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4), min_size=1))
def test_clustered_interval_is_between_both_extremes(draws: list[list[float]]) -> None:
    found = of_draws(draws)
    widest = wilson(found.mean, len(draws))
    assert widest[0] - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= widest[1] + 1e-9
