"""Pointing by RoboRefer, in the Python 3.10 of its own stack: the far side of the bridge.

Answers are greedy. The picture goes through JPEG of quality 95, as in the release.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image

from toolshed.backends.asked_pointing import Asked, AskedPointing
from toolshed.backends.checkpoints import REVISIONS, found, memory_errors, needed
from toolshed.backends.pointing_texts import tuple_points
from toolshed.errors import ConfigError
from toolshed.types import Point, ToolImage

FORM = (
    " Answer with a list of tuples [(x, y), ...], one per point. Each x and y lies between 0 and 1:"
    " the point's place, as a share of the image's width and height."
)
"""How the answer is to look; a config may bring the wording that a checkpoint was trained with."""
ASK_ONE = "Point to the {obj_name}."
ASK_ALL = "Point to all {obj_name}s."
_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
"""Words of the release beside those of this library."""


class RoboRefer(AskedPointing):
    """RoboRefer through its package ``llava``; one picture at a time."""

    environment: ClassVar[str] = "roborefer"

    def __init__(
        self,
        *,
        model_path: str = "Zhoues/RoboRefer-8B-SFT",
        revision: str | None = None,
        dtype: str = "float16",
        max_new_tokens: int = 256,
        announce: bool = False,
        ask_one: str = ASK_ONE,
        ask_all: str = ASK_ALL,
        form: str = FORM,
    ) -> None:
        """``model_path`` is a folder or a repository of the hub; ``dtype`` may also be one of the
        release's words fp16, bf16, fp32. ``announce`` keeps the points as a variable."""
        super().__init__(announce=announce, ask_one=ask_one, ask_all=ask_all)
        word = _DTYPES.get(dtype, dtype)
        if word not in _DTYPES.values():
            raise ConfigError(f"dtype = {dtype!r}; write one of {', '.join(_DTYPES.values())}")
        torch = needed("torch", self.environment)
        llava = needed("llava", self.environment)
        folder = _folder(model_path, revision)
        with found(folder, self.environment):
            self._model = llava.load(folder, torch_dtype=getattr(torch, word))
        self._generation = self._model.default_generation_config
        self._generation.update(
            do_sample=False, temperature=None, top_p=None, max_new_tokens=max_new_tokens
        )
        self._form = form

    def written(self, asked: Sequence[Asked]) -> list[str]:
        return [self._write(each) for each in asked]

    def read(self, text: str) -> tuple[Point, ...]:
        return tuple_points(text)

    def _write(self, asked: Asked) -> str:
        import torch

        with torch.inference_mode(), memory_errors():
            text: str = self._model.generate_content(
                [_jpeg(asked.image), asked.text + self._form], generation_config=self._generation
            )
        return text


def _folder(model_path: str, revision: str | None) -> str:
    """The checkpoint's folder; a repository of the hub is downloaded first."""
    if Path(model_path).is_dir():
        return model_path
    if model_path.count("/") != 1 or model_path.startswith((".", "/")):
        raise ConfigError(f"model_path = {model_path!r} is no folder; give that of a checkpoint")
    hub = needed("huggingface_hub", RoboRefer.environment)
    with found(model_path, RoboRefer.environment):
        commit = revision or REVISIONS.get(model_path)
        return str(hub.snapshot_download(model_path, revision=commit))


def _jpeg(image: ToolImage) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(image.pixels).save(file, "JPEG", quality=95)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")
