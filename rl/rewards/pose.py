"""A pose as eight projected cuboid corners; 0 unless there are exactly eight."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rl.rewards import answer as read
from rl.rewards import geometry
from rl.rewards.rule import UNREADABLE, Measured, RewardRule
from rl.types import Question, Trajectory
from toolshed.types import Json, Point

NUM_CORNERS = 8


def is_target(target: Json) -> bool:
    return len(read.target_points(target)) == NUM_CORNERS


def measure(
    question: Question, trajectory: Trajectory, text: str | None, rule: RewardRule
) -> Measured:
    corners = read.points(text) if text is not None else []
    target = read.target_points(question.target)
    if len(corners) != NUM_CORNERS:
        return UNREADABLE
    if len(target) != NUM_CORNERS:
        return Measured(value=0.0, accuracy=0.0, readable=True)
    iou = geometry.hull_iou(corners, target)
    closeness = corner_closeness(corners, target)
    value = iou if rule.pose == "iou" else 0.5 * iou + 0.5 * closeness
    parts = {"iou": iou, "corner_closeness": closeness}
    return Measured(value=value, accuracy=iou, readable=True, parts=parts)


def corner_closeness(corners: Sequence[Point], target: Sequence[Point]) -> float:
    """1 - mean distance of optimally matched corners / diagonal of the target, at least 0."""
    us, vs = [p.u for p in target], [p.v for p in target]
    diagonal = math.hypot(max(us) - min(us), max(vs) - min(vs))
    if diagonal == 0:
        return 0.0
    costs = [[geometry.distance(a, b) for b in target] for a in corners]
    return max(0.0, 1.0 - _cheapest_matching(costs) / len(costs) / diagonal)


def _cheapest_matching(costs: Sequence[Sequence[float]]) -> float:
    """Least total cost of a one-to-one matching, by subsets of columns (2^8 of them)."""
    best = {0: 0.0}
    for row in costs:
        longer: dict[int, float] = {}
        for used, total in best.items():
            for column, cost in enumerate(row):
                key = used | 1 << column
                if key != used:
                    longer[key] = min(longer.get(key, math.inf), total + cost)
        best = longer
    return next(iter(best.values()))
