"""A policy that says given words through the real decoder: true costs, caches and log-probs.

A random checkpoint calls no tool of its own accord; forced words make its episodes worth measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rl.policy.base import Prompt
from rl.policy.transformers import TransformersPolicy, _Row
from rl.types import Completion, SamplingParams
from sft.render import Renderer


class Puppet(TransformersPolicy):
    """Samples exactly the tokens of ``script(prompt)`` and the end of the turn."""

    def __init__(
        self,
        model: Any,
        renderer: Renderer,
        script: Callable[[Prompt], str],
        *,
        num_slots: int = 16,
        max_length: int = 512,
    ) -> None:
        super().__init__(model, renderer, num_slots=num_slots, max_length=max_length)
        self._script = script
        self._words: dict[str, tuple[int, ...]] = {}

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        words = self.renderer.encode(self._script(prompt))
        self._words[prompt.trajectory] = (*words, self.renderer.end_of_turn)
        return await super().generate(prompt, sampling)

    def _sample(self, rows: Sequence[_Row], logits: Tensor) -> None:
        logits = logits.float().clone()
        logits[:, list(self.renderer.banned_tokens)] = float("-inf")
        logprobs = torch.log_softmax(logits, dim=-1)
        for row, values in zip(rows, logprobs, strict=True):
            token = self._words[row.trajectory][len(row.sampled)]
            row.sampled.append(token)
            row.logprobs.append(float(values[token]))
            row.pending = [token]
