"""Picking up: decided by physics, from the world state that the last robot call returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rl.rewards.rule import Measured, RewardRule
from rl.types import Question, Trajectory
from toolshed.types import Json

if TYPE_CHECKING:
    from toolshed.tabletop.state import WorldState


def is_target(target: Json) -> bool:
    return isinstance(target, str) and bool(target.strip())


def measure(
    question: Question, trajectory: Trajectory, text: str | None, rule: RewardRule
) -> Measured:
    world = last_world(trajectory)
    held = world.held if world is not None else None
    hit = float(held is not None and held == question.target)
    parts = {"num_robot_moves": float(num_moves(trajectory)), "holds_any": float(bool(held))}
    return Measured(value=hit, accuracy=hit, readable=bool(text), parts=parts)


def last_world(trajectory: Trajectory) -> WorldState | None:
    """State after the last call that moved or read the world; None if none did."""
    for result in reversed(trajectory.results):
        for variable in result.variables:
            if variable.kind == "world":
                return cast("WorldState", variable.value)
    return None


def num_moves(trajectory: Trajectory) -> int:
    return sum(
        result.name.startswith("robot.execute") or result.name.startswith("robot.place")
        for result in trajectory.results
    )
