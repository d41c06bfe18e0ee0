"""Reported numbers: one of a benchmark, or two over several, each greedy and sampled apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.benchmarks import BENCHMARKS, Figure, Pool
from eval.metrics import Estimate
from eval.report.answers import Mode, answers_of, counting, scaled
from eval.report.clusters import clustered, pool
from eval.report.repeats import Band, band
from eval.rows import EvalRow

Place = Literal["inside", "below", "above"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureResult:
    """One reported number."""

    name: str
    percent: bool
    lower_is_better: bool = False
    headline: bool = False
    value: Estimate | None
    """Greedy answers, over all repeats; None where nothing was asked greedily or scores are
    withheld. ``n`` counts questions."""
    sampled: Estimate | None = None
    """Over sampled draws."""
    num_pictures: int = 0
    """Clusters of the interval."""
    paper: float | None = None
    reproduced: tuple[float, ...] = ()
    runs: Band | None = None
    """The figure of each repeat; None with fewer than two."""

    @property
    def against_paper(self) -> Place | None:
        """Where our value lies when its interval excludes the paper's; None without either."""
        if self.paper is None or self.value is None:
            return None
        if self.value.low > self.paper:
            return "above"
        return "below" if self.value.high < self.paper else "inside"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolResult:
    """One number over several benchmarks, both ways in use; in percent."""

    name: str
    of: tuple[str, ...]
    simple: FigureResult
    """Mean of the benchmarks' figures."""
    weighted: FigureResult
    """Mean over all questions."""


def figure_result(figure: Figure, rows: Sequence[EvalRow]) -> FigureResult:
    """One figure of a benchmark's rows; ConfigError where a row lacks what it counts."""
    greedy, sampled = counting(rows, figure, "greedy"), counting(rows, figure, "sampled")
    answers = answers_of(greedy, figure)
    scale = 100.0 if figure.percent else 1.0
    return FigureResult(
        name=figure.name,
        percent=figure.percent,
        lower_is_better=figure.lower_is_better,
        headline=figure.headline,
        value=scaled(clustered(answers, statistic=figure.statistic), scale),
        sampled=scaled(clustered(answers_of(sampled, figure), statistic=figure.statistic), scale),
        num_pictures=len({answer.cluster for answer in answers}),
        paper=figure.paper,
        reproduced=figure.reproduced,
        runs=band(greedy, figure, scale),
    )


def pool_result(entry: Pool, rows: Mapping[str, Sequence[EvalRow]]) -> PoolResult | None:
    """Both means; None where neither mode has answers in every set."""
    greedy, sampled = _means(entry, rows, "greedy"), _means(entry, rows, "sampled")
    if greedy is None and sampled is None:
        return None
    simple, weighted = greedy or (None, None)
    sampled_simple, sampled_weighted = sampled or (None, None)
    return PoolResult(
        name=entry.name,
        of=entry.of,
        simple=_mean(entry, "simple mean", simple, sampled_simple, entry.reproduced_simple),
        weighted=_mean(
            entry, "weighted mean", weighted, sampled_weighted, entry.reproduced_weighted
        ),
    )


def _mean(
    entry: Pool,
    name: str,
    value: Estimate | None,
    sampled: Estimate | None,
    reproduced: tuple[float, ...],
) -> FigureResult:
    return FigureResult(
        name=name,
        percent=True,
        headline=True,
        value=value,
        sampled=sampled,
        paper=entry.paper,
        reproduced=reproduced,
    )


def _means(
    entry: Pool, rows: Mapping[str, Sequence[EvalRow]], mode: Mode
) -> tuple[Estimate | None, Estimate | None] | None:
    """Simple and weighted mean of the sets' first figures; None unless every set has answers."""
    firsts = {key: BENCHMARKS[key].figures[0] for key in entry.of}
    sets = [answers_of(counting(rows[key], each, mode), each) for key, each in firsts.items()]
    if not all(sets):
        return None
    means, simple, weighted = pool(sets)
    n = sum(len(answers) for answers in sets)
    return (
        scaled(Estimate(n=n, mean=means.simple, low=simple[0], high=simple[1]), 100.0),
        scaled(Estimate(n=n, mean=means.weighted, low=weighted[0], high=weighted[1]), 100.0),
    )
