"""A point on an object: the mean over all points of the answer, as RefSpatial-Bench does it."""

from __future__ import annotations

from rl.rewards import answer as read
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
    values = [region.value(point, rule.point) for point in points]
    hits = [region.holds(point) for point in points]
    return Measured(
        value=sum(values) / len(points),
        accuracy=sum(hits) / len(points),
        readable=True,
        parts={"num_points": float(len(points))},
    )
