"""What an index keeps of a row: how large it is, what it shows and asks, which tools it calls."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sft.fingerprint import normal_text
from sft.transcript import Transcript, check_picture
from toolshed.images import ImageSource, announced_bytes

_CALLED = re.compile(r'<tool_call>\s*\{\s*"name":\s*"([^"]+)"')
_CHARS_PER_TOKEN = 4
_PIXELS_PER_TOKEN = 28 * 28
_BYTES_PER_PIXEL = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFacts:
    """Of one row that is accepted."""

    tokens: int
    """An estimate: one for 4 characters and for 28 x 28 pixels, tool schemas left out."""
    texts: tuple[int, ...]
    """Fingerprint of each question, 64 bits: turns of the user that are no tool replies."""
    pictures: tuple[int, ...]
    """Fingerprint of each picture's encoded bytes, 64 bits."""
    tools: frozenset[str]
    """Dotted names of the tools that are called."""


class PictureFacts:
    """Pictures looked at once each: they are whole, and this is what they are."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, image: ImageSource) -> tuple[int, int]:
        """(fingerprint, number of pixels); RejectedRow where the picture cannot be read."""
        location = image.image
        found = self._known.get(location)
        if found is None:
            check_picture(image)
            pixels = announced_bytes(image) // _BYTES_PER_PIXEL
            if location.startswith("data:"):
                return _hash(base64.b64decode(location.partition(",")[2])), pixels
            found = self._known[location] = (_hash(Path(location).read_bytes()), pixels)
        return found


def facts_of(transcript: Transcript, pictures: PictureFacts) -> RowFacts:
    """RejectedRow where one of its pictures cannot be read."""
    seen = [pictures.of(image) for image in transcript.images]
    num_chars = sum(len(message.text) for message in transcript.messages)
    num_pixels = sum(pixels for _, pixels in seen)
    said = (m.text for m in transcript.messages if m.role == "assistant")
    return RowFacts(
        tokens=num_chars // _CHARS_PER_TOKEN + num_pixels // _PIXELS_PER_TOKEN,
        texts=tuple(dict.fromkeys(_questions(transcript))),
        pictures=tuple(dict.fromkeys(fingerprint for fingerprint, _ in seen)),
        tools=frozenset(name for text in said for name in _CALLED.findall(text)),
    )


def _questions(transcript: Transcript) -> list[int]:
    asked = [message.text for message in transcript.messages if message.role == "user"]
    asked = [text for text in asked if not text.lstrip().startswith("<tool_response>")]
    return [_hash(text.encode()) for text in map(normal_text, asked) if text]


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little")


def mentions(transcript: Transcript, families: Sequence[str]) -> bool:
    """Whether a turn after the system's names a tool of one of these families: ``robot.move``."""
    names = "|".join(map(re.escape, families))
    named = re.compile(rf"(?<![\w.])(?:{names})\.[a-z_]")
    return any(named.search(turn.text) for turn in transcript.messages if turn.role != "system")
