"""Statistics against values worked out by hand or recorded elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import (
    Estimate,
    Pooled,
    bootstrap_mean,
    bootstrap_p,
    holm,
    mcnemar,
    paired,
    paired_p,
    pooled,
    sign_flip,
)
from rl.figures.intervals import wilson


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [(37, 23, 0.092), (3, 1, 0.625), (4, 6, 0.754), (6, 6, 1.0), (19, 26, 0.371), (25, 31, 0.504)],
)
def test_mcnemar_matches_recorded_values(better: int, worse: int, p: float) -> None:
    assert mcnemar(better, worse) == pytest.approx(p, abs=5e-4)
    assert mcnemar(worse, better) == mcnemar(better, worse)


def test_mcnemar_without_discordant_pairs_is_one() -> None:
    assert mcnemar(0, 0) == 1.0


def test_mcnemar_by_hand() -> None:
    # 5 against 0: both tails of a fair coin, 2 / 32.
    assert mcnemar(5, 0) == pytest.approx(2 / 32)


def test_wilson_by_hand() -> None:
    # 8 of 10: (0.8 + z2/20 +- z sqrt(0.016 + z2/400)) / (1 + z2/10), z2 = 3.8415.
    low, high = wilson(0.8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)


def test_wilson_at_the_ends_stays_inside_and_is_not_empty() -> None:
    low, high = wilson(1.0, 128)
    assert (low, high) == pytest.approx((0.97086, 1.0), abs=1e-4)
    assert wilson(0.0, 128) == pytest.approx((0.0, 1 - low), abs=1e-9)
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_bootstrap_of_a_constant_is_a_point() -> None:
    found = bootstrap_mean([0.25] * 9)
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(2).normal(0.5, 0.1, 400).tolist()
    found = bootstrap_mean(values)
    margin = 1.96 * float(np.std(values)) / math.sqrt(400)
    assert found.high - found.mean == pytest.approx(margin, rel=0.1)


def test_paired_of_binary_scores_is_mcnemar() -> None:
    first = [0.0] * 37 + [1.0] * 23 + [1.0] * 40
    second = [1.0] * 37 + [0.0] * 23 + [1.0] * 40
    found = paired(first, second)
    assert (found.num_better, found.num_worse, found.num_pairs) == (37, 23, 100)
    assert paired_p(first, second) == pytest.approx(0.092, abs=5e-4)
    assert found.difference == pytest.approx(0.14)
    assert found.low is not None and found.high is not None
    assert found.low < 0.14 < found.high


def test_paired_of_equal_runs_is_identical() -> None:
    found = paired([0.5, 1.0, 0.0], [0.5, 1.0, 0.0])
    assert found.identical
    assert paired_p([0.5, 1.0, 0.0], [0.5, 1.0, 0.0]) == 1.0


def test_one_cluster_tells_nothing_of_others() -> None:
    found = paired([0.0] * 9, [1.0] * 9, ["picture"] * 9)
    assert (found.difference, found.low, found.high) == (1.0, None, None)
    assert sign_flip([1.0] * 9, ["picture"] * 9) == 1.0


def test_clusters_widen_the_interval_as_if_each_were_one_question() -> None:
    signs = np.random.default_rng(5).integers(-1, 2, 60).astype(float).tolist()
    clusters = [number for number in range(60) for _ in range(5)]
    repeated = [sign for sign in signs for _ in range(5)]
    zeros, once = [0.0] * 300, paired([0.0] * 60, signs)
    five = paired(zeros, repeated, clusters)
    assert five.low == pytest.approx(once.low, abs=0.02)
    assert five.high == pytest.approx(once.high, abs=0.02)
    assert bootstrap_p(repeated, clusters) == pytest.approx(bootstrap_p(signs), abs=0.03)
    assert sign_flip(repeated, clusters) == pytest.approx(sign_flip(signs), abs=0.02)
    assert bootstrap_p(repeated) < bootstrap_p(signs)


def test_sign_flip_matches_enumeration() -> None:
    # Four differences of one size: 2 of the 16 sign patterns reach the sum.
    assert sign_flip([0.25] * 4) == 2 / 16
    assert sign_flip([0.1] * 8, [0, 0, 1, 1, 2, 2, 3, 3]) == 2 / 16
    assert sign_flip([0.3] * 20) < 0.001
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([0.5, -0.5]) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_contains_the_share(hits: int, more: int) -> None:
    n = hits + more
    low, high = wilson(hits / n, n)
    assert 0.0 <= low <= hits / n <= high <= 1.0


def test_bootstrap_p_is_small_where_the_mean_is_clear_and_large_where_it_is_not() -> None:
    chance = np.random.default_rng(3)
    noise = [float(value) for value in chance.normal(size=60)]
    centred = [value - sum(noise) / 60 for value in noise]
    assert bootstrap_p([0.0] * 5) == 1.0
    assert bootstrap_p(centred) > 0.9
    assert bootstrap_p([value + 1 for value in centred]) < 0.001
    shifted = [value + 0.2 for value in centred]
    assert bootstrap_p(shifted) == bootstrap_p([-value for value in shifted])
    # A z of 1.55 has p = 0.12.
    deviation = math.sqrt(sum(value * value for value in centred) / 60)
    z = 0.2 / (deviation / math.sqrt(60))
    assert bootstrap_p(shifted) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.03)


def test_two_ways_to_pool() -> None:
    parts = [Estimate(n=10, mean=0.5, low=0, high=1), Estimate(n=30, mean=0.9, low=0, high=1)]
    assert pooled(parts) == Pooled(simple=0.7, weighted=0.8)
    assert pooled([]) == Pooled(simple=0.0, weighted=0.0)
