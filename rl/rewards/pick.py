"""Picking up: decided by physics, from the world state that the last robot call returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rl.rewards.rule import Measured, RewardRule
from rl.types import Question, Trajectory
from toolshed.types import Json

if TYPE_CHECKING:
    from toolshed.tabletop.state import WorldState


MOVES = (
    "robot.execute_grasp",
    "robot.place_object_at_2d_location",
    "robot.place_object_at_3d_location",
)


def is_target(target: Json) -> bool:
    return isinstance(target, str) and bool(target.strip())


def measure(
    question: Question, trajectory: Trajectory, text: str | None, rule: RewardRule
) -> Measured:
    world = last_world(trajectory)
    held = world.held if world is not None else None
    hit = float(held is not None and held == question.target)
    moves = num_moves(trajectory)
    parts = {"num_robot_moves": float(moves), "holds_any": float(bool(held))}
    # Any last word will do after a deed, but a word alone answers nothing here.
    readable = bool(text) and moves > 0
    return Measured(
        value=hit,
        accuracy=hit,
        readable=readable,
        state="answered" if text else "unparsable",
        parts=parts,
    )


def last_world(trajectory: Trajectory) -> WorldState | None:
    """State after the last call that moved or read the world; None if none did."""
    for result in reversed(trajectory.results):
        for variable in result.variables:
            if variable.kind == "world":
                return cast("WorldState", variable.value)
    return None


def num_moves(trajectory: Trajectory) -> int:
    """Calls that moved the arm."""
    return sum(result.name in MOVES and result.status == "ok" for result in trajectory.results)
