"""LLaVA: questions and answers about pictures, without tools; RefSpatial and VST-P have it.

Turns are ``{from: human/gpt, value}``. Whatever marks the texts have are taken out, and the first
turn begins with one line a picture; where depth pictures are asked for, each stands beside its own.
Pictures are ``image`` (one or several) or, as in VST-P, ``images``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sft.formats import sharegpt
from sft.render import IMAGE_MARK
from sft.transcript import Reading, RejectedRow, Transcript, image_at, transcript_of, turn_of
from toolshed.errors import ConfigError
from toolshed.images import ImageSource
from toolshed.types import Json, Message

AUTO_DEPTH = Path("auto")
"""In place of a folder of depth pictures: RefSpatial's own."""
_MARKS = re.compile(r"[ \t]*(<image>|<depth>|<\|image_pad\|>|<\|vision_start\|>|<\|vision_end\|>)")

REFSPATIAL: dict[tuple[str, str], tuple[str, str]] = {
    ("2D", "choice_qa.json"): ("image", "depth"),
    ("2D", "reasoning_template_qa.json"): ("image", "depth"),
    ("3D", "choice_qa.json"): ("image", "depth"),
    ("3D", "reasoning_template_qa.json"): ("image", "depth"),
    ("3D", "vacant_qa.json"): ("image", "depth"),
    ("3D", "multi_view_qa.json"): ("image_multi_view", "depth_multi_view"),
    ("3D", "visual_choice_qa.json"): ("image_visual_choice", "depth"),
    ("Simulator", "metadata.json"): ("image", "depth"),
}
"""Folders of pictures and of depth pictures, beside each of RefSpatial's files."""


def fits(row: dict[str, Json]) -> bool:
    is_vst = isinstance(row.get("meta_info"), str) and isinstance(row.get("type"), str)
    return isinstance(row.get("conversations"), list) and ("image" in row or is_vst)


def roots(reading: Reading) -> Reading:
    """RefSpatial's folders by the file's name and place, else as other formats have them."""
    folder = reading.path.parent
    known = REFSPATIAL.get((folder.name, reading.path.name))
    if known is None or not (folder / known[0]).is_dir():
        if reading.depth == AUTO_DEPTH:
            raise ConfigError(
                f"depth=auto knows the folders of RefSpatial alone, and {reading.path} is none of "
                "its files; name the folder of its depth pictures"
            )
        return sharegpt.roots(reading)
    depth = folder / known[1] if reading.depth == AUTO_DEPTH else reading.depth
    return replace(reading, images=folder / known[0], depth=depth)


def read(row: dict[str, Json], index: int, reading: Reading) -> Transcript:
    _check_kind(row)
    conversations = row.get("conversations")
    if not isinstance(conversations, list):
        raise RejectedRow("no list of conversations")
    images = _listed(row, "image" if "image" in row else "images")
    views = [[image_at(item, reading.images)] for item in images]
    if reading.depth is not None:
        depths = [image_at(item, reading.depth) for item in _listed(row, "depth")]
        if len(depths) != len(views):
            told = f"{len(depths)} depth pictures for {len(views)} images"
            raise RejectedRow("depth pictures and images differ in number", told)
        views = [[*view, depth] for view, depth in zip(views, depths, strict=True)]
    turns = _marked(_unmarked(conversations), views)
    return transcript_of(row, index, reading, turns, [each for view in views for each in view])


def _check_kind(row: dict[str, Json]) -> None:
    """VST-P says of each row what it is."""
    kind = str(row.get("type", ""))
    if "video" in kind or "video" in row:
        raise RejectedRow("a video", "the row shows a video; pictures alone can be shown")
    if kind == "bbox_3d":
        told = "3-D boxes of VST need a camera that was made the same for all, which is not done"
        raise RejectedRow("a 3-D box of VST", told)


def _listed(row: dict[str, Json], key: str) -> list[Json]:
    found = row.get(key)
    if found is None or found == "":
        return []
    return found if isinstance(found, list) else [found]


def _unmarked(conversations: list[Json]) -> list[Json]:
    """The turns without marks of pictures."""
    turns: list[Json] = []
    for turn in conversations:
        key = "value" if isinstance(turn, dict) and "value" in turn else "content"
        text = turn.get(key) if isinstance(turn, dict) else None
        if isinstance(turn, dict) and isinstance(text, str):
            turns.append({**turn, key: _MARKS.sub("", text).strip()})
        else:
            turns.append(turn)
    return turns


def _marked(conversations: list[Json], views: Sequence[Sequence[ImageSource]]) -> list[Message]:
    turns = sharegpt.turns_of(conversations)
    lines = "".join(" ".join([IMAGE_MARK] * len(view)) + "\n" for view in views)
    for place, turn in enumerate(turns):
        if turn.role == "user":
            turns[place] = turn_of("user", lines + turn.text)
            break
    return turns
