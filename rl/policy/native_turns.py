"""A conversation as providers' own function calling has it: what was said, called and replied.

Our conversations hold calls and replies as text (``toolshed/chat.py``). A turn becomes native only
where reading it back gives its text to the letter; any other, a malformed call for example, stays
the text that it is, and so do the replies to it. Nothing is lost either way.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from toolshed.chat import ParsedCalls, parse_calls, system_prompt, write_call, write_replies
from toolshed.errors import ConfigError
from toolshed.formats import IMAGE_MARK
from toolshed.schemas import dotted, mangled
from toolshed.types import Json, Message, Role, ToolImage, ToolSpec

Piece: TypeAlias = "str | ToolImage"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REPLY = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A turn of text and pictures, in order; never an empty piece."""

    role: Role
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeCall:
    """One call as the provider's form has it."""

    id: str
    name: str
    """Mangled, ``family__method``."""
    arguments: dict[str, Json]


@dataclass(frozen=True, kw_only=True, slots=True)
class Called:
    """An assistant turn that ends in calls."""

    text: str
    """What was said before them, may be empty."""
    calls: tuple[NativeCall, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replied:
    """The replies to the calls of the turn before, one each, same order."""

    ids: tuple[str, ...]
    replies: tuple[tuple[Piece, ...], ...]


NativeTurn: TypeAlias = Said | Called | Replied


class NativeTools:
    """The tools of a request, and both names of each."""

    def __init__(self, specs: Sequence[ToolSpec]) -> None:
        """No specs is no native calling. ConfigError where providers would not take a name."""
        self.specs = tuple(specs)
        self._native = {spec.name: mangled(spec.name) for spec in specs}
        self._dotted = {name: spec for spec, name in self._native.items()}
        self._section = system_prompt("", specs)
        for spec, name in self._native.items():
            if not _NAME.fullmatch(name) or self._dotted[name] != spec:
                raise ConfigError(
                    f"the tool {spec} would be {name!r} to the provider, which takes 1 to 64 "
                    "letters, digits, _ and - and each name once; give api.calls=text"
                )

    def native(self, name: str) -> str | None:
        """The name for the provider; None where it would not take it or not give it back."""
        word = self._native.get(name, mangled(name))
        return word if _NAME.fullmatch(word) and self.ours(word) == name else None

    def ours(self, name: str) -> str:
        """The dotted name of what the provider called; an unknown one as near as it gets."""
        return self._dotted.get(name) or dotted(name)

    def without_section(self, text: str) -> str:
        """The system turn without the tools that are written into it."""
        return text.removesuffix(self._section) if self.specs else text


def native_turns(
    messages: Sequence[Message], images: Sequence[ToolImage], tools: NativeTools
) -> list[NativeTurn]:
    """The turns of a conversation; ``images`` in the order of their marks, all of them used."""
    pictures = iter(images)
    turns: list[NativeTurn] = []
    called: Called | None = None
    for index, message in enumerate(messages):
        if called is not None:
            texts = _replies(message, len(called.calls))
            replies = tuple(_pieces(text, message, pictures) for text in texts)
            turns.append(Replied(ids=tuple(call.id for call in called.calls), replies=replies))
            called = None
            continue
        following = messages[index + 1] if index + 1 < len(messages) else None
        called = _called(message, following, len(turns), tools)
        if called is not None:
            turns.append(called)
            continue
        is_system = message.role == "system"
        text = tools.without_section(message.text) if is_system else message.text
        turns.append(Said(role=message.role, pieces=_pieces(text, message, pictures)))
    assert next(pictures, None) is None, "more pictures than marks"
    return turns


def assistant_text(text: str, calls: Sequence[str]) -> str:
    """An assistant turn in our form, from what was said and the calls as ``call_text`` wrote
    them; blank words before calls are dropped."""
    if not calls:
        return text
    return "\n".join([text, *calls] if text.strip() else calls)


def call_text(name: str, arguments: str) -> str:
    """A call in our syntax from its dotted name and the JSON that the provider sent.

    JSON that is none, or no object, stays as it was sent, for the parser to refuse.
    """
    sent = f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n</tool_call>'
    parsed = _parsed(sent)
    if parsed.errors or len(parsed.calls) != 1 or parsed.calls[0].end != len(sent):
        return sent
    return write_call(parsed.calls[0].name, parsed.calls[0].arguments)


def _parsed(text: str) -> ParsedCalls:
    """All calls: those beyond the limit of a turn are calls too, and have replies."""
    return parse_calls(text, max_calls=sys.maxsize)


def _called(
    message: Message, following: Message | None, number: int, tools: NativeTools
) -> Called | None:
    """The native form of an assistant turn; None where it has none."""
    if message.role != "assistant" or not tools.specs or following is None:
        return None
    parsed = _parsed(message.text)
    if parsed.errors or not parsed.calls or not _replies(following, len(parsed.calls)):
        return None
    text = message.text[: parsed.calls[0].start].removesuffix("\n")
    written = [write_call(call.name, call.arguments) for call in parsed.calls]
    names = [tools.native(call.name) for call in parsed.calls]
    if assistant_text(text, written) != message.text or None in names:
        return None
    return Called(
        text=text,
        calls=tuple(
            # Nine letters and digits: some servers take no other ids.
            NativeCall(id=f"call{number:03d}{i:02d}", name=name or "", arguments=call.arguments)
            for i, (call, name) in enumerate(zip(parsed.calls, names, strict=True))
        ),
    )


def _replies(message: Message, num_calls: int) -> list[str]:
    """The texts of a turn of exactly so many replies; empty where it is none."""
    texts = _REPLY.findall(message.text)
    fits = len(texts) == num_calls and write_replies(texts) == message.text
    return texts if fits and message.role == "user" else []


def _pieces(text: str, message: Message, pictures: Iterator[ToolImage]) -> tuple[Piece, ...]:
    if not message.num_images:
        return (text,) if text else ()
    first, *rest = text.split(IMAGE_MARK)
    pieces: list[Piece] = [first]
    for words in rest:
        pieces += [next(pictures), words]
    return tuple(piece for piece in pieces if piece != "")
