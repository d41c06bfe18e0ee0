"""Transcripts -> training samples, and the seeded order in which a mixture of them is drawn.

A transcript file is a JSON list in the ShareGPT form of the released set: turns as
``{from, value}`` or ``{role, content}``, tool replies as user turns, ``system`` without tools,
images by path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from sft.config import check_positive
from sft.render import IMAGE_MARK, Renderer
from sft.sample import TrainingSample
from toolshed.chat import system_prompt
from toolshed.errors import ConfigError
from toolshed.images import ImageSource, check_image, load_image
from toolshed.types import Json, Message, Role, ToolImage, ToolSpec

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "observation": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}

_SPECIAL = re.compile(r"<\|[a-z_]+\|>")


@dataclass
class SourceConfig:
    """One part of a mixture."""

    path: str = ""
    weight: float = 1.0
    """Share of the steps that draw from this source."""
    batch_size: int = 8
    """Transcripts of one step."""
    name: str = ""
    """Shown in metrics; the file's stem if empty."""

    def __post_init__(self) -> None:
        check_positive(self, "weight", "batch_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """One conversation to imitate; ``messages`` begin with a system turn without tools."""

    id: str
    source: str
    messages: tuple[Message, ...]
    images: tuple[ImageSource, ...]


def load_transcripts(path: str | Path) -> list[Transcript]:
    """Read a transcript file; raises ConfigError naming the first bad row and what is wrong."""
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"transcripts {path} do not exist; make them with rl.collect") from error
    except IsADirectoryError as error:
        raise ConfigError(f"transcripts {path} are a folder; name a JSON file in it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"transcripts {path} are no JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"transcripts {path} must be a JSON list with at least one conversation")
    return [_transcript(row, index, path) for index, row in enumerate(rows)]


def _transcript(row: Json, index: int, path: Path) -> Transcript:
    def wrong(what: str) -> ConfigError:
        return ConfigError(f"row {index} of {path}: {what}")

    if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
        raise wrong("no list of conversations")
    turns = [_turn(turn, wrong) for turn in cast("list[Json]", row["conversations"])]
    if turns and turns[0].role != "system":
        turns.insert(0, Message(role="system", text=str(row.get("system", ""))))
    if not any(turn.role == "assistant" for turn in turns):
        raise wrong("no assistant turn to learn from")
    wanted: Role = "user"
    for place, turn in enumerate(turns[1:], start=1):
        if turn.role != wanted:
            raise wrong(f"turn {place} is of the {turn.role}, a turn of the {wanted} must follow")
        wanted = "assistant" if wanted == "user" else "user"
    listed = row.get("images") or []
    if not isinstance(listed, list):
        raise wrong(f"images is {listed!r:.40}, no list")
    images = tuple(_image(item, path.parent) for item in listed)
    marks = sum(turn.num_images for turn in turns)
    if marks != len(images):
        raise wrong(f"{marks} {IMAGE_MARK} marks for {len(images)} images")
    for image in images:
        try:
            check_image(image)
        except ConfigError as error:
            raise wrong(str(error)) from error
    return Transcript(
        id=str(row.get("task_id", index)),
        source=str(row.get("source", path.stem)),
        messages=tuple(turns),
        images=images,
    )


def _turn(turn: Json, wrong: Callable[[str], ConfigError]) -> Message:
    if not isinstance(turn, dict):
        raise wrong(f"turn {turn!r} is no object")
    tag = turn.get("from", turn.get("role"))
    text = turn.get("value", turn.get("content"))
    if tag not in _ROLES or not isinstance(text, str):
        raise wrong(f"turn with tag {tag!r} needs one of {', '.join(_ROLES)} and a text")
    special = _SPECIAL.search(text)
    if special:
        raise wrong(f"the text holds {special[0]}, a token of the template, never of a text")
    role = _ROLES[str(tag)]
    num_images = text.count(IMAGE_MARK) if role == "user" else 0
    return Message(role=role, text=text, num_images=num_images)


def _image(item: Json, root: Path) -> ImageSource:
    """A path (relative ones to the file's folder), a data URI, or ``{image, ...}`` of either."""
    location = str(item.get("image") if isinstance(item, dict) else item)
    return ImageSource(image=location if location.startswith("data:") else str(root / location))


def to_sample(
    transcript: Transcript, renderer: Renderer, specs: Sequence[ToolSpec]
) -> TrainingSample:
    """Render with the tools' schemas in the system turn; only assistant tokens are trained."""
    system, *rest = transcript.messages
    messages = [Message(role="system", text=system_prompt(system.text, specs)), *rest]
    rendering = renderer.render(messages)
    return TrainingSample(
        token_ids=tuple(rendering.token_ids),
        spans=tuple(rendering.spans),
        images=tuple(_picture(image) for image in transcript.images),
        source=transcript.source,
    )


@lru_cache(maxsize=2048)
def _picture(source: ImageSource) -> ToolImage:
    return load_image(source)


def mixture_order(
    sizes: Sequence[int], weights: Sequence[float], batch_sizes: Sequence[int], seed: int
) -> Iterator[tuple[int, list[int]]]:
    """Endless (source, indices) of each step: each source in epochs of its own seeded order.

    The n-th item depends on the arguments alone, so a resume skips to its step.
    """
    rng = np.random.default_rng(seed)
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    orders: list[list[int]] = [[] for _ in sizes]
    while True:
        source = int(rng.choice(len(sizes), p=shares))
        order = orders[source]
        while len(order) < batch_sizes[source]:
            order.extend(int(i) for i in rng.permutation(sizes[source]))
        yield source, order[: batch_sizes[source]]
        del order[: batch_sizes[source]]
