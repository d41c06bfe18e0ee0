"""Chat messages, as Hugging Face's chat templates and OpenAI's API have them.

``messages`` are ``{role, content}`` with a text or a list of parts. Pictures are parts of their
own, or ``<image>`` marks in texts, and lie where the part says or, in order, where the row's
``images`` say. Parts of one message follow each other without a space, as in those templates.
"""

from __future__ import annotations

from sft.formats import sharegpt
from sft.render import IMAGE_MARK
from sft.transcript import Reading, RejectedRow, Transcript, image_at, transcript_of
from toolshed.images import ImageSource
from toolshed.types import Json

roots = sharegpt.roots
_KEYS = ("image", "path", "url", "image_url")


def fits(row: dict[str, Json]) -> bool:
    return isinstance(row.get("messages"), list)


def read(row: dict[str, Json], index: int, reading: Reading) -> Transcript:
    messages = row.get("messages")
    if not isinstance(messages, list):
        raise RejectedRow("no list of messages")
    listed = row.get("images") or []
    if not isinstance(listed, list):
        raise RejectedRow("images is no list", f"images is {listed!r:.40}, no list")
    pictures = _Pictures(listed, reading)
    turns: list[Json] = []
    for message in messages:
        turns += _turns(message, pictures)
    return transcript_of(row, index, reading, sharegpt.turns_of(turns), pictures.whole())


class _Pictures:
    """The pictures of a row in the order of their marks."""

    def __init__(self, listed: list[Json], reading: Reading) -> None:
        self._listed, self._root = list(listed), reading.images
        self._found: list[ImageSource] = []

    def add(self, part: dict[str, Json] | None) -> None:
        """The picture of a part, or the next of the list where it names none."""
        if part is not None and any(part.get(key) is not None for key in _KEYS):
            self._found.append(image_at(part, self._root))
        elif self._listed:
            self._found.append(image_at(self._listed.pop(0), self._root))

    def whole(self) -> list[ImageSource]:
        """With those that no mark stands for, so that their number is seen to be wrong."""
        return [*self._found, *(image_at(item, self._root) for item in self._listed)]


def _turns(message: Json, pictures: _Pictures) -> list[Json]:
    if not isinstance(message, dict):
        raise RejectedRow("a turn is no object", f"message {message!r:.60} is no object")
    role, calls = message.get("role"), message.get("tool_calls") or []
    if message.get("function_call"):
        calls = calls or [message["function_call"]]
    thought = message.get("reasoning_content")
    text = _text(message.get("content"), pictures, is_seen=role in ("user", "tool"))
    turns: list[Json] = []
    if isinstance(thought, str) and thought:
        turns.append({"role": "thinking", "content": thought})
    if text or not calls:
        turns.append({"role": role, "content": text})
    if not isinstance(calls, list):
        raise RejectedRow("tool_calls is no list", f"tool_calls is {calls!r:.40}, no list")
    for call in calls:
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict):
            raise RejectedRow("a function_call that is none", f"{call!r:.60} is no call")
        turns.append({"role": "function_call", "content": sharegpt.call_text(inner)})
    return turns


def _text(content: Json, pictures: _Pictures, *, is_seen: bool) -> str:
    """What a message says, with a mark for each picture."""
    if content is None:
        return ""
    parts = content if isinstance(content, list) else [content]
    texts: list[str] = []
    for part in parts:
        if isinstance(part, dict) and part.get("type") in ("image", "image_url"):
            pictures.add(part)
            texts.append(IMAGE_MARK)
            continue
        said = part.get("text") if isinstance(part, dict) else part
        if not isinstance(said, str):
            kind = part.get("type") if isinstance(part, dict) else part
            told = f"a part of type {kind!r:.40}; text, image and image_url are known"
            raise RejectedRow("a part of another type", told)
        for _ in range(said.count(IMAGE_MARK) if is_seen else 0):
            pictures.add(None)
        texts.append(said)
    return "".join(texts)
