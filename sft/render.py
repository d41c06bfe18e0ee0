"""Messages and pictures <-> token ids: the one renderer of SFT, rollout and evaluation.

Ids are append-only: every segment (a prompt, one assistant text, one tool reply) is encoded on its
own, so a conversation rendered for SFT equals the one that a rollout builds turn by turn. Ids are
compact, one placeholder per image; ``expand`` derives the model's form by one rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sft.sample import Span, SpanKind, check_spans
from toolshed.byte_lru import ByteLRU
from toolshed.errors import ConfigError
from toolshed.types import Message, ToolImage

IMAGE_MARK = "<image>"
PATCH_BYTES = 2 << 30
"""Of patches that are kept: 340 pictures of 262,144 pixels, all of the demo's."""
_IMAGE_TEXT = "<|vision_start|><|image_pad|><|vision_end|>"
_BANNED = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionInput:
    """What the vision tower reads of one picture."""

    patches: npt.NDArray[np.float32]
    """Shape (t*h*w, channels * temporal_patch * patch * patch)."""
    grid: tuple[int, int, int]
    """Patches along time, height and width."""
    num_tokens: int
    """Placeholders after expansion: t*h*w / merge^2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expanded:
    """A sequence as the model reads it."""

    token_ids: npt.NDArray[np.int64]
    """Shape (T,), every placeholder repeated."""
    positions: npt.NDArray[np.int64]
    """Shape (3, T): temporal, height and width positions over the whole sequence."""
    origin: npt.NDArray[np.int64]
    """Shape (T,): index of the compact token that each position came from."""


class Rendering:
    """Compact ids under construction, with the owner of every token."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.spans: list[Span] = []

    def append(self, token_ids: Sequence[int], kind: SpanKind) -> None:
        start = len(self.token_ids)
        self.token_ids.extend(token_ids)
        if self.spans and self.spans[-1].kind == kind:
            start = self.spans.pop().start
        self.spans.append(Span(start=start, end=len(self.token_ids), kind=kind))
        check_spans(self.spans, len(self.token_ids))


