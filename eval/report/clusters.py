"""Intervals of scores that come in clusters: questions about one picture are not independent.

All intervals are 95 %. Pure functions on numbers; where every cluster holds one question they equal
those of ``eval.metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from eval.metrics import Estimate, Pooled, percentiles, pooled, resampled_means
from rl.figures.intervals import wilson

_MEDIAN_RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One question's scores."""

    cluster: str
    """What it shares with others: the hash of its picture."""
    scores: tuple[float, ...]
    """One for each draw or repeat, never empty."""

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


def clustered(
    answers: Sequence[Answered], *, statistic: Literal["mean", "median"] = "mean", seed: int = 0
) -> Estimate | None:
    """Mean or median over questions with the interval that fits its scores; None without any.

    Means of 0/1 scores get Wilson's interval at the effective number of questions, other means and
    medians a bootstrap that draws whole clusters.
    """
    if not answers:
        return None
    if statistic == "median":
        return _bootstrap_median(answers, seed)
    if any(score not in (0.0, 1.0) for answer in answers for score in answer.scores):
        return _bootstrap(answers, seed)
    mean = _mean(answers)
    low, high = wilson(mean, effective_questions(answers))
    return Estimate(n=len(answers), mean=mean, low=low, high=high)


def effective_questions(answers: Sequence[Answered]) -> float:
    """How many independent 0/1 answers these are worth: n over the design effect.

    The design effect is the cluster-robust variance of the mean over that of independent answers
    (Kish, Survey Sampling, 1965, ch. 5). What is returned is at least what clusters of fully equal
    answers would be worth, n^2 / sum of n_g^2, and at most the number of answers. Where all answers
    agree nothing is known of the correlation, and the least is returned.
    """
    n, num_answers = len(answers), sum(len(answer.scores) for answer in answers)
    sizes = [len(group) for group in _groups(answers)]
    least = n * n / sum(size * size for size in sizes)
    if num_answers == n and len(sizes) == n:
        return float(n)
    mean = _mean(answers)
    independent = mean * (1 - mean)
    if independent == 0 or len(sizes) < 2:
        return least
    sums = [sum(answer.mean - mean for answer in group) for group in _groups(answers)]
    correction = len(sizes) / (len(sizes) - 1) * (n - 1) / n
    variance = correction * sum(one * one for one in sums) / (n * n)
    if variance == 0:
        return float(num_answers)
    return min(max(independent / variance, least), float(num_answers))


def pool(
    sets: Sequence[Sequence[Answered]], *, seed: int = 0
) -> tuple[Pooled, tuple[float, float], tuple[float, float]]:
    """Simple and weighted mean over sets, none of them empty, with the interval of each.

    The sets' own intervals are combined by the method of variance estimates recovery (Zou and
    Donner, Statistics in Medicine 27, 2008), which keeps Wilson's width where all answers agree.
    """
    parts = [part for answers in sets if (part := clustered(answers, seed=seed)) is not None]
    both = pooled(parts)
    num = sum(part.n for part in parts)
    simple = _recovered(both.simple, parts, [1 / len(parts)] * len(parts))
    weighted = _recovered(both.weighted, parts, [part.n / num for part in parts])
    return both, simple, weighted


def _recovered(
    mean: float, parts: Sequence[Estimate], weights: Sequence[float]
) -> tuple[float, float]:
    pairs = list(zip(parts, weights, strict=True))
    below = math.sqrt(sum((weight * (part.mean - part.low)) ** 2 for part, weight in pairs))
    above = math.sqrt(sum((weight * (part.high - part.mean)) ** 2 for part, weight in pairs))
    return mean - below, mean + above


def _mean(answers: Sequence[Answered]) -> float:
    return sum(answer.mean for answer in answers) / len(answers)


def _groups(answers: Sequence[Answered]) -> list[list[Answered]]:
    found: dict[str, list[Answered]] = {}
    for answer in answers:
        found.setdefault(answer.cluster, []).append(answer)
    return list(found.values())


def _bootstrap(answers: Sequence[Answered], seed: int) -> Estimate:
    means = [answer.mean for answer in answers]
    clusters = [answer.cluster for answer in answers]
    low, high = percentiles(resampled_means(means, clusters, seed=seed))
    return Estimate(n=len(answers), mean=_mean(answers), low=low, high=high)


def _bootstrap_median(answers: Sequence[Answered], seed: int) -> Estimate:
    groups = [np.array([answer.mean for answer in group]) for group in _groups(answers)]
    rng = np.random.default_rng(seed)
    drawn = [
        float(
            np.median(
                np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
            )
        )
        for _ in range(_MEDIAN_RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    middle = median(answer.mean for answer in answers)
    return Estimate(n=len(answers), mean=middle, low=float(low), high=float(high))
