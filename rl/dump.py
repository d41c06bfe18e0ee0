"""Trajectories of a run as JSON lines, one each: the episode, its token spans, its log-probs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rl.episode import episode_of
from rl.types import Trajectory
from sft.run_dir import naming, write_atomic


class TrajectoryLog:
    """Append-only; a resumed run forgets the steps that it will play again."""

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every

    def write(self, step: int, groups: Sequence[Sequence[Trajectory]]) -> None:
        if not self.every or step % self.every:
            return
        lines = [json.dumps(record(t, step)) + "\n" for group in groups for t in group]
        with naming(self.path), self.path.open("a") as file:
            file.write("".join(lines))

    def rewind(self, step: int) -> None:
        """Drop lines of later steps, and a line torn by a kill."""
        if not self.path.exists():
            return
        lines = self.path.read_text().split("\n")[:-1]
        kept = [line + "\n" for line in lines if json.loads(line)["step"] <= step]
        write_atomic(self.path, "".join(kept))


def record(trajectory: Trajectory, step: int) -> dict[str, object]:
    return {
        "step": step,
        "sample_index": trajectory.sample_index,
        **asdict(episode_of(trajectory)),
        "token_ids": list(trajectory.token_ids),
        "spans": [[span.start, span.end, span.kind] for span in trajectory.spans],
        "logprobs": [round(value, 6) for value in trajectory.logprobs],
    }
