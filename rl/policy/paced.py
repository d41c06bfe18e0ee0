"""Policies that a function plays at a given speed: the engines of simulations and of ``mock``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rl.policy.base import Prompt, Weights
from rl.types import Completion, SamplingParams
from sft.render import Renderer


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One turn: its text, and how many tokens it counts as."""

    text: str
    num_tokens: float


class PacedPolicy:
    """Says what ``script`` says, each trajectory at its own ``token_s`` seconds a token whatever
    the load. Time is the event loop's; it has no tokens, so nothing of it can be trained."""

    def __init__(self, script: Callable[[Prompt], Said], *, token_s: float) -> None:
        self.version = 0
        self.script, self.token_s = script, token_s
        self.busy_s = 0.0
        """Seconds of decoding, of all trajectories together."""

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        said, version = self.script(prompt), self.version
        seconds = said.num_tokens * self.token_s
        self.busy_s += seconds
        await asyncio.sleep(seconds)
        return Completion(text=said.text, version=version)

    def release(self, trajectory: str) -> None:
        pass

    async def aclose(self) -> None:
        pass


class PacedWriter:
    """As ``PacedPolicy``, with tokens that a learner can train on: those of the script's text, said
    with certainty (log-prob 0), cut where the budget ends."""

    def __init__(
        self, script: Callable[[Prompt], str], renderer: Renderer, *, token_s: float
    ) -> None:
        self.version = 0
        self._script, self._renderer, self._token_s = script, renderer, token_s

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        whole = (*self._renderer.encode(self._script(prompt)), self._renderer.end_of_turn)
        ids, version = whole[: sampling.max_tokens], self.version
        await asyncio.sleep(len(ids) * self._token_s)
        return Completion(
            text=self._renderer.decode(ids),
            token_ids=ids,
            logprobs=(0.0,) * len(ids),
            finish="stop" if len(ids) == len(whole) else "length",
            version=version,
        )

    async def start(self) -> None:
        pass

    async def update_weights(self, weights: Weights, version: int) -> None:
        """Nothing of a script depends on weights; it counts them."""
        self.version = version

    async def lend_memory(self) -> None:
        pass

    @property
    def kv_tokens(self) -> int:
        return 0

    @property
    def dtype(self) -> str:
        return ""

    def figures(self) -> dict[str, float]:
        return {}

    def release(self, trajectory: str) -> None:
        pass

    async def aclose(self) -> None:
        pass
