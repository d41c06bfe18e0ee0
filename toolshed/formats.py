"""Conversations with tools in the forms that training sets have, from OpenAI's or Anthropic's form.

``verl``: items of text and pictures. ``sharegpt``: one turn per kind of thing. ``sharegpt_simple``:
user and assistant alone, calls and replies written into their texts, which SFT here reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from toolshed.chat import write_call, write_replies
from toolshed.errors import ConfigError
from toolshed.schemas import dotted
from toolshed.types import Json

Message: TypeAlias = Mapping[str, Json]
Kind: TypeAlias = Literal["text", "thinking", "image", "call", "reply"]
IMAGE_MARK = "<image>"
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One thing that a message says, shows, asks for or answers."""

    kind: Kind
    text: str = ""
    """What is said; of a call its name; of a picture where it lies, a path or a data URI."""
    arguments: dict[str, Json] | None = None
    """Of a call."""
    id: str = ""
    """Of the call that is made or answered."""
    parts: tuple[_Part, ...] = ()
    """Of a reply."""


# ---- verl -----------------------------------------------------------------------------------


def convert_messages_to_verl(messages: Sequence[Message]) -> list[dict[str, Json]]:
    """Messages with ``content`` as items ``text`` and ``image``, calls as ``{name, args}``.

    A picture that is written into the message is left out, only its item stays. ConfigError where
    an item is of another type.
    """
    return [each for message in messages for each in _verl_messages(message)]


def _verl_messages(message: Message) -> Iterable[dict[str, Json]]:
    role, parts = _role(message), _parts(message)
    replies = [part for part in parts if part.kind == "reply"]
    for reply in replies:
        items = _verl_items(reply.parts)
        yield {"role": "tool", "content": items, "tool_call_id": reply.id}
    rest = [part for part in parts if part.kind != "reply"]
    if not rest and replies:
        return
    turn: dict[str, Json] = {"role": role, "content": _verl_items(rest)}
    calls: list[Json] = [
        {"name": part.text, "args": part.arguments} for part in rest if part.kind == "call"
    ]
    if calls:
        turn["tool_calls"] = calls
    yield turn


def _verl_items(parts: Sequence[_Part]) -> list[Json]:
    items: list[Json] = []
    for part in parts:
        if part.kind == "image":
            path = None if _is_data(part.text) else part.text
            items.append({"type": "image"} if path is None else {"type": "image", "image": path})
        elif part.kind in ("text", "thinking"):
            items.append({"type": "text", "text": _said(part)})
    return items


# ---- sharegpt -------------------------------------------------------------------------------


