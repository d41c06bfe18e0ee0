"""What stored trajectories trained: their advantages, and their tokens with who said them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from rl.algorithms.samples import to_samples
from rl.config import RLConfig
from rl.dump import unseen_trajectory
from rl.seeds import seed_of
from rl.types import Trajectory
from sft.checkpoint import resolve_checkpoint
from sft.render import Renderer
from sft.sample import TrainingSample
from toolshed.errors import ConfigError
from toolshed.types import Json

_LONGEST = 1_200
"""Characters of one stretch."""


class TrainedTokens:
    """Computes it as the run did, without pictures and without weights."""

    def __init__(self, run: Path, config: RLConfig) -> None:
        self._config = config
        self._renderer = _renderer(run, config)

    def step(self, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Json]]:
        """For each line of one step ``trained``, ``advantage``, ``versions`` [oldest, newest] and
        ``stretches`` [kind, tokens, advantage or null, text]; text is empty where the checkpoint
        whose tokenizer it needs is gone."""
        groups = [list(siblings) for _, siblings in groupby(lines, key=lambda line: line["group"])]
        played = [[unseen_trajectory(line) for line in siblings] for siblings in groups]
        queries = {
            id(t.token_ids): tuple(line["query_rewards"])
            for siblings, plays in zip(groups, played, strict=True)
            for line, t in zip(siblings, plays, strict=True)
        }
        made = to_samples(
            played,
            self._config.chosen_algorithm,
            max_tokens=self._config.rollout.max_tokens,
            shuffle=self._shuffle(int(lines[0]["step"])),
            queries=lambda t: queries[id(t.token_ids)],
        )
        samples = {id(sample.token_ids): sample for sample in made.samples}
        flat = [t for plays in played for t in plays]
        return [
            self._told(line, t, samples.get(id(t.token_ids)))
            for line, t in zip(lines, flat, strict=True)
        ]

    def _shuffle(self, step: int) -> np.random.Generator | None:
        if not self._config.shuffle_rewards:
            return None
        return np.random.default_rng(seed_of(self._config.seed, "shuffle", step - 1))

    def _told(
        self, line: Mapping[str, Any], trajectory: Trajectory, sample: TrainingSample | None
    ) -> dict[str, Json]:
        versions = [version for _, version in line["versions"]]
        advantages = _advantages(trajectory, sample)
        return {
            "trained": "no" if sample is None else _sign(sample.advantage),
            "advantage": None if sample is None else round(sample.advantage, 4),
            "versions": [min(versions), max(versions)] if versions else [],
            "stretches": [
                [span.kind, span.end - span.start, advantage, self._text(trajectory, span)]
                for span, advantage in zip(trajectory.spans, advantages, strict=True)
                if span.kind != "prompt"
            ],
        }

    def _text(self, trajectory: Trajectory, span: Any) -> str:
        if self._renderer is None:
            return ""
        text = self._renderer.decode(trajectory.token_ids[span.start : span.end])
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def _advantages(trajectory: Trajectory, sample: TrainingSample | None) -> list[float | None]:
    """Of each span; None where it is not trained."""
    if sample is None:
        return [None] * len(trajectory.spans)
    own = iter(sample.span_advantages)
    return [
        round(next(own, sample.advantage), 4) if span.kind == "sampled" else None
        for span in trajectory.spans
    ]


def _sign(advantage: float) -> str:
    if not advantage:
        return "neither"
    return "towards" if advantage > 0 else "away"


def _renderer(run: Path, config: RLConfig) -> Renderer | None:
    """The run's own tokenizer, or that of the checkpoint that it began with."""
    for place in (run / "final", config.model):
        try:
            return Renderer.load(resolve_checkpoint(place))
        except ConfigError:
            continue
    return None
