"""What episodes did besides answering: their tool chains, and how long tools and turns took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.chains import chain_of
from eval.rows import EvalRow
from rl.show.episode import CallRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """Seconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolTimes:
    """Calls of one tool."""

    tool: str
    num_calls: int
    num_refused: int
    num_failed: int
    total: Percentiles
    """From the call to its reply."""
    queue: Percentiles
    """Of it, waiting for a replica."""
    run: Percentiles
    """Of it, the back-end's work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnTimes:
    """Assistant turns of all episodes."""

    num_turns: int
    generate: Percentiles
    """Until the turn's text was there."""
    tools: Percentiles
    """Until all its calls were answered; of turns with calls."""
    mean_tokens: float
    """Sampled tokens of a turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainShare:
    """Episodes that called the same families equally often in equally many turns."""

    chain: str
    num: int
    share: float
    """Of the benchmark's episodes that did not break."""
    mean_score: float | None
    """In [0, 1]; None where scores are withheld."""


def chain_shares(rows: Sequence[EvalRow]) -> tuple[ChainShare, ...]:
    """The chains of one benchmark's rows, the most frequent first."""
    scores: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.score is not None:
            scores[chain_of(row.episode).signature].append(row.score)
    num = sum(len(found) for found in scores.values())
    shares = [
        ChainShare(
            chain=chain, num=len(found), share=len(found) / num, mean_score=sum(found) / len(found)
        )
        for chain, found in scores.items()
    ]
    return tuple(sorted(shares, key=lambda one: (-one.num, one.chain)))


def tool_times(rows: Sequence[EvalRow]) -> tuple[ToolTimes, ...]:
    """Latency of each tool over all rows, by name."""
    calls: dict[str, list[CallRecord]] = defaultdict(list)
    for row in rows:
        for turn in row.episode.turns:
            for call in turn.calls:
                calls[call.name].append(call)
    return tuple(
        ToolTimes(
            tool=name,
            num_calls=len(found),
            num_refused=sum(call.status == "refused" for call in found),
            num_failed=sum(call.status == "failed" for call in found),
            total=percentiles([call.total_s for call in found]),
            queue=percentiles([call.queue_s for call in found]),
            run=percentiles([call.run_s for call in found]),
        )
        for name, found in sorted(calls.items())
    )


def turn_times(rows: Sequence[EvalRow]) -> TurnTimes | None:
    """Times of the turns of all rows; None without any."""
    turns = [turn for row in rows for turn in row.episode.turns]
    if not turns:
        return None
    return TurnTimes(
        num_turns=len(turns),
        generate=percentiles([turn.generate_s for turn in turns]),
        tools=percentiles([turn.tools_s for turn in turns if turn.calls]),
        mean_tokens=sum(turn.num_tokens for turn in turns) / len(turns),
    )


def percentiles(seconds: Sequence[float]) -> Percentiles:
    """Of times in seconds; zeros where there are none."""
    if not seconds:
        return Percentiles(p50=0.0, p95=0.0, p99=0.0)
    p50, p95, p99 = np.percentile(np.asarray(seconds, dtype=np.float64), [50, 95, 99])
    return Percentiles(p50=float(p50), p95=float(p95), p99=float(p99))
