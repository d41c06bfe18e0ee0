"""How each task fared in a step, and what its answers are made of.

A task is the last part of a question's source. A mean reward hides what changes: which tools are
used, whether pointing is asked well, whether answers follow the tools or are guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from rl.algorithms.advantages import has_spread
from rl.rewards import answer
from rl.rewards.query import POINT_KINDS, query_rewards
from rl.types import Trajectory
from toolshed.types import Detections, Json, Point

NEAR = 0.02
"""Distance, in picture sides, within which an answered point is one that a tool returned."""
_GRID = 0.05


def task_name(source: str) -> str:
    """``tabletop-point`` is the task ``point``."""
    return source.rpartition("-")[2]


def task_figures(groups: Sequence[Sequence[Trajectory]]) -> dict[str, Json]:
    """For each task: means of ``reward``, ``accuracy``, ``call_rate``; ``dead_groups``, the share
    of its groups whose rewards are all alike; ``chain_share``, that of the most frequent sequence
    of tools. Where points are asked for and there are such, shares ``points_inside``, ``override``
    and ``grid``."""
    found: dict[str, list[list[Trajectory]]] = {}
    for group in groups:
        scored = [t for t in group if t.reward is not None]
        if scored:
            found.setdefault(task_name(scored[0].question.source), []).append(scored)
    told: dict[str, Json] = {}
    for name in sorted(found):
        told |= {f"task/{name}/{key}": value for key, value in _of(found[name]).items()}
    return told


def _of(groups: Sequence[Sequence[Trajectory]]) -> dict[str, Json]:
    scored = [t for group in groups for t in group]
    dead = [not has_spread([t.reward.value for t in g if t.reward]) for g in groups]
    chains = Counter(tuple(call.name for call in t.calls) for t in scored)
    shares: dict[str, list[float]] = {
        "reward": [t.reward.value for t in scored if t.reward],
        "accuracy": [t.reward.accuracy for t in scored if t.reward],
        "call_rate": [float(bool(t.calls)) for t in scored],
        "dead_groups": [float(each) for each in dead],
        **_of_points([t for t in scored if t.question.kind in POINT_KINDS]),
    }
    told: dict[str, Json] = {k: sum(v) / len(v) for k, v in shares.items() if v}
    return told | {"chain_share": chains.most_common(1)[0][1] / len(scored)}


def _of_points(scored: Sequence[Trajectory]) -> dict[str, list[float]]:
    inside = [share for t in scored for share in query_rewards(t) if share is not None]
    overrides, grids = [], []
    for trajectory in scored:
        given = answer.points((trajectory.reward and trajectory.reward.answer) or "")
        seen = _seen(trajectory)
        if given:
            grids.append(float(all(map(_on_grid, given))))
        if given and seen:
            overrides.append(float(not all(_is_near(point, seen) for point in given)))
    return {"points_inside": inside, "override": overrides, "grid": grids}


def _seen(trajectory: Trajectory) -> list[Point]:
    return [
        point
        for result in trajectory.results
        if isinstance(result.held, Detections)
        for point in result.held.points
    ]


def _is_near(point: Point, others: Sequence[Point]) -> bool:
    return any(math.hypot(point.u - o.u, point.v - o.v) <= NEAR for o in others)


def _on_grid(point: Point) -> bool:
    return all(abs(x / _GRID - round(x / _GRID)) < 1e-6 for x in (point.u, point.v))
