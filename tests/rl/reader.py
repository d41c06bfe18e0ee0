"""A policy with tokens and no model, and questions with a picture for it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from rl.policy.base import Prompt
from rl.types import Completion, Question, SamplingParams
from sft.render import Renderer
from toolshed.images import ImageSource
from toolshed.types import Message


def question(seed: int = 0) -> Question:
    pixels = np.random.default_rng(seed).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    image = "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
    return Question(
        id=f"q{seed}",
        source="tabletop-choice",
        kind="choice",
        messages=(
            Message(role="system", text="Answer the question about the picture."),
            Message(role="user", text="<image>Where is the red cube?", num_images=1),
        ),
        images=(ImageSource(image=image),),
        target="red cube",
    )


def says(*turns: str) -> Callable[[Prompt], str]:
    return lambda prompt: turns[min(prompt.turn, len(turns) - 1)]


class Reader:
    """A policy without a model: the tokens of a script's text, cut where the budget ends."""

    def __init__(self, renderer: Renderer, script: Callable[[Prompt], str]) -> None:
        self.version = 0
        self.renderer, self.script = renderer, script
        self.asked: list[SamplingParams] = []

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        self.asked.append(sampling)
        words = (*self.renderer.encode(self.script(prompt)), self.renderer.end_of_turn)
        ids = words[: sampling.max_tokens]
        return Completion(
            text=self.renderer.decode(ids),
            token_ids=ids,
            logprobs=tuple(-0.5 - 0.01 * i for i in range(len(ids))),
            finish="stop" if len(ids) == len(words) else "length",
        )

    def release(self, trajectory: str) -> None:
        pass

    async def aclose(self) -> None:
        pass
