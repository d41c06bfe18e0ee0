"""Choice: the letter of an option, or an option by its exact name. 0 or 1."""

from __future__ import annotations

import re

from rl.rewards import answer as read
from rl.rewards.rule import UNREADABLE, Measured, RewardRule
from rl.types import Question, Trajectory
from toolshed.types import Json

_OFFERED = re.compile(r"\(([A-Z])\)")


def is_target(target: Json) -> bool:
    return isinstance(target, str) and bool(target.strip())


def measure(
    question: Question, trajectory: Trajectory, text: str | None, rule: RewardRule
) -> Measured:
    target = str(question.target).strip()
    if text is None:
        return UNREADABLE
    if len(target) > 1:
        return _by_name(question, target, text)
    offered = _letters(question)
    chosen = read.letter(text, offered)
    if chosen is None:
        return UNREADABLE
    if offered and chosen not in offered:
        return Measured(value=0.0, accuracy=0.0, readable=False, parts={"off_option": 1.0})
    hit = float(chosen == target.upper())
    return Measured(value=hit, accuracy=hit, readable=True)


def _by_name(question: Question, target: str, text: str) -> Measured:
    chosen = text.strip().casefold()
    choices = question.extra.get("choices")
    names = [str(choice).casefold() for choice in choices] if isinstance(choices, list) else []
    hit = float(chosen == target.casefold())
    readable = chosen in names if names else bool(chosen)
    return Measured(value=hit, accuracy=hit, readable=readable or hit == 1.0)


def _letters(question: Question) -> tuple[str, ...]:
    """Letters offered by the question's text; empty if it names none."""
    return tuple(_OFFERED.findall(question.messages[-1].text)) if question.messages else ()
