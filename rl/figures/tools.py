"""How each tool fared in a step: how often it was called, how its calls ended, and their times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl.types import Trajectory
from toolshed.types import Json, ToolResult

UNKNOWN = "unknown"
"""Name for all calls of tools that there are not: models write any, metrics have few names."""


def tool_figures(played: Sequence[Trajectory]) -> dict[str, Json]:
    """For each tool called: ``calls``, the shares ``ok``, ``refused`` and ``failed``; in seconds
    the mean ``total_s``, the 0.95-quantile ``p95_s`` and the mean wait ``queue_s`` of its calls.
    Answers that were remembered count as calls, which makes means small."""
    results: dict[str, list[ToolResult]] = {}
    for trajectory in played:
        for result in trajectory.results:
            results.setdefault(_name(result), []).append(result)
    told: dict[str, Json] = {}
    for name in sorted(results):
        told |= {f"tool/{name}/{key}": value for key, value in _of(results[name]).items()}
    return told


def _name(result: ToolResult) -> str:
    return UNKNOWN if result.reason == "unknown_tool" else result.name


def _of(results: Sequence[ToolResult]) -> dict[str, Json]:
    total_s = [result.timings.total_s for result in results]
    told: dict[str, Json] = {"calls": len(results)}
    for status in ("ok", "refused", "failed"):
        told[status] = sum(result.status == status for result in results) / len(results)
    return told | {
        "total_s": float(np.mean(total_s)),
        "p95_s": float(np.quantile(total_s, 0.95)),
        "queue_s": float(np.mean([result.timings.queue_s for result in results])),
    }
