"""Statistics of rows: shares with Wilson intervals, means, paired tests. Pure functions on numbers.

All intervals are 95 %. Nothing here knows questions, files or stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054
NUM_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean with its interval; ``n`` counts questions."""

    n: int
    mean: float
    low: float
    high: float

    def above(self, other: Estimate) -> bool:
        """Whether the intervals are disjoint and this one is the higher."""
        return self.low > other.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooled:
    """A figure over several sets; the two differ where the sets' sizes do, so say which."""

    simple: float
    """Mean of the sets' means."""
    weighted: float
    """Mean over all questions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """How two runs differ on the same questions."""

    num_pairs: int
    num_better: int
    """Questions on which the second run scores higher."""
    num_worse: int
    difference: float
    """Mean of second minus first."""
    low: float
    high: float
    p: float
    """Two-sided; 1.0 where nothing differs."""

    @property
    def identical(self) -> bool:
        return self.num_better == 0 and self.num_worse == 0


def wilson(mean: float, n: float) -> tuple[float, float]:
    """Wilson's interval of a share seen on ``n`` independent questions (``n`` may be effective)."""
    if n <= 0:
        return 0.0, 1.0
    centre = mean + Z95**2 / (2 * n)
    margin = Z95 * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n * n))
    scale = 1 + Z95**2 / n
    low = 0.0 if mean == 0 else max(0.0, (centre - margin) / scale)
    high = 1.0 if mean == 1 else min(1.0, (centre + margin) / scale)
    return low, high


def share(scores: Sequence[float]) -> Estimate:
    """Mean of 0/1 scores with Wilson's interval."""
    mean = sum(scores) / len(scores) if scores else 0.0
    low, high = wilson(mean, len(scores))
    return Estimate(n=len(scores), mean=mean, low=low, high=high)


def clustered_share(draws_by_question: Sequence[Sequence[float]]) -> Estimate:
    """Mean over questions of 0/1 scores of several draws, interval clustered by question.

    Wilson's interval at the effective number of answers: the variance between the questions' means
    says how many independent answers the draws are worth, never fewer than there are questions
    (draws that always agree) nor more than there are draws.
    """
    means = [sum(draws) / len(draws) for draws in draws_by_question if draws]
    n = len(means)
    if n == 0:
        return Estimate(n=0, mean=0.0, low=0.0, high=1.0)
    mean = sum(means) / n
    num_draws = sum(len(draws) for draws in draws_by_question)
    effective = float(n)
    if n > 1:
        variance = sum((m - mean) ** 2 for m in means) / (n - 1) / n
        if variance > 0:
            effective = min(max(mean * (1 - mean) / variance, n), num_draws)
    low, high = wilson(mean, effective)
    return Estimate(n=n, mean=mean, low=low, high=high)


def bootstrap_mean(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean of continuous scores with a percentile interval."""
    if not values:
        return Estimate(n=0, mean=0.0, low=0.0, high=1.0)
    low, high = _percentiles(np.asarray(values, dtype=np.float64), seed)
    return Estimate(n=len(values), mean=float(np.mean(values)), low=low, high=high)


def estimate(draws_by_question: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate:
    """The interval that fits the scores: 0/1 or continuous, one draw or several."""
    flat = [score for draws in draws_by_question for score in draws]
    if any(score not in (0.0, 1.0) for score in flat):
        means = [sum(draws) / len(draws) for draws in draws_by_question if draws]
        return bootstrap_mean(means, seed=seed)
    if all(len(draws) == 1 for draws in draws_by_question):
        return share(flat)
    return clustered_share(draws_by_question)


def pooled(parts: Sequence[Estimate]) -> Pooled:
    """One figure for several sets, both ways in use."""
    n = sum(part.n for part in parts)
    return Pooled(
        simple=sum(part.mean for part in parts) / len(parts) if parts else 0.0,
        weighted=sum(part.mean * part.n for part in parts) / n if n else 0.0,
    )


def mcnemar(num_better: int, num_worse: int) -> float:
    """Exact two-sided McNemar test from the discordant pairs; the sign test is the same sum."""
    total = num_better + num_worse
    if total == 0:
        return 1.0
    smaller = min(num_better, num_worse)
    tail = sum(math.comb(total, k) for k in range(smaller + 1))
    return min(1.0, float(2 * tail / 2**total))


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided randomisation test of paired differences: how often would a mean as far from 0
    arise if each question's sign were a coin?"""
    moved = np.array([d for d in differences if d != 0], dtype=np.float64)
    if moved.size == 0:
        return 1.0
    signs = np.random.default_rng(seed).integers(0, 2, size=(NUM_RESAMPLES, moved.size)) * 2 - 1
    seen = abs(float(moved.sum()))
    as_far = int((np.abs(signs @ moved) >= seen - 1e-9).sum())
    return (as_far + 1) / (NUM_RESAMPLES + 1)


def paired(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Paired:
    """Compare the scores of two runs on the same questions, in the same order.

    0/1 scores: McNemar; means of draws and continuous scores: sign flips.
    """
    differences = [b - a for a, b in zip(first, second, strict=True)]
    better = sum(d > 0 for d in differences)
    worse = sum(d < 0 for d in differences)
    binary = all(score in (0.0, 1.0) for score in (*first, *second))
    p = mcnemar(better, worse) if binary else sign_flip(differences, seed=seed)
    low, high = _percentiles(np.array(differences or [0.0]), seed)
    return Paired(
        num_pairs=len(differences),
        num_better=better,
        num_worse=worse,
        difference=sum(differences) / max(len(differences), 1),
        low=low,
        high=high,
        p=p,
    )


def bootstrap_p(differences: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided p of a mean difference of 0 by resampling the questions with replacement."""
    if not any(differences):
        return 1.0
    means = _resampled_means(np.array(differences, dtype=np.float64), seed)
    # A mean that is 0 but for rounding is on neither side.
    below, above = int((means <= 1e-12).sum()), int((means >= -1e-12).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (NUM_RESAMPLES + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for several tests, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = largest
    return adjusted


def _percentiles(values: npt.NDArray[np.float64], seed: int) -> tuple[float, float]:
    low, high = np.percentile(_resampled_means(values, seed), [2.5, 97.5])
    return float(low), float(high)


def _resampled_means(values: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, values.size, size=(NUM_RESAMPLES, values.size), dtype=np.int32)
    means: npt.NDArray[np.float64] = values[picks].mean(axis=1)
    return means
