"""What questions need before they are played: tools that can answer them, room for prompts."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from rl.rollout import opening
from rl.types import Question
from sft.render import Renderer
from toolshed.errors import ConfigError
from toolshed.images import make_image
from toolshed.toolset import ToolSet
from toolshed.types import ToolSpec

_TRIED = 8
"""Of the questions whose pictures fill equally many places, so many of the longest are rendered."""
_WORLD = "robot."


def missing_tools(source: str, tools: ToolSet) -> list[str]:
    """What the scripted teacher would call for a ``data_source`` and ``tools`` do not show."""
    from rl.tabletop.kinds import TASK_KINDS

    kind = TASK_KINDS.get(source.removeprefix("tabletop-"))
    shown = {spec.name for spec in tools.specs}
    return [name for name in kind.tools if name not in shown] if kind is not None else []


def check_answerable(
    sources: Iterable[str], tools: ToolSet, config: str, *, taught: bool = False
) -> None:
    """ConfigError where questions cannot be answered with the tools of ``config``.

    The scripted teacher (``taught``) needs all that it calls. Another policy may guess without,
    and gets a warning; but nobody sees or moves the robot's world without the robot.
    """
    missing = {source: missing_tools(source, tools) for source in dict.fromkeys(sources)}
    said = {
        source: f"{source} questions need {', '.join(names)}, which tools.config={config} lacks"
        for source, names in missing.items()
        if names
    }
    for source, words in said.items():
        if taught or any(name.startswith(_WORLD) for name in missing[source]):
            raise ConfigError(f"{words}; give tools.config=light, or leave these questions out")
    for words in said.values() if tools.specs else ():
        print(f"warning: {words}", file=sys.stderr)


def check_room(
    questions: Sequence[Question],
    specs: Sequence[ToolSpec],
    renderer: Renderer,
    *,
    max_tokens: int,
    max_length: int,
) -> None:
    """ConfigError where a prompt and ``max_tokens`` may not fit into the policy's cache.

    Of many prompts only the longest are rendered, so that the check costs nothing.
    """
    sizes = [[picture_size(source.image) for source in question.images] for question in questions]
    places_of = {size: _places(size, renderer) for size in {s for each in sizes for s in each}}
    groups: dict[int, list[Question]] = {}
    for question, pictures in zip(questions, sizes, strict=True):
        groups.setdefault(sum(places_of[size] for size in pictures), []).append(question)
    for places, members in groups.items():
        longest = sorted(members, key=lambda each: -sum(len(m.text) for m in each.messages))
        for question in longest[:_TRIED]:
            prompt = len(renderer.prompt(opening(question, specs)))
            needed = prompt + places - len(question.images) + max_tokens
            if needed > max_length:
                raise ConfigError(
                    f"question {question.id} ({question.source}) needs {needed} places, "
                    f"max_tokens={max_tokens} of them for turns and replies, and max_length is "
                    f"{max_length}; raise max_length, or leave such questions out"
                )


def _places(size: tuple[int, int], renderer: Renderer) -> int:
    """Places of a picture in the policy's cache; they follow from its width and height."""
    width, height = size
    return renderer.vision(make_image(np.zeros((height, width, 3), dtype=np.uint8))).num_tokens


@lru_cache(maxsize=65536)
def picture_size(location: str) -> tuple[int, int]:
    """Width and height of a picture by its path or data URI."""
    inside = location.startswith("data:")
    file = io.BytesIO(base64.b64decode(location.partition(",")[2])) if inside else Path(location)
    with Image.open(file) as image:
        return image.size
