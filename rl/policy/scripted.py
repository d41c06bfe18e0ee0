"""A policy that a function plays: the teacher, the saboteur, and the fake of every rollout test."""

from __future__ import annotations

from collections.abc import Callable

from rl.policy.base import Prompt
from rl.types import Completion, SamplingParams


class ScriptedPolicy:
    """Says what ``script`` says; has no tokens, so its trajectories are never trained as such."""

    def __init__(self, script: Callable[[Prompt], str]) -> None:
        self.version = 0
        self._script = script

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        return Completion(text=self._script(prompt), version=self.version)

    def release(self, trajectory: str) -> None:
        pass

    async def aclose(self) -> None:
        pass
