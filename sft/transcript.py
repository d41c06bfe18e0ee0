"""A conversation to imitate, and what must be true of it, whichever format it came in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sft.render import IMAGE_MARK
from toolshed.errors import ConfigError
from toolshed.images import ImageSource, check_image
from toolshed.types import Json, Message, Role

_SPECIAL = re.compile(r"<\|[a-z_]+\|>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """One conversation to imitate; ``messages`` begin with a system turn."""

    id: str
    source: str
    messages: tuple[Message, ...]
    images: tuple[ImageSource, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the rows of a file are read with, beside their format."""

    path: Path
    """Of the file, as it was named."""
    images: Path
    """Folder that relative pictures are named from."""
    depth: Path | None = None
    """The same of depth pictures; None leaves those out."""
    system: str = ""
    """Instruction of rows that bring none."""


PICTURE_FAULTS = ("a picture is missing", "a picture cannot be read")
"""Reasons that pass without a change of the data file."""


class RejectedRow(Exception):
    """A row that cannot be learned from; the text says what is wrong with it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        """The same words for all rows with this fault."""


def turn_of(role: Role, text: str) -> Message:
    """One turn; marks are pictures in the user's turns alone."""
    num_images = text.count(IMAGE_MARK) if role == "user" else 0
    return Message(role=role, text=text, num_images=num_images)


def transcript_of(
    row: dict[str, Json],
    index: int,
    reading: Reading,
    turns: Sequence[Message],
    images: Sequence[ImageSource],
) -> Transcript:
    """A row's turns and pictures, checked; its pictures are not looked at.

    A system turn is put before them where there is none. Raises RejectedRow.
    """
    messages = list(turns)
    if messages and messages[0].role != "system":
        system = row.get("system") or reading.system
        messages.insert(0, Message(role="system", text=str(system)))
    _check_texts(messages)
    _check_order(messages)
    marks = sum(turn.num_images for turn in messages)
    if marks != len(images):
        told = f"{marks} {IMAGE_MARK} marks for {len(images)} images"
        raise RejectedRow("image marks and images differ in number", told)
    return Transcript(
        id=str(row.get("task_id", row.get("id", index))),
        source=str(row.get("source", reading.path.stem)),
        messages=tuple(messages),
        images=tuple(images),
    )


def _check_texts(messages: Sequence[Message]) -> None:
    for message in messages:
        if message.role == "assistant" and not message.text.strip():
            raise RejectedRow("an assistant turn that says nothing")
        special = _SPECIAL.search(message.text)
        if special:
            told = f"the text holds {special[0]}, a token of the template, never of a text"
            raise RejectedRow("a token of the template in a text", told)
        try:
            message.text.encode()
        except UnicodeEncodeError as error:
            told = f"half of a surrogate pair at character {error.start} is no character"
            raise RejectedRow("half of a surrogate pair in a text", told) from error


def _check_order(messages: Sequence[Message]) -> None:
    if not any(turn.role == "assistant" for turn in messages):
        raise RejectedRow("no assistant turn to learn from")
    wanted: Role = "user"
    for place, turn in enumerate(messages[1:], start=1):
        if turn.role != wanted:
            told = f"turn {place} is of the {turn.role}, a turn of the {wanted} must follow"
            raise RejectedRow("turns do not alternate", told)
        wanted = "assistant" if wanted == "user" else "user"


def image_at(item: Json, root: Path) -> ImageSource:
    """A path (relative ones to ``root``), a data URI, or an object that holds one under ``image``,
    ``path``, ``url`` or ``image_url``; RejectedRow for anything else."""
    found = item
    if isinstance(found, dict):
        keys = ("image", "path", "url", "image_url")
        found = next((found[key] for key in keys if found.get(key) is not None), None)
        if isinstance(found, dict):
            found = found.get("url")
    if not isinstance(found, str) or not found:
        raise RejectedRow("a picture that says no place", f"picture {item!r:.60} says no place")
    if found.startswith("data:"):
        return ImageSource(image=found)
    return ImageSource(image=str(root / found.removeprefix("file://")))


def images_of(row: dict[str, Json], key: str, root: Path) -> tuple[ImageSource, ...]:
    """The pictures listed under ``key``, or none; RejectedRow where it is no list."""
    listed = row.get(key) or []
    if not isinstance(listed, list):
        raise RejectedRow(f"{key} is no list", f"{key} is {listed!r:.40}, no list")
    return tuple(image_at(item, root) for item in listed)


def check_picture(image: ImageSource) -> None:
    """RejectedRow where a picture is missing or damaged; its pixels are not decoded."""
    try:
        if image.image.startswith("data:"):
            # The cache of checks would keep every such picture whole.
            check_image.__wrapped__(image)
        else:
            check_image(image)
    except ConfigError as error:
        reason = PICTURE_FAULTS[0 if "does not exist" in str(error) else 1]
        raise RejectedRow(reason, str(error)) from error
