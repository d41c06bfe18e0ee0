"""Anthropic's messages API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeGuard, cast

from pydantic import JsonValue, TypeAdapter

from rl.policy.native_turns import (
    Called,
    NativeTools,
    NativeTurn,
    Piece,
    Replied,
    Said,
    assistant_text,
    call_text,
)
from rl.policy.pictures import encoded_picture
from rl.policy.prices import TokenUsage
from rl.policy.provider import Ask, Told, read_as
from rl.types import Finish
from toolshed.errors import ToolFailure
from toolshed.types import Json, ToolSpec

VERSION = "2023-06-01"
_MOST_CHARS = 5 * 1024 * 1024
_HINT: dict[str, Json] = {"type": "ephemeral"}
_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "tool_use": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}
_KEPT = ("thinking", "redacted_thinking")
"""Blocks that are wanted back, unchanged, at the head of their turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    type: str
    text: str = ""
    name: str = ""
    input: JsonValue = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Usage:
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    stop_reason: str | None
    content: list[dict[str, JsonValue]] = field(default_factory=list)
    usage: _Usage | None = None


_ANSWER = TypeAdapter(_Answer)
_BLOCK = TypeAdapter(_Block)


class Messages:
    """Requests and answers of ``POST /messages``; there is no seed."""

    path = "/messages"
    optional: tuple[str, ...] = ("temperature",)

    def headers(self, key: str) -> dict[str, str]:
        return {"anthropic-version": VERSION} | ({"x-api-key": key} if key else {})

    def body(self, ask: Ask) -> dict[str, Json]:
        """The request, with cache hints behind the tools and system turn, behind the question
        with its pictures, and at the end. ConfigError where a picture cannot be sent."""
        body: dict[str, Json] = {
            "model": ask.model,
            "max_tokens": ask.sampling.max_tokens,
            # The API takes no more than 1.
            "temperature": min(1.0, ask.sampling.temperature),
        }
        system = _blocks([p for turn in ask.turns if _is_system(turn) for p in turn.pieces], ask)
        if system:
            body["system"] = _hinted(system)
        if ask.tools.specs:
            body["tools"] = [_tool(spec, ask.tools) for spec in ask.tools.specs]
        body["messages"] = _messages(ask)
        return {key: value for key, value in body.items() if key not in ask.left_out}

    def read(self, content: Json, tools: NativeTools) -> Told:
        """The answer; ToolFailure where it is none."""
        answer = read_as(_ANSWER, content)
        finish = _FINISH.get(answer.stop_reason or "")
        if finish is None:
            raise ToolFailure("aborted", f"the turn ended with {answer.stop_reason!r}")
        blocks = [read_as(_BLOCK, cast("Json", block)) for block in answer.content]
        said = "".join(block.text for block in blocks if block.type == "text")
        written = [
            call_text(tools.ours(block.name), json.dumps(block.input, ensure_ascii=False))
            for block in blocks
            if block.type == "tool_use"
        ]
        kept = [cast("Json", block) for block in answer.content if block["type"] in _KEPT]
        return Told(
            text=assistant_text(said, written),
            finish=finish,
            usage=_usage(answer.usage),
            kept=kept or None,
        )


def _usage(usage: _Usage | None) -> TokenUsage | None:
    if usage is None:
        return None
    return TokenUsage(
        input=usage.input_tokens,
        cached=usage.cache_read_input_tokens or 0,
        cache_written=usage.cache_creation_input_tokens or 0,
        output=usage.output_tokens,
    )


def _tool(spec: ToolSpec, tools: NativeTools) -> Json:
    return {
        "name": tools.native(spec.name),
        "description": spec.description,
        "input_schema": spec.parameters,
    }


# ---- the conversation -----------------------------------------------------------------------


def _messages(ask: Ask) -> list[Json]:
    turns: list[tuple[str, list[Json]]] = []
    for index, turn in enumerate(ask.turns):
        if _is_system(turn):
            continue
        role = _role(turn)
        blocks = _content(turn, ask, ask.kept.get(index))
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    hinted = {0, len(turns) - 1}
    return [
        {"role": role, "content": _hinted(blocks) if index in hinted else blocks}
        for index, (role, blocks) in enumerate(turns)
    ]


def _is_system(turn: NativeTurn) -> TypeGuard[Said]:
    return isinstance(turn, Said) and turn.role == "system"


def _role(turn: NativeTurn) -> str:
    match turn:
        case Called():
            return "assistant"
        case Replied():
            return "user"
        case _:
            return turn.role


def _content(turn: NativeTurn, ask: Ask, kept: Json) -> list[Json]:
    head: list[Json] = list(kept) if isinstance(kept, list) else []
    match turn:
        case Called():
            calls: list[Json] = [
                {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
                for call in turn.calls
            ]
            return [*head, *_blocks([turn.text], ask), *calls]
        case Replied():
            return [
                _result(identity, _blocks(reply, ask))
                for identity, reply in zip(turn.ids, turn.replies, strict=True)
            ]
        case _:
            return [*head, *_blocks(turn.pieces, ask)]


def _result(identity: str, blocks: list[Json]) -> Json:
    result: dict[str, Json] = {"type": "tool_result", "tool_use_id": identity}
    return {**result, "content": blocks} if blocks else result


def _blocks(pieces: Sequence[Piece], ask: Ask) -> list[Json]:
    """Blank text is left out: the API refuses blocks of it."""
    return [_block(piece, ask) for piece in pieces if not isinstance(piece, str) or piece.strip()]


def _block(piece: Piece, ask: Ask) -> Json:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    picture = encoded_picture(piece, ask.image_format, _MOST_CHARS)
    source: Json = {"type": "base64", "media_type": picture.media_type, "data": picture.data}
    return {"type": "image", "source": source}


def _hinted(blocks: list[Json]) -> list[Json]:
    """The same blocks, those up to the last to be kept in the provider's cache."""
    if not blocks or not isinstance(blocks[-1], dict):
        return blocks
    return [*blocks[:-1], {**blocks[-1], "cache_control": _HINT}]
