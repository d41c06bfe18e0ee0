"""Yes or no, ignoring case. 0 or 1."""

from __future__ import annotations

from rl.rewards import answer as read
from rl.rewards.rule import UNREADABLE, Measured, RewardRule
from rl.types import Question, Trajectory
from toolshed.types import Json


def is_target(target: Json) -> bool:
    return isinstance(target, str) and read.yes_or_no(target) is not None


def measure(
    question: Question, trajectory: Trajectory, text: str | None, rule: RewardRule
) -> Measured:
    said = read.yes_or_no(text) if text is not None else None
    if said is None:
        return UNREADABLE
    hit = float(said == read.yes_or_no(str(question.target)))
    return Measured(value=hit, accuracy=hit, readable=True)
