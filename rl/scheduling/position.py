"""Where a schedule stands, in a checkpoint: what was drawn and not trained is played again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

_FILE = "schedule.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenOrder:
    """One group that is to be played again from its beginning."""

    number: int
    source: int
    """Part of the prompts."""
    question: str
    """Its id within that part."""
    step: int
    place: int
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Between two steps of the learner."""

    next_number: int
    next_step: int
    """Step of the next draw; the learner's own without staleness."""
    open: list[OpenOrder]

    def save(self, folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Position | None:
        """None where the checkpoint holds none: it was written without staleness."""
        if not (folder / _FILE).exists():
            return None
        told = json.loads((folder / _FILE).read_text())
        return cls(**{**told, "open": [OpenOrder(**each) for each in told["open"]]})
