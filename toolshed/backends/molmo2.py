"""Pointing by Molmo 2, which is part of transformers: no foreign code, several pictures at a time.

Answers are greedy, so equal calls have equal answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from PIL import Image

from toolshed.backends.asked_pointing import Asked, AskedPointing
from toolshed.backends.checkpoints import (
    Placement,
    memory_errors,
    needed,
    pretrained,
    processor_of,
    transformers_class,
)
from toolshed.backends.pointing_texts import thousandth_points
from toolshed.types import Point


class Molmo2(AskedPointing):
    """Molmo 2; prompts of different lengths are padded on the left."""

    environment: ClassVar[str] = "vlm"

    def __init__(
        self,
        *,
        model_id: str = "allenai/Molmo2-8B",
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "bfloat16",
        max_new_tokens: int = 1024,
        announce: bool = True,
        ask_one: str = "Point to the {obj_name}.",
        ask_all: str = "Point to all {obj_name}s.",
    ) -> None:
        super().__init__(announce=announce, ask_one=ask_one, ask_all=ask_all)
        needed("torchvision", self.environment)
        self._placement = Placement.of(device, dtype, self.environment)
        processor_class = transformers_class("Molmo2Processor", self.environment)
        self._processor = processor_of(
            processor_class, model_id, self._placement, revision=revision
        )
        self._processor.tokenizer.padding_side = "left"
        model_class = transformers_class("Molmo2ForConditionalGeneration", self.environment)
        self._model = pretrained(model_class, model_id, self._placement, revision=revision)
        self._max_new_tokens = max_new_tokens

    def batch_key(self, method: str, arguments: Mapping[str, object]) -> object:
        """Any pictures and any names go together."""
        return "all"

    def written(self, asked: Sequence[Asked]) -> list[str]:
        import torch

        conversations = [[{"role": "user", "content": _content(each)}] for each in asked]
        inputs = self._processor.apply_chat_template(
            conversations,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        with torch.inference_mode(), memory_errors():
            placed = inputs.to(self._placement.device, self._model.dtype)
            output = self._model.generate(
                **placed, do_sample=False, max_new_tokens=self._max_new_tokens
            )
        new = output[:, inputs["input_ids"].size(1) :]
        texts: list[str] = self._processor.batch_decode(new, skip_special_tokens=True)
        return texts

    def read(self, text: str) -> tuple[Point, ...]:
        return thousandth_points(text)


def _content(asked: Asked) -> list[dict[str, object]]:
    picture = Image.fromarray(asked.image.pixels)
    return [{"type": "image", "image": picture}, {"type": "text", "text": asked.text}]
