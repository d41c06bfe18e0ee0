"""What a step's rollouts brought, as the metrics of a run name it.

What is told once for several things is named by group: ``stop/REASON``, ``turn/N``, ``task/NAME``
(``rl/figures/tasks.py``), ``tool/NAME`` (``rl/figures/tools.py``). docs/TRAINING.md lists all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rl.figures.tasks import task_figures
from rl.figures.tools import tool_figures
from rl.types import StopReason, Trajectory
from toolshed.types import Json

if TYPE_CHECKING:
    from rl.algorithms.samples import GroupCounts


def rollout_figures(
    groups: Sequence[Sequence[Trajectory]], counts: GroupCounts, rollout_s: float
) -> dict[str, Json]:
    """Figures of a step's groups; broken trajectories enter only their own count, the shares of
    stop reasons, and the figures of tools.

    ``rollout_s``, how long they took (a group, where they are ahead of the learner), is shared out
    to ``generate_s`` and ``tools_s`` as the trajectories' own seconds are.
    """
    played = [t for group in groups for t in group]
    scored = [t for t in played if t.reward is not None]
    tools_s = sum(turn.tools_s for t in scored for turn in t.turns)
    waited_s = sum(turn.generate_s for t in scored for turn in t.turns) + tools_s
    share = tools_s / waited_s if waited_s else 0.0
    return {
        "reward": mean([t.reward.value for t in scored if t.reward]),
        "accuracy": mean([t.reward.accuracy for t in scored if t.reward]),
        "well_formed": mean([float(t.reward.well_formed) for t in scored if t.reward]),
        "call_rate": mean([float(bool(t.calls)) for t in scored]),
        "valid_call_rate": _readable(scored),
        "calls": mean([float(len(t.calls)) for t in scored]),
        "turns": mean([float(len(t.turns)) for t in scored]),
        "trajectories": len(scored),
        "dead_groups": counts.num_dead / counts.num_groups,
        "failures": counts.num_untrainable,
        **_lengths(scored),
        **_stops(played),
        **_entropies(scored),
        **task_figures(groups),
        **tool_figures(played),
        "generate_s": rollout_s * (1 - share),
        "tools_s": rollout_s * share,
    }


def speed_figures(figures: dict[str, Json]) -> dict[str, Json]:
    """Tokens per second of a step whose other figures are known: sampled ones over the whole step,
    trained ones over the update."""
    sampled = _number(figures, "sampled_tokens") * _number(figures, "trajectories")
    told: dict[str, Json] = {}
    for name, tokens, seconds in (
        ("sampled_per_s", sampled, _number(figures, "step_s")),
        ("trained_per_s", _number(figures, "tokens"), _number(figures, "update_s")),
    ):
        told[name] = tokens / seconds if seconds else 0.0
    return told


def mean(values: Sequence[float]) -> float:
    """0 where there are none."""
    return sum(values) / len(values) if values else 0.0


def _number(figures: dict[str, Json], name: str) -> float:
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _readable(scored: Sequence[Trajectory]) -> float:
    """Share of the calls written that could be read; 1 where there were none."""
    good = sum(len(t.calls) for t in scored)
    bad = sum(len(turn.errors) for t in scored for turn in t.turns)
    return good / (good + bad) if good + bad else 1.0


def _lengths(scored: Sequence[Trajectory]) -> dict[str, Json]:
    """Mean tokens of a trajectory by who owns them; a picture counts as one."""
    return {
        f"{kind}_tokens": mean(
            [float(sum(s.end - s.start for s in t.spans if s.kind == kind)) for t in scored]
        )
        for kind in ("prompt", "sampled", "reply")
    }


def _stops(played: Sequence[Trajectory]) -> dict[str, Json]:
    """Of all trajectories the share that each reason ended, every reason each time."""
    return {
        f"stop/{reason}": mean([float(t.stop_reason is reason) for t in played])
        for reason in StopReason
    }


def _entropies(scored: Sequence[Trajectory]) -> dict[str, Json]:
    """Nats per sampled token, of all and of those of the N-th turn: minus the mean log-prob, whose
    expectation the entropy of the sampling distribution is."""
    turns: list[list[float]] = []
    for trajectory in scored:
        for number, turn in enumerate(trajectory.turns):
            if number == len(turns):
                turns.append([])
            turns[number] += turn.completion.logprobs
    told: dict[str, Json] = {"entropy": _surprise([x for turn in turns for x in turn])}
    for number, logprobs in enumerate(turns, 1):
        told[f"turn/{number}/entropy"] = _surprise(logprobs)
    return told


def _surprise(logprobs: Sequence[float]) -> float:
    return -float(np.mean(logprobs)) + 0.0 if logprobs else 0.0
