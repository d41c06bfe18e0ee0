"""The rows behind reported numbers: which of them count, and what each is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from eval.benchmarks import Figure
from eval.metrics import Estimate
from eval.report.clusters import Answered
from eval.rows import EvalRow
from toolshed.errors import ConfigError

Mode = Literal["greedy", "sampled"]
SCORE = Figure(name="score")
"""The score that every row has."""


def mode_of(row: EvalRow) -> Mode:
    """How a row was asked."""
    return "greedy" if row.draw == "greedy" else "sampled"


def usual_mode(rows: Sequence[EvalRow]) -> Mode:
    """Greedy, unless nothing was asked so."""
    return "greedy" if any(row.draw == "greedy" for row in rows) else "sampled"


def type_of(row: EvalRow) -> str:
    """Type of a row's question, as a heading."""
    return row.question_type or "unknown type"


def measured(row: EvalRow, figure: Figure) -> float:
    """What a scored row counts for a figure: its score, or a measured part of it.

    ConfigError where the part is missing, so that no row leaves a denominator silently.
    """
    assert row.score is not None
    if not figure.part:
        return row.score
    value = row.episode.parts.get(figure.part)
    if value is None and row.state != "answered":
        value = figure.unreadable
    if value is None:
        raise ConfigError(
            f"{row.benchmark}: figure {figure.name} counts the part {figure.part!r}, which the "
            f"{row.state} answer to question {row.question_id} (draw {row.draw}, repeat "
            f"{row.repeat}) lacks; let the metric measure it of every answer, or give "
            "Figure(unreadable=...) for those that cannot be read"
        )
    return value


def picture_of(row: EvalRow) -> str:
    """Hash of a question's first picture, which clusters it; without one a name of its own."""
    pictures = row.episode.pictures
    return pictures[0].sha256 if pictures else f"? {row.question_id}"


def counting(rows: Sequence[EvalRow], figure: Figure, mode: Mode) -> list[EvalRow]:
    """The scored rows of one mode that a figure counts."""
    return [
        row
        for row in rows
        if not row.failed
        and mode_of(row) == mode
        and (not figure.types or row.question_type in figure.types)
    ]


def answers_of(rows: Sequence[EvalRow], figure: Figure = SCORE) -> list[Answered]:
    """Questions with what scored rows count over draws and repeats, clustered by the first picture.

    ConfigError where a row lacks what the figure counts.
    """
    values: dict[str, list[float]] = {}
    clusters: dict[str, str] = {}
    for row in rows:
        values.setdefault(row.question_id, []).append(measured(row, figure))
        clusters[row.question_id] = picture_of(row)
    return [Answered(cluster=clusters[name], scores=tuple(found)) for name, found in values.items()]


def scaled(estimate: Estimate | None, scale: float) -> Estimate | None:
    """An estimate in another unit."""
    if estimate is None:
        return None
    return Estimate(
        n=estimate.n,
        mean=scale * estimate.mean,
        low=scale * estimate.low,
        high=scale * estimate.high,
    )
