"""How large a difference must be to mean something at a benchmark's size."""

from __future__ import annotations

import math
from functools import lru_cache

from eval.metrics import mcnemar
from rl.figures.intervals import wilson

LEVEL = 0.05
"""Largest p that counts."""
POWER = 0.8
"""Share of comparisons that notice a difference called detectable."""


def half_width(n: int, share: float) -> float:
    """Half of Wilson's 95 % interval of a share of ``n`` independent questions."""
    low, high = wilson(share, n)
    return (high - low) / 2


def smallest_significant(n: int, flips: float) -> float | None:
    """The smallest difference of two runs on the same ``n`` questions with p < 0.05 (exact
    McNemar), where a share ``flips`` of them changes; None where no difference suffices."""
    num_flips = round(flips * n)
    critical = _most_worse(num_flips)
    return None if critical is None else (num_flips - 2 * critical) / n


def detectable(n: int, flips: float) -> float:
    """The smallest true difference, in steps of 0.1 %, that four in five comparisons on ``n``
    questions notice; a share ``flips`` of the questions changes, or as many as are needed."""
    step = 1
    while _power(n, flips, step / 1000) < POWER and step < 1000:
        step += 1
    return step / 1000


@lru_cache(maxsize=4096)
def _most_worse(num_flips: int) -> int | None:
    """The largest smaller side of so many flips that is still significant."""
    found = [k for k in range(num_flips // 2 + 1) if mcnemar(k, num_flips - k) < LEVEL]
    return max(found) if found else None


def _power(n: int, flips: float, difference: float) -> float:
    flips = max(flips, difference)
    better = (flips + difference) / (2 * flips)
    power = 0.0
    for num_flips in range(n + 1):
        chance = _binomial(n, num_flips, flips)
        critical = _most_worse(num_flips) if chance > 1e-7 else None
        if critical is None:
            continue
        sides = range(critical + 1)
        power += chance * sum(
            _binomial(num_flips, k, 1 - better) + _binomial(num_flips, k, better) for k in sides
        )
    return power


def _binomial(n: int, k: int, share: float) -> float:
    if share in (0.0, 1.0):
        return float(k == n * share)
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(share) + (n - k) * math.log1p(-share))
