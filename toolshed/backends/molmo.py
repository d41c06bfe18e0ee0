"""Pointing by Molmo, as the release did it: the model's own code, run because the config says so.

Answers are greedy, so equal calls have equal answers, and the model loads in the dtype asked for.
Its code was written for transformers 4 and was never run by us.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image

from toolshed.backends.asked_pointing import Asked, AskedPointing
from toolshed.backends.checkpoints import (
    Placement,
    memory_errors,
    needed,
    pretrained,
    processor_of,
)
from toolshed.backends.pointing_texts import percent_points
from toolshed.errors import ConfigError
from toolshed.types import Point

END = "<|endoftext|>"


class Molmo(AskedPointing):
    """Molmo, first generation; one picture at a time, because its code has no padding."""

    environment: ClassVar[str] = "vlm"

    def __init__(
        self,
        *,
        trust_remote_code: bool = False,
        model_id: str = "allenai/Molmo-7B-D-0924",
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "bfloat16",
        max_new_tokens: int = 1024,
        announce: bool = True,
        ask_one: str = "Point to the {obj_name}.",
        ask_all: str = "Point to all {obj_name}s.",
    ) -> None:
        super().__init__(announce=announce, ask_one=ask_one, ask_all=ask_all)
        if not trust_remote_code:
            raise ConfigError(
                f"{model_id} runs code of its own repository; write 'arguments: "
                "{trust_remote_code: true}' if you trust it, or 'backend: molmo2', which needs none"
            )
        transformers = needed("transformers", self.environment)
        self._placement = Placement.of(device, dtype, self.environment)
        self._processor = processor_of(
            transformers.AutoProcessor,
            model_id,
            self._placement,
            revision=revision,
            trust_remote_code=True,
        )
        self._model = pretrained(
            transformers.AutoModelForCausalLM,
            model_id,
            self._placement,
            revision=revision,
            trust_remote_code=True,
        )
        self._generation = transformers.GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, stop_strings=END
        )

    def written(self, asked: Sequence[Asked]) -> list[str]:
        return [self._write(each) for each in asked]

    def read(self, text: str) -> tuple[Point, ...]:
        return percent_points(text)

    def _write(self, asked: Asked) -> str:
        import torch

        inputs = self._processor.process(
            images=[Image.fromarray(asked.image.pixels)], text=asked.text
        )
        with torch.inference_mode(), memory_errors():
            batch = {key: self._placed(value) for key, value in inputs.items()}
            output = self._model.generate_from_batch(
                batch, self._generation, tokenizer=self._processor.tokenizer
            )
        new = output[0, batch["input_ids"].size(1) :]
        text: str = self._processor.tokenizer.decode(new, skip_special_tokens=True)
        return text

    def _placed(self, value: Any) -> Any:
        """Where the model is, with a batch axis, pictures in the model's numbers."""
        placed = value.to(self._placement.device).unsqueeze(0)
        return placed.to(self._model.dtype) if placed.is_floating_point() else placed
