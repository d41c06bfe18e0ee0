"""What the trajectories of a run are doing at the moment, for those who look."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from rl.types import Trajectory

SAMPLING = "sampling"
_KEPT = 256
"""Trajectories of which figures of tools are told between two steps."""


class Flight:
    """Told by rollouts as they go; read from another thread. It changes nothing for them."""

    def __init__(self) -> None:
        self._doing: dict[str, str] = {}
        self._ended: deque[Trajectory] = deque(maxlen=_KEPT)

    def samples(self, trajectory: str) -> None:
        """The policy is asked for its next turn."""
        self._doing[trajectory] = SAMPLING

    def calls(self, trajectory: str, tools: Sequence[str]) -> None:
        """It waits for these tools; one of them is told."""
        if tools:
            self._doing[trajectory] = tools[0]

    def leaves(self, trajectory: str) -> None:
        """It is over, or was given up."""
        self._doing.pop(trajectory, None)

    def ends(self, trajectory: Trajectory) -> None:
        """It came to its end, scored; of it only what words and times need is kept."""
        turns = [
            replace(turn, results=tuple(replace(r, held=None, images=()) for r in turn.results))
            for turn in trajectory.turns
        ]
        kept = replace(trajectory, turns=tuple(turns), images=(), messages=(), token_ids=())
        self._ended.append(replace(kept, spans=(), logprobs=()))

    @property
    def states(self) -> dict[str, int]:
        """Trajectories that sample, and those that wait for each tool, the most first."""
        found = Counter(list(self._doing.values()))
        first = {SAMPLING: found.pop(SAMPLING, 0)}
        return first | dict(found.most_common())

    @property
    def ended(self) -> list[Trajectory]:
        """The last that ended, the newest last."""
        return list(self._ended)
