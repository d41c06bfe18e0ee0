"""Statistics of rows: shares with Wilson intervals, means, paired tests. Pure functions on numbers.

All intervals are 95 %. Nothing here knows questions, files or stages.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl.figures.intervals import wilson

NUM_RESAMPLES = 10_000
_CHUNK = 1_000
"""Resamples of clusters that are drawn at once; it bounds memory, not the result."""


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
    low: float | None
    """Of the difference's interval, a bootstrap that draws whole clusters; None where all questions
    are of one cluster, which tells nothing of others."""
    high: float | None

    @property
    def identical(self) -> bool:
        return self.num_better == 0 and self.num_worse == 0


def share(scores: Sequence[float]) -> Estimate:
    """Mean of 0/1 scores with Wilson's interval."""
    mean = sum(scores) / len(scores) if scores else 0.0
    low, high = wilson(mean, len(scores))
    return Estimate(n=len(scores), mean=mean, low=low, high=high)


def bootstrap_mean(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean of continuous scores with a percentile interval."""
    if not values:
        return Estimate(n=0, mean=0.0, low=0.0, high=1.0)
    low, high = percentiles(resampled_means(values, seed=seed))
    return Estimate(n=len(values), mean=float(np.mean(values)), low=low, high=high)


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


def sign_flip(
    differences: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> float:
    """Two-sided randomisation test of paired differences: how often would a mean as far from 0
    arise if each sign were a coin? Where ``clusters`` are given, one for each difference, the
    differences of a cluster share their coin.

    Exact where there are at most ``NUM_RESAMPLES`` patterns of signs, else by so many draws.
    """
    sums, _ = _sums_and_sizes(differences, clusters)
    moved = sums[np.abs(sums) > 1e-12]
    if moved.size == 0:
        return 1.0
    # Sums that are equal but for rounding are equally far.
    seen = abs(float(moved.sum())) - 1e-9
    if 2**moved.size <= NUM_RESAMPLES:
        patterns = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
        return float((np.abs((patterns * 2 - 1) @ moved) >= seen).mean())
    signs = np.random.default_rng(seed).integers(0, 2, size=(NUM_RESAMPLES, moved.size)) * 2 - 1
    as_far = int((np.abs(signs @ moved) >= seen).sum())
    return (as_far + 1) / (NUM_RESAMPLES + 1)


def paired(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> Paired:
    """How the scores of two runs differ on the same questions, in the same order; ``clusters``
    names what each question shares with others, None if nothing."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    low = high = None
    if len(set(range(len(differences)) if clusters is None else clusters)) > 1:
        low, high = percentiles(resampled_means(differences, clusters, seed=seed))
    return Paired(
        num_pairs=len(differences),
        num_better=sum(d > 0 for d in differences),
        num_worse=sum(d < 0 for d in differences),
        difference=sum(differences) / max(len(differences), 1),
        low=low,
        high=high,
    )


def paired_p(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided p of two runs on the same independent questions: McNemar's for 0/1 scores, sign
    flips for means of draws and continuous scores; 1.0 where nothing differs."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    if all(score in (0.0, 1.0) for score in (*first, *second)):
        return mcnemar(sum(d > 0 for d in differences), sum(d < 0 for d in differences))
    return sign_flip(differences, seed=seed)


def bootstrap_p(
    differences: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> float:
    """Two-sided p of a mean difference of 0 by drawing the questions with replacement, or whole
    ``clusters`` of them; of a single cluster it says nothing."""
    if not any(differences):
        return 1.0
    means = resampled_means(differences, clusters, seed=seed)
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


def percentiles(means: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval that resampled means span."""
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def resampled_means(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Means of ``NUM_RESAMPLES`` draws with replacement of as many values, or of as many whole
    clusters (``clusters`` names that of each value), as there are; shape (NUM_RESAMPLES,)."""
    rng = np.random.default_rng(seed)
    sums, sizes = _sums_and_sizes(values, clusters)
    if sums.size == len(values):
        plain = np.asarray(values, dtype=np.float64)
        picks = rng.integers(0, plain.size, size=(NUM_RESAMPLES, plain.size), dtype=np.int32)
        means: npt.NDArray[np.float64] = plain[picks].mean(axis=1)
        return means
    parts = []
    for start in range(0, NUM_RESAMPLES, _CHUNK):
        num = min(_CHUNK, NUM_RESAMPLES - start)
        picks = rng.integers(0, sums.size, size=(num, sums.size), dtype=np.int32)
        parts.append(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1))
    return np.concatenate(parts)


def _sums_and_sizes(
    values: Sequence[float], clusters: Sequence[Hashable] | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of each cluster, in the order of their first values."""
    groups: dict[Hashable, list[float]] = {}
    names = range(len(values)) if clusters is None else clusters
    for name, value in zip(names, values, strict=True):
        groups.setdefault(name, []).append(value)
    sums = np.array([sum(group) for group in groups.values()], dtype=np.float64)
    sizes = np.array([len(group) for group in groups.values()], dtype=np.float64)
    return sums, sizes
