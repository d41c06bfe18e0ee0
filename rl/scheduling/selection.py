"""Which questions a step asks: in uniform order, or those first that promise answers that differ.

``informative`` looks at ``pool`` times as many questions as it needs, in the uniform order, draws a
chance of success for each from its posterior (Thompson sampling), and asks those whose group then
most probably has spread. The others are passed over until the order comes round to them again, so
none is left out for good and none is asked at every step.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rl.figures.tasks import task_name
from rl.questions.data import QuestionStream, StreamState
from rl.scheduling.difficulty import Posteriors, histogram, spread_probability
from rl.scheduling.schedule import Drawn
from rl.seeds import seed_of
from rl.types import Question, Trajectory
from sft.config import check_choice
from toolshed.errors import ConfigError
from toolshed.types import Json

ORDERS = ("uniform", "informative")
_STREAMS = "streams.json"
_DIFFICULTY = "difficulty.json"


# Not frozen: a frozen dataclass is read-only for the configuration library as well.
@dataclass
class SelectionConfig:
    """Which questions are asked first, and how their difficulty is estimated."""

    order: str = "informative"
    """``informative`` asks first the questions whose answers probably differ; ``uniform`` asks all
    in turn."""
    prior: tuple[float, float] = (0.5, 0.5)
    """Successes and failures that every question begins with."""
    decay: float = 0.99
    """Share of the counts that is left after a step; 1 never forgets."""
    pool: float = 8.0
    """Questions looked at for each that is drawn, the most promising of which are asked;
    ``informative`` alone reads it."""

    def __post_init__(self) -> None:
        check_choice(self, order=ORDERS)
        if len(self.prior) != 2 or not all(0 < value < float("inf") for value in self.prior):
            raise ConfigError(f"prior={list(self.prior)} must be two numbers above 0")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"decay={self.decay} must be above 0 and at most 1")
        if not 1 <= self.pool < float("inf"):
            raise ConfigError(f"pool={self.pool} must be 1 or more")


class PromptSelection:
    """Draws questions, learns from what became of them, and goes on exactly after a resume."""

    def __init__(
        self,
        parts: Sequence[Sequence[Question]],
        weights: Sequence[float],
        *,
        seed: int,
        group_size: int,
        config: SelectionConfig,
    ) -> None:
        self._streams = [
            QuestionStream(questions, seed_of(seed, "data", i)) for i, questions in enumerate(parts)
        ]
        self._sources = [{each.id: each.source for each in questions} for questions in parts]
        self._posteriors = [Posteriors(prior=config.prior, decay=config.decay) for _ in parts]
        self._weights = np.array(weights)
        self._seed = seed
        self._order = config.order
        self._group_size = group_size
        self._pool = config.pool
        self._counts: Counter[str] = Counter()

    def draw(self, step: int, num: int, refill: int = 0) -> list[Drawn]:
        """``num`` questions: a source by its weight each, then a question of it.

        ``refill`` counts the draws of a step after its first, so that each has its own chances.
        """
        parts = ("draw", step, refill) if refill else ("draw", step)
        rng = np.random.default_rng(seed_of(self._seed, *parts))
        weights = self._weights / self._weights.sum()
        sources = rng.choice(len(weights), size=num, p=weights).tolist()
        taken = {
            source: iter(self._take(source, count, step, rng))
            for source, count in sorted(Counter(sources).items())
        }
        self._counts["refilled" if refill else "drawn"] += num
        return [Drawn(question=next(taken[source]), source=source) for source in sources]

    def _take(self, source: int, num: int, step: int, rng: np.random.Generator) -> list[Question]:
        stream = self._streams[source]
        if self._order == "uniform":
            return stream.take(num)
        # Never more than one round of the questions, so that the pool holds each but once, or
        # twice where it straddles two rounds.
        size = max(num, min(math.ceil(self._pool * num), len(self._sources[source])))
        offered = stream.take(size)
        self._counts["skipped"] += len(offered) - num
        unique = list({question.id: question for question in offered}.values())
        if len(unique) < num:
            return offered[:num]
        parameters = self._posteriors[source].beta([question.id for question in unique], step)
        chances = rng.beta(parameters[:, 0], parameters[:, 1])
        promise = spread_probability(chances, self._group_size)
        best = np.argsort(-promise, kind="stable")[:num].tolist()
        return [unique[index] for index in best]

    def observe(
        self, step: int, drawn: Sequence[Drawn], groups: Sequence[Sequence[Trajectory]]
    ) -> None:
        """Learn from the groups of the questions drawn; unscored trajectories do not count."""
        for each, group in zip(drawn, groups, strict=True):
            rewards = [t.reward.value for t in group if t.reward is not None]
            self._posteriors[each.source].observe(each.question.id, rewards, step)

    def figures(self, step: int) -> dict[str, Json]:
        """Since the last time: questions ``drawn``, ``refilled`` in place of groups without spread,
        and ``skipped`` as less promising; and, for each source, the questions asked so far by the
        posterior mean of their reward, in equal bins from 0 to 1."""
        told: dict[str, Json] = {
            name: self._counts[name] for name in ("drawn", "refilled", "skipped")
        }
        self._counts.clear()
        means: dict[str, list[float]] = {}
        for posteriors, sources in zip(self._posteriors, self._sources, strict=True):
            for question, mean in posteriors.means(step).items():
                means.setdefault(task_name(sources[question]), []).append(mean)
        for name in sorted(means):
            told[f"task/{name}/difficulty"] = [*histogram(means[name])]
        return told

    # ---- run folder -----------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write where the order stands and what was seen."""
        states = [asdict(stream.state()) for stream in self._streams]
        (folder / _STREAMS).write_text(json.dumps(states))
        seen = [posteriors.state() for posteriors in self._posteriors]
        (folder / _DIFFICULTY).write_text(json.dumps(seen))

    def load(self, folder: Path) -> None:
        """Go on exactly where ``save`` was called; ConfigError if the questions are others."""
        states = [StreamState(**s) for s in json.loads((folder / _STREAMS).read_text())]
        for stream, state in zip(self._streams, states, strict=True):
            stream.restore(state)
        seen = json.loads((folder / _DIFFICULTY).read_text())
        for posteriors, counts in zip(self._posteriors, seen, strict=True):
            posteriors.restore(counts)
