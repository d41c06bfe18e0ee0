"""OpenAI's chat completions, which Gemini's compatible endpoint, sglang and vLLM speak too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue, TypeAdapter

from rl.policy.native_turns import (
    Called,
    NativeCall,
    NativeTools,
    NativeTurn,
    Piece,
    Replied,
    assistant_text,
    call_text,
)
from rl.policy.pictures import encoded_picture
from rl.policy.prices import TokenUsage
from rl.policy.provider import Ask, Told, read_as
from rl.types import Finish
from toolshed.errors import ToolFailure
from toolshed.formats import IMAGE_MARK
from toolshed.schemas import function_of
from toolshed.types import Json

PICTURES_OF_REPLIES = (
    f"The pictures of the tool replies above, in the order of their {IMAGE_MARK} marks:"
)
"""Begins the user turn that follows replies with pictures: tool turns take text alone."""
_MOST_CHARS = 20_000_000
_SEED_BITS = (1 << 31) - 1
"""Some servers take no wider seed."""
_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
    "content_filter": "refusal",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Function:
    name: str
    arguments: str | dict[str, JsonValue] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _ToolCall:
    function: _Function
    extra_content: JsonValue = None
    """Of Gemini: the signature that it wants back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Message:
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    message: _Message = field(default_factory=_Message)
    finish_reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Details:
    cached_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Usage:
    # Gemini leaves out what is 0.
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    choices: list[_Choice]
    usage: _Usage | None = None


_ANSWER = TypeAdapter(_Answer)


class ChatCompletions:
    """Requests and answers of ``POST /chat/completions``."""

    path = "/chat/completions"
    optional: tuple[str, ...] = ("temperature", "seed", "max_completion_tokens")

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def body(self, ask: Ask) -> dict[str, Json]:
        """The request; ConfigError where a picture cannot be sent."""
        body: dict[str, Json] = {
            "model": ask.model,
            "messages": _messages(ask),
            "max_completion_tokens": ask.sampling.max_tokens,
            "temperature": ask.sampling.temperature,
            "seed": ask.seed & _SEED_BITS,
        }
        if ask.tools.specs:
            body["tools"] = [
                function_of(spec, ask.tools.native(spec.name)) for spec in ask.tools.specs
            ]
        if "max_completion_tokens" in ask.left_out:
            # Servers that do not know the word know the older one.
            body["max_tokens"] = ask.sampling.max_tokens
        return {key: value for key, value in body.items() if key not in ask.left_out}

    def read(self, content: Json, tools: NativeTools) -> Told:
        """The answer; ToolFailure where it is none, or where the server gave up on it."""
        answer = read_as(_ANSWER, content)
        if not answer.choices:
            raise ToolFailure("bad_response", "an answer without choices")
        choice = answer.choices[0]
        finish = _FINISH.get(choice.finish_reason or "")
        if finish is None:
            # Servers that abort a request say so here; the words so far are no answer.
            raise ToolFailure("aborted", f"the turn ended with {choice.finish_reason!r}")
        message, calls = choice.message, choice.message.tool_calls or []
        said = message.content or ""
        if message.refusal:
            said, finish = said or message.refusal, "refusal"
        written = [
            call_text(tools.ours(call.function.name), _json(call.function.arguments))
            for call in calls
        ]
        extra = [call.extra_content for call in calls]
        return Told(
            text=assistant_text(said, written),
            finish=finish,
            usage=_usage(answer.usage),
            kept=extra if any(each is not None for each in extra) else None,
        )


def _usage(usage: _Usage | None) -> TokenUsage | None:
    if usage is None:
        return None
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details is not None else 0
    return TokenUsage(
        input=max(0, usage.prompt_tokens - cached), cached=cached, output=usage.completion_tokens
    )


def _json(arguments: str | dict[str, JsonValue] | None) -> str:
    """The arguments as JSON; a call without any sends nothing, or an empty text."""
    if isinstance(arguments, dict):
        return json.dumps(arguments, ensure_ascii=False)
    return (arguments or "").strip() or "{}"


# ---- the conversation -----------------------------------------------------------------------


def _messages(ask: Ask) -> list[Json]:
    return [
        message
        for index, turn in enumerate(ask.turns)
        for message in _turn(turn, ask, ask.kept.get(index))
    ]


def _turn(turn: NativeTurn, ask: Ask, kept: Json) -> list[Json]:
    match turn:
        case Called():
            extra = kept if isinstance(kept, list) and len(kept) == len(turn.calls) else []
            calls = [_call(call, each) for call, each in zip(turn.calls, extra, strict=False)]
            calls += [_call(call, None) for call in turn.calls[len(calls) :]]
            return [{"role": "assistant", "content": turn.text or None, "tool_calls": calls}]
        case Replied():
            return _replies(turn, ask)
        case _:
            return [{"role": turn.role, "content": _content(turn.pieces, ask)}]


def _call(call: NativeCall, extra: Json) -> Json:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    made: dict[str, Json] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
    return made if extra is None else {**made, "extra_content": extra}


def _replies(turn: Replied, ask: Ask) -> list[Json]:
    messages: list[Json] = [
        {"role": "tool", "tool_call_id": identity, "content": _marked(reply)}
        for identity, reply in zip(turn.ids, turn.replies, strict=True)
    ]
    pictures = [piece for reply in turn.replies for piece in reply if not isinstance(piece, str)]
    if pictures:
        content = _content([PICTURES_OF_REPLIES, *pictures], ask)
        messages.append({"role": "user", "content": content})
    return messages


def _marked(pieces: Sequence[Piece]) -> str:
    return "".join(piece if isinstance(piece, str) else IMAGE_MARK for piece in pieces)


def _content(pieces: Sequence[Piece], ask: Ask) -> Json:
    if all(isinstance(piece, str) for piece in pieces):
        return _marked(pieces)
    return [_part(piece, ask) for piece in pieces]


def _part(piece: Piece, ask: Ask) -> Json:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    picture = encoded_picture(piece, ask.image_format, _MOST_CHARS)
    url = f"data:{picture.media_type};base64,{picture.data}"
    return {"type": "image_url", "image_url": {"url": url}}
