"""ShareGPT: the layout of the released set (``siyich/spacetools-sft``), and its kin.

Turns are ``{from, value}`` or ``{role, content}``; tool replies are user turns or ``observation``;
calls stand in the assistant's text or in turns of their own (``function_call``), as in
LLaMA-Factory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from sft.transcript import (
    Reading,
    RejectedRow,
    Transcript,
    images_of,
    transcript_of,
    turn_of,
)
from toolshed.chat import write_call, write_replies
from toolshed.types import Json, Message, Role

ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "observation": "user",
    "tool": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "thinking": "assistant",
}
_PARTS = ("observation", "tool", "function_call", "thinking")
"""Tags of parts of a turn, which join with a neighbour of the same role."""
_SAID = ("system", "user", "human", "observation", "assistant", "gpt", "function_call")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turn:
    tag: str
    role: Role
    text: str


def fits(row: dict[str, Json]) -> bool:
    return isinstance(row.get("conversations"), list)


def roots(reading: Reading) -> Reading:
    """The file's folder; that of the set where the file lies in its ``data``."""
    folder = reading.path.parent
    is_inner = folder.name == "data" and (folder.parent / "images").is_dir()
    if is_inner and not (folder / "images").is_dir():
        folder = folder.parent
    return replace(reading, images=folder)


def read(row: dict[str, Json], index: int, reading: Reading) -> Transcript:
    conversations = row.get("conversations")
    if not isinstance(conversations, list):
        raise RejectedRow("no list of conversations")
    images = images_of(row, "images", reading.images)
    return transcript_of(row, index, reading, turns_of(conversations), images)


def turns_of(conversations: list[Json]) -> list[Message]:
    """The turns of a conversation; parts of one turn are joined by a newline."""
    joined: list[_Turn] = []
    for turn in map(_turn, conversations):
        last = joined[-1] if joined else None
        is_part = turn.tag in _PARTS or (last is not None and last.tag in _PARTS)
        if last is not None and last.role == turn.role and is_part:
            joined[-1] = replace(turn, text=f"{last.text}\n{turn.text}")
        else:
            joined.append(turn)
    return [turn_of(turn.role, turn.text) for turn in joined]


def _turn(turn: Json) -> _Turn:
    if not isinstance(turn, dict):
        raise RejectedRow("a turn is no object", f"turn {turn!r:.60} is no object")
    tag = turn.get("from", turn.get("role"))
    text = turn.get("value", turn.get("content"))
    if not isinstance(tag, str) or tag not in ROLES or not isinstance(text, str):
        told = f"turn with tag {tag!r} needs one of {', '.join(_SAID)} and a text"
        raise RejectedRow("a turn without a known tag and a text", told)
    if tag == "function_call" and "<tool_call>" not in text:
        text = _calls(text)
    elif tag == "thinking" and "<think>" not in text:
        text = f"<think>{text}</think>"
    elif tag in ("observation", "tool") and "<tool_response>" not in text:
        text = write_replies([text])
    return _Turn(tag=tag, role=ROLES[tag], text=text)


def _calls(text: str) -> str:
    """One call or a list of them, as models write them."""
    try:
        content = json.loads(text)
    except ValueError as error:
        told = f"function_call {text!r:.60} is no JSON: {error}"
        raise RejectedRow("a function_call that is none", told) from error
    return "\n".join(map(call_text, content if isinstance(content, list) else [content]))


def call_text(call: Json) -> str:
    """A call ``{name, arguments}`` as models write it; arguments may be JSON in a text."""
    name = call.get("name") if isinstance(call, dict) else None
    arguments = call.get("arguments") if isinstance(call, dict) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            told = f"arguments of {name!r} are no JSON: {error}"
            raise RejectedRow("a function_call that is none", told) from error
    arguments = {} if arguments is None else arguments
    if not isinstance(name, str) or not isinstance(arguments, dict):
        told = f"{call!r:.60} is no call with a name and arguments"
        raise RejectedRow("a function_call that is none", told)
    return write_call(name, arguments)