def convert_messages_to_sharegpt(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Turns ``{from, value}`` of system, user, assistant, thinking, function_call, observation."""
    turns: list[dict[str, str]] = []
    for message in messages:
        role = _role(message)
        said: list[str] = []
        for part in _parts(message):
            if part.kind in ("text", "image"):
                said.append(IMAGE_MARK if part.kind == "image" else part.text)
                continue
            _add(turns, role, said)
            turns.append(_sharegpt_turn(part))
        _add(turns, role, said)
    return turns


def _add(turns: list[dict[str, str]], role: str, said: list[str]) -> None:
    if said:
        turns.append({"from": role, "value": "\n".join(said)})
        said.clear()


def _sharegpt_turn(part: _Part) -> dict[str, str]:
    if part.kind == "thinking":
        return {"from": "thinking", "value": part.text}
    if part.kind == "reply":
        return {"from": "observation", "value": _shown(part.parts)}
    call = {"name": part.text, "arguments": part.arguments}
    return {"from": "function_call", "value": json.dumps(call, ensure_ascii=False)}


# ---- sharegpt, simple -----------------------------------------------------------------------


def convert_messages_to_sharegpt_simple(
    messages: Sequence[Message],
    image_paths: Sequence[str] | None = None,
    tool_schemas: Sequence[Message] | None = None,
) -> dict[str, Json]:
    """``conversations``, ``system``, ``images`` and ``tools`` of one conversation.

    What an assistant says beside calls is thought, put into ``<think>``, unless it has such tags or
    an ``<answer>`` itself. ConfigError where there is not exactly one system message, or where
    ``image_paths`` and the pictures of the conversation differ in number.
    """
    systems = [message for message in messages if _role(message) == "system"]
    if len(systems) != 1:
        raise ConfigError(f"{len(systems)} system messages; exactly one is needed")
    turns: list[tuple[str, str]] = []
    for message in messages:
        for role, text in _simple_turns(message):
            if turns and turns[-1][0] == role:
                turns[-1] = (role, f"{turns[-1][1]}\n{text}")
            else:
                turns.append((role, text))
    images = list(_pictures(messages)) if image_paths is None else list(image_paths)
    marks = sum(text.count(IMAGE_MARK) for role, text in turns if role == "user")
    if marks != len(images):
        raise ConfigError(f"{marks} {IMAGE_MARK} marks for {len(images)} images")
    return {
        "conversations": [{"from": role, "value": text} for role, text in turns],
        "system": _shown(_parts(systems[0])),
        "images": list(images),
        "tools": convert_tool_schemas_to_simple_format(tool_schemas or []),
    }


def _simple_turns(message: Message) -> Iterable[tuple[str, str]]:
    role = _role(message)
    if role == "assistant":
        parts = _parts(message)
        text = "\n".join(filter(None, map(_acted, parts)))
        if text:
            yield role, text
    elif role != "system":
        for part in _parts(message):
            is_reply = part.kind == "reply"
            yield "user", write_replies([_shown(part.parts)]) if is_reply else _shown([part])


def _acted(part: _Part) -> str:
    """What an assistant does, as it would write it itself."""
    if part.kind == "call":
        return write_call(part.text, part.arguments or {})
    if part.kind == "thinking":
        return _said(part)
    text = part.text.strip()
    before, mark, after = text.partition("<answer>")
    if not text or "<think>" in text:
        return text
    if not mark:
        return f"<think>{text}</think>"
    thought = f"<think>{before.strip()}</think>\n" if before.strip() else ""
    return f"{thought}{mark}{after}"


def convert_tool_schemas_to_simple_format(tool_schemas: Sequence[Message]) -> str:
    """Schemas of any form as JSON text, under dotted names."""
    return json.dumps(list(map(_function, tool_schemas)), ensure_ascii=False, indent=2)


def _function(schema: Message) -> Json:
    inner = schema.get("function", schema)
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise ConfigError("a tool schema has no name")
    parameters = next(
        (inner[key] for key in ("parameters", "input_schema", "inputSchema") if key in inner), {}
    )
    function: dict[str, Json] = {
        "name": convert_tool_name(str(inner["name"])),
        "description": inner.get("description", ""),
        "parameters": parameters,
    }
    return {"type": "function", "function": function}


def convert_tool_name(name: str) -> str:
    """``family.method``, whichever way it was written."""
    return dotted(name)


# ---- pictures and whole examples ------------------------------------------------------------


def extract_image_path_from_message(message: Message) -> str | None:
    """Path of a message's first picture; None where it has none, or has it written into itself."""
    return next(iter(extract_all_image_paths_from_messages([message])), None)


def extract_all_image_paths_from_messages(messages: Sequence[Message]) -> list[str]:
    """Paths of all pictures in order, those without a path left out."""
    return [each for each in _pictures(messages) if not _is_data(each)]


def build_training_example(
    messages: Sequence[Message],
    task_id: str,
    dataset_index: int,
    score: float,
    image_paths: Sequence[str] | None = None,
    tool_schemas: Sequence[Message] | None = None,
    system_prompt_override: str | None = None,
    **extra: Json,
) -> dict[str, Json]:
    """One row of a training file: a simple conversation with its task and score."""
    if system_prompt_override is not None:
        rest = [message for message in messages if _role(message) != "system"]
        messages = [{"role": "system", "content": system_prompt_override}, *rest]
    row = convert_messages_to_sharegpt_simple(messages, image_paths, tool_schemas)
    return {
        "task_id": task_id,
        "dataset_index": dataset_index,
        "score": score,
        **row,
        **extra,
    }


def _pictures(messages: Sequence[Message]) -> Iterable[str]:
    for message in messages:
        for part in _parts(message):
            for each in (part, *part.parts):
                if each.kind == "image":
                    yield each.text


# ---- reading --------------------------------------------------------------------------------


def _role(message: Message) -> str:
    role = message.get("role")
    if role not in _ROLES:
        raise ConfigError(f"a message has the role {role!r}; roles: {', '.join(_ROLES)}")
    return str(role)


def _parts(message: Message) -> list[_Part]:
    """What a message holds, in order."""
    said = _content(message.get("content"))
    if _role(message) == "tool":
        return [_Part(kind="reply", id=str(message.get("tool_call_id", "")), parts=tuple(said))]
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ConfigError(f"tool_calls is {calls!r:.60}, no list")
    return [*said, *map(_openai_call, calls)]


def _content(content: Json) -> list[_Part]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [_Part(kind="text", text=content)]
    if not isinstance(content, list):
        raise ConfigError(f"content is {content!r:.60}, neither text nor a list of items")
    return [_item(each) for each in content]


def _item(item: Json) -> _Part:
    if isinstance(item, str):
        return _Part(kind="text", text=item)
    kind = item.get("type") if isinstance(item, dict) else None
    read = _READERS.get(str(kind))
    if read is None or not isinstance(item, dict):
        raise ConfigError(f"an item of type {kind!r}; known: {', '.join(_READERS)}")
    return read(item)


def _text(item: dict[str, Json]) -> _Part:
    return _Part(kind="text", text=str(item.get("text", "")))


def _thinking(item: dict[str, Json]) -> _Part:
    return _Part(kind="thinking", text=str(item.get("thinking", item.get("text", ""))))


def _image(item: dict[str, Json]) -> _Part:
    """OpenAI's ``image_url``, Anthropic's ``source``, or a path under ``image`` or ``path``."""
    found = next(
        (item[key] for key in ("image", "image_url", "path", "url", "source") if key in item), None
    )
    if isinstance(found, dict):
        if "data" in found:
            data = f"data:{found.get('media_type', 'image/png')};base64,{found['data']}"
            return _Part(kind="image", text=data)
        found = found.get("url")
    if not isinstance(found, str):
        raise ConfigError(f"a picture item with the keys {', '.join(item)} has no picture")
    return _Part(kind="image", text=found.removeprefix("file://"))


def _tool_use(item: dict[str, Json]) -> _Part:
    return _call(item.get("name"), item.get("input"), item.get("id"))


def _tool_result(item: dict[str, Json]) -> _Part:
    parts = tuple(_content(item.get("content")))
    return _Part(kind="reply", id=str(item.get("tool_use_id", "")), parts=parts)


_READERS: dict[str, Callable[[dict[str, Json]], _Part]] = {
    "text": _text,
    "thinking": _thinking,
    "image": _image,
    "image_url": _image,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
}


def _openai_call(call: Json) -> _Part:
    """A call of OpenAI's form, or ``{name, args}`` as verl's form has it."""
    if not isinstance(call, dict):
        raise ConfigError(f"a call is {call!r:.60}, no object")
    inner = call.get("function", call)
    if not isinstance(inner, dict):
        raise ConfigError(f"a call's function is {inner!r:.60}, no object")
    return _call(inner.get("name"), inner.get("arguments", inner.get("args")), call.get("id"))


def _call(name: Json, arguments: Json, identity: Json) -> _Part:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise ConfigError(f"arguments of {name!r} are no JSON: {error}") from error
    if not isinstance(name, str) or not isinstance(arguments or {}, dict):
        raise ConfigError(f"a call of {name!r} with {arguments!r:.60} is none")
    filled = arguments if isinstance(arguments, dict) else {}
    return _Part(
        kind="call", text=convert_tool_name(name), arguments=filled, id=str(identity or "")
    )


def _shown(parts: Iterable[_Part]) -> str:
    return "\n".join(IMAGE_MARK if part.kind == "image" else _said(part) for part in parts)


def _said(part: _Part) -> str:
    return f"<think>{part.text}</think>" if part.kind == "thinking" else part.text


def _is_data(location: str) -> bool:
    return location.startswith("data:")
