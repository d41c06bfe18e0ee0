"""A point in free space: only the answer's first point counts, the region's edge is inside."""

from __future__ import annotations

from rl.rewards import answer as read
from rl.rewards import geometry
from rl.rewards.region import Region, is_target
from rl.rewards.rule import UNREADABLE, Measured, RewardRule
from rl.types import Question, Trajectory

__all__ = ["is_target", "measure"]


def measure(
    question: Question, trajectory: Trajectory, text: str | None, rule: RewardRule
) -> Measured:
    points = read.points(text) if text is not None else []
    if not points:
        return UNREADABLE
    region = Region.of(question.target)
    return Measured(
        value=region.value(points[0], rule.point),
        accuracy=float(region.holds(points[0])),
        readable=True,
        parts={"edge_distance": geometry.distance_to_hull(region.hull, points[0])},
    )
