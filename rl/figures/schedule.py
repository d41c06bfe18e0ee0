"""What a step's rollouts cost and how old they were, as the metrics of a run name it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rl.types import Trajectory
from toolshed.types import Json


@dataclass(kw_only=True, slots=True)
class StepFigures:
    """Collected while a step's groups are taken; ``read`` empties it."""

    num_carried: int = 0
    """Groups complete when the step had all of its own: the next step's."""
    num_running: int = 0
    """Groups under way at that time."""
    num_dropped: int = 0
    """Groups older than allowed, asked again."""
    num_retried: int = 0
    """Trajectories played again because our machinery broke."""
    learner_wait_s: float = 0.0
    ready_s: list[float] = field(default_factory=list)
    """Of each group, from its end until it was taken."""
    played_s: list[float] = field(default_factory=list)
    """Of each group, from its beginning to its end."""
    _queue_s: list[float] = field(default_factory=list)
    _staleness: Counter[int] = field(default_factory=Counter)

    def add(self, group: Sequence[Trajectory], version: int, num_retried: int) -> None:
        """A group was taken by a learner at ``version``."""
        self.num_retried += num_retried
        for trajectory in group:
            versions = [turn.completion.version for turn in trajectory.turns]
            self._staleness[version - min(versions, default=version)] += 1
            for result in trajectory.results:
                self._queue_s.append(result.timings.queue_s)

    def read(self) -> dict[str, Json]:
        """``staleness`` is the learner's version less that of a trajectory's oldest token:
        ``staleness_counts`` are the trajectories of staleness 0, 1, and so on. Times in seconds."""
        num = self._staleness.total()
        highest = max(self._staleness, default=0)
        total = sum(age * count for age, count in self._staleness.items())
        figures: dict[str, Json] = {
            "staleness": total / num if num else 0.0,
            "staleness_max": highest,
            "staleness_counts": [self._staleness[age] for age in range(highest + 1)],
            "carried": self.num_carried,
            "in_flight": self.num_running,
            "dropped": self.num_dropped,
            "retried": self.num_retried,
            "learner_wait_s": self.learner_wait_s,
            "group_played_s": _mean(self.played_s),
            "group_ready_s": _mean(self.ready_s),
            "tool_queue_s": _mean(self._queue_s),
        }
        self.clear()
        return figures

    def clear(self) -> None:
        empty = StepFigures()
        for name in self.__slots__:
            setattr(self, name, getattr(empty, name))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
