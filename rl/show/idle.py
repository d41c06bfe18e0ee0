"""Steps that trained nothing, as all their groups were dead: a run may go on so for days."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolshed.types import Json

IDLE_STEPS = 5
"""So many in a row are said."""


def trained_nothing(figures: Mapping[str, Json]) -> bool:
    """Whether a step's figures tell of dead groups alone; one that moved weights has a loss."""
    return figures.get("dead_groups") == 1 and "loss" not in figures


def idle_steps(lines: Sequence[Mapping[str, Json]]) -> int:
    """How many of the last steps trained nothing."""
    num = 0
    for figures in reversed(lines):
        if not trained_nothing(figures):
            break
        num += 1
    return num


def idle_words(lines: Sequence[Mapping[str, Json]]) -> str:
    """What is to be said of a run's last steps and done about them; empty where they trained."""
    num = idle_steps(lines)
    if num < IDLE_STEPS:
        return ""
    found = [line.get("accuracy") for line in lines[-num:]]
    values = [float(value) for value in found if isinstance(value, int | float)]
    accuracy = sum(values) / len(values) if values else 0.0
    remedy = "harder questions" if accuracy > 0.5 else "easier questions, or more SFT first"
    return (
        f"the last {num} steps trained nothing: in every group all rewards were alike (mean "
        f"accuracy {accuracy:.2f}); {remedy}, or a reward with parts"
    )


class IdleSteps:
    """Says it once in a run."""

    def __init__(self, run: Path, lines: Sequence[Mapping[str, Json]]) -> None:
        """``lines``: of the steps before, oldest first."""
        self._run = run
        self._lines = list(lines[-IDLE_STEPS:])
        self._is_said = False

    def step(self, figures: Mapping[str, Json]) -> None:
        """A step was taken."""
        self._lines = [*self._lines, figures][-IDLE_STEPS:]
        words = idle_words(self._lines)
        if words and not self._is_said:
            self._is_said = True
            print(f"warning: {words}; python -m rl.view {self._run} shows them", file=sys.stderr)
