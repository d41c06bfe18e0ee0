"""What became of the rows: who was dropped at which step and why, and what could not be checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from sft.curation.traces import Trace
from toolshed.types import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """One row that is not in the set."""

    step: str
    reason: str
    """A word, for counts."""
    told: str
    """For people."""
    place: str
    task_id: str
    source: str
    task: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """How many rows came to a step and left it."""

    step: str
    before: int
    after: int


@dataclass(kw_only=True, slots=True)
class Ledger:
    """Grows step by step."""

    drops: list[Drop] = field(default_factory=list)
    unchecked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Rows that a rule could not be held against, by the rule and why."""
    passages: list[Passage] = field(default_factory=list)

    def drop(self, trace: Trace, step: str, reason: str, told: str) -> None:
        self.drops.append(
            Drop(
                step=step,
                reason=reason,
                told=told,
                place=trace.place,
                task_id=trace.task_id,
                source=trace.source,
                task=trace.task,
            )
        )

    def passed(self, step: str, before: Sequence[Trace], after: Sequence[Trace]) -> None:
        self.passages.append(Passage(step=step, before=len(before), after=len(after)))

    def reasons(self) -> dict[tuple[str, str], int]:
        """Dropped rows by step and reason, in the order of steps, the commonest first."""
        counts = Counter((drop.step, drop.reason) for drop in self.drops)
        order = list(dict.fromkeys(drop.step for drop in self.drops))
        return dict(sorted(counts.items(), key=lambda each: (order.index(each[0][0]), -each[1])))

    def lines(self) -> list[dict[str, Json]]:
        return [asdict(drop) for drop in self.drops]