class Renderer:
    """Tokenizer, picture processor and chat form of one checkpoint (ChatML of the Qwen family)."""

    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.end_of_turn = self._token("<|im_end|>")
        self.image_token = self._token("<|image_pad|>")
        self.banned_tokens = tuple(self._token(text) for text in _BANNED)
        """Ids that no policy may sample: they would break positions and features."""
        self._encode = lru_cache(maxsize=65536)(self._encode_uncached)
        self._visions: ByteLRU[VisionInput] = ByteLRU(PATCH_BYTES)
        self._cutting = Lock()
        """A learner in a thread of its own reads the pictures that rollouts read."""

    @classmethod
    def load(cls, folder: str | Path, *, max_pixels: int = 0) -> Renderer:
        """Load from a folder, a published Qwen2.5-VL one or ours, without torchvision.

        ``max_pixels`` lowers the checkpoint's largest picture; 0 and what is above it do not.
        """
        from transformers import AutoImageProcessor, AutoTokenizer

        if not (Path(folder) / "tokenizer.json").exists():
            raise ConfigError(
                f"{folder} holds no tokenizer.json; give a Hugging Face checkpoint folder"
            )
        processor = AutoImageProcessor.from_pretrained(folder)
        if max_pixels:
            processor = _capped(processor, folder, max_pixels)
        return cls(AutoTokenizer.from_pretrained(folder), processor)

    # ---- text -----------------------------------------------------------------------------------

    def encode(self, text: str) -> tuple[int, ...]:
        return self._encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of sampled ids, the end-of-turn token left out."""
        ids = [token for token in token_ids if token != self.end_of_turn]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of the opening messages, ready for an assistant turn."""
        text = "".join(self._turn(message) for message in messages)
        return self.encode(text + "<|im_start|>assistant\n")

    def reply(self, message: Message) -> tuple[int, ...]:
        """Ids that follow an end-of-turn token: the newline, one user turn, the next header."""
        return self.encode("\n" + self._turn(message) + "<|im_start|>assistant\n")

    def closing(self, finish: Literal["stop", "length", "refusal"]) -> tuple[int, ...]:
        """Template ids that close an assistant turn that was cut off."""
        return () if finish == "stop" else (self.end_of_turn,)

    def render(self, messages: Sequence[Message]) -> Rendering:
        """A conversation as a rollout would have built it; assistant turns are ``sampled``."""
        rendering = Rendering()
        first = next(i for i, message in enumerate(messages) if message.role == "assistant")
        rendering.append(self.prompt(messages[:first]), "prompt")
        for message in messages[first:]:
            if message.role == "assistant":
                rendering.append((*self.encode(message.text), self.end_of_turn), "sampled")
            else:
                rendering.append(self.reply(message), "reply")
        return rendering

    def _turn(self, message: Message) -> str:
        text = message.text
        if message.num_images:
            if text.count(IMAGE_MARK) != message.num_images:
                raise ConfigError(
                    f"a {message.role} message announces {message.num_images} images but holds "
                    f"{text.count(IMAGE_MARK)} {IMAGE_MARK} marks: {text[:80]!r}"
                )
            text = text.replace(IMAGE_MARK, _IMAGE_TEXT)
        return f"<|im_start|>{message.role}\n{text}<|im_end|>\n"

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _token(self, text: str) -> int:
        token = self.tokenizer.convert_tokens_to_ids(text)
        if token is None or token == self.tokenizer.unk_token_id:
            raise ConfigError(
                f"the tokenizer has no {text} token; a Qwen2.5-VL tokenizer is needed"
            )
        return int(token)

    # ---- pictures -------------------------------------------------------------------------------

    def vision(self, image: ToolImage) -> VisionInput:
        """Patches of a picture in the policy's resolution; those used last are kept."""
        with self._cutting:
            return self._vision(image)

    def _vision(self, image: ToolImage) -> VisionInput:
        found = self._visions.get(image.sha256)
        if found is None:
            found = self._vision_uncached(image)
            self._visions.put(image.sha256, found, found.patches.nbytes)
        return found

    def _vision_uncached(self, image: ToolImage) -> VisionInput:
        out = self.image_processor(images=[image.pixels], return_tensors="np")
        t, h, w = (int(n) for n in out["image_grid_thw"][0])
        merge = int(self.image_processor.merge_size)
        patches = np.asarray(out["pixel_values"], dtype=np.float32)
        return VisionInput(patches=patches, grid=(t, h, w), num_tokens=t * h * w // merge**2)

    def expand(self, token_ids: Sequence[int], images: Sequence[ToolImage]) -> Expanded:
        """Repeat each placeholder to its picture's size and lay out the three position rows.

        Text advances all rows by one; a picture spans (t, h/merge, w/merge) and the next text
        token follows its largest position (Qwen2-VL, arXiv 2409.12191, section 2.1).
        """
        compact = np.asarray(token_ids, dtype=np.int64)
        places = np.flatnonzero(compact == self.image_token)
        assert len(places) == len(images), (len(places), len(images))
        merge = int(self.image_processor.merge_size)
        origin: list[npt.NDArray[np.int64]] = []
        positions: list[npt.NDArray[np.int64]] = []
        begin, position = 0, 0
        for place, image in zip(places, images, strict=True):
            origin.append(np.arange(begin, place))
            positions.append(np.tile(np.arange(position, position + place - begin), (3, 1)))
            position += int(place - begin)
            t, h, w = self.vision(image).grid
            grid = np.indices((t, h // merge, w // merge)).reshape(3, -1)
            origin.append(np.full(grid.shape[1], place))
            positions.append(grid + position)
            position += max(t, h // merge, w // merge)
            begin = int(place) + 1
        origin.append(np.arange(begin, len(compact)))
        positions.append(np.tile(np.arange(position, position + len(compact) - begin), (3, 1)))
        flat = np.concatenate(origin)
        return Expanded(
            token_ids=compact[flat],
            positions=np.concatenate(positions, axis=1),
            origin=flat,
        )


def _capped(processor: Any, folder: str | Path, max_pixels: int) -> Any:
    """The picture processor of a folder with a largest picture of its own."""
    from transformers import AutoImageProcessor

    least, most = int(processor.size["shortest_edge"]), int(processor.size["longest_edge"])
    if max_pixels < least:
        raise ConfigError(
            f"max_pixels={max_pixels} is below the {least} pixels of the smallest picture that the "
            f"processor of {folder} makes; give {least} or more"
        )
    # The names say edges and mean pixels.
    size = {"shortest_edge": least, "longest_edge": min(most, max_pixels)}
    return AutoImageProcessor.from_pretrained(folder, size=size)
