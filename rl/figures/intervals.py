"""How sure a share is: Wilson's interval, at the number of independent answers behind it.

All intervals are 95 %. Pure functions on numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054


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


def independent(clusters: Sequence[Sequence[bool]]) -> float:
    """How many independent yeses and noes those of some clusters are worth, each counted alike: n
    over the design effect (Kish, Survey Sampling, 1965, ch. 5).

    At least what clusters of fully equal ones would be worth, n^2 / sum of n_g^2, and at most n.
    Where all agree nothing is known of the correlation, and the least is returned. Empty clusters
    count nothing.
    """
    full = [each for each in clusters if each]
    n = sum(map(len, full))
    if not n:
        return 0.0
    mean = sum(map(sum, full)) / n
    least = n * n / sum(len(each) ** 2 for each in full)
    if mean in (0.0, 1.0) or len(full) < 2:
        return least
    sums = [sum(each) - mean * len(each) for each in full]
    variance = len(full) / (len(full) - 1) * sum(one * one for one in sums) / (n * n)
    if variance == 0:
        return float(n)
    return min(max(mean * (1 - mean) / variance, least), float(n))
