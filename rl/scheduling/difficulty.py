"""How hard each question is for the policy, estimated from its own rollouts: a Beta posterior each.

A reward r in [0, 1] counts as r of a success and 1 - r of a failure. Counts fade by ``decay`` with
every step since they were made, for the policy moves on: a question that was solved long ago is
uncertain again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
NUM_BINS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What was seen of one question."""

    successes: float
    failures: float
    step: int
    """When they were last added to."""


class Posteriors:
    """Of the questions of one source, by their ids."""

    def __init__(self, *, prior: tuple[float, float], decay: float) -> None:
        """``prior``: successes and failures that every question begins with."""
        self._prior, self._decay = prior, decay
        self._counts: dict[str, Counts] = {}

    def observe(self, question_id: str, rewards: Sequence[float], step: int) -> None:
        """Add the rewards, each in [0, 1], that a question's rollouts got in ``step``."""
        if not rewards:
            return
        successes, failures = self._faded(question_id, step)
        self._counts[question_id] = Counts(
            successes=successes + sum(rewards),
            failures=failures + len(rewards) - sum(rewards),
            step=step,
        )

    def beta(self, question_ids: Sequence[str], step: int) -> Values:
        """Parameters (alpha, beta) of the posteriors as of ``step``; shape (questions, 2)."""
        faded = [self._faded(each, step) for each in question_ids]
        parameters: Values = np.array(faded, np.float64).reshape(-1, 2)
        return parameters + np.array(self._prior, np.float64)

    def means(self, step: int) -> dict[str, float]:
        """Posterior mean, as of ``step``, of every question that was asked."""
        parameters = self.beta(list(self._counts), step)
        means = parameters[:, 0] / parameters.sum(axis=1)
        return dict(zip(self._counts, means.tolist(), strict=True))

    def _faded(self, question_id: str, step: int) -> tuple[float, float]:
        seen = self._counts.get(question_id)
        if seen is None:
            return 0.0, 0.0
        left = self._decay ** (step - seen.step)
        return left * seen.successes, left * seen.failures

    def state(self) -> dict[str, list[float]]:
        """Everything that was seen; floats survive JSON exactly."""
        return {
            name: [seen.successes, seen.failures, seen.step] for name, seen in self._counts.items()
        }

    def restore(self, state: Mapping[str, Iterable[float]]) -> None:
        """Go on exactly where ``state`` was taken."""
        self._counts = {}
        for name, (successes, failures, step) in state.items():
            self._counts[name] = Counts(successes=successes, failures=failures, step=int(step))


def histogram(means: Sequence[float]) -> list[int]:
    """How many fall into each of ``NUM_BINS`` equal bins from 0 to 1."""
    counts: list[int] = np.histogram(means, bins=NUM_BINS, range=(0.0, 1.0))[0].tolist()
    return counts


def spread_probability(success_N: Values, group_size: int) -> Values:
    """1 - p^G - (1 - p)^G: that G answers, each right with probability p, are not all alike."""
    spread: Values = 1.0 - success_N**group_size - (1.0 - success_N) ** group_size
    return spread
