"""What providers refuse: the shape of requests of both protocols, checked to the letter."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

from PIL import Image

KEY = "sk-test-0123456789"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Refused(Exception):
    """The request has a wrong shape."""


def need(condition: object, what: str) -> None:
    if not condition:
        raise Refused(what)


def picture_size(media_type: str, data: str) -> tuple[int, int]:
    """Width and height of a picture that decodes as what it says it is."""
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        image.load()
        need(f"image/{image.format.lower()}" == media_type, f"{image.format} sent as {media_type}")  # type: ignore[union-attr]
        return image.size


# ---- chat completions -----------------------------------------------------------------------

_CHAT_KEYS = {
    *("model", "messages", "tools", "temperature", "seed"),
    *("max_completion_tokens", "max_tokens"),
}


def check_chat(headers: dict[str, str], body: dict[str, Any]) -> None:
    need(headers.get("authorization") == f"Bearer {KEY}", "no or wrong key")
    need(body.keys() <= _CHAT_KEYS, f"unknown fields {body.keys() - _CHAT_KEYS}")
    need(isinstance(body["model"], str) and body["model"], "model")
    need(0 <= body.get("temperature", 0) <= 2, "temperature")
    need(0 <= body.get("seed", 0) < 2**31, "seed")
    need(("max_completion_tokens" in body) != ("max_tokens" in body), "one limit of tokens")
    for tool in body.get("tools", []):
        need(tool.keys() == {"type", "function"} and tool["type"] == "function", "tool")
        need(_NAME.fullmatch(tool["function"]["name"]), "tool name")
        need(tool["function"]["parameters"]["type"] == "object", "tool parameters")
    waiting: list[str] = []
    before = ""
    for index, message in enumerate(body["messages"]):
        role = message["role"]
        need(role != "system" or index == 0, "system turn comes first")
        if role == "tool":
            need(message.keys() == {"role", "tool_call_id", "content"}, "tool message keys")
            need(message["tool_call_id"] in waiting, "a reply to no call")
            waiting.remove(message["tool_call_id"])
            need(isinstance(message["content"], str), "a reply takes text alone")
        else:
            need(not waiting, "calls without replies")
            need(role != before, f"two turns of {role}")
            waiting = _check_chat_turn(message, bool(body.get("tools")))
        before = role
    need(before in ("user", "tool"), "nobody asks")


def _check_chat_turn(message: dict[str, Any], with_tools: bool) -> list[str]:
    role, content = message["role"], message["content"]
    calls = message.get("tool_calls", [])
    allowed = {"role", "content"} | ({"tool_calls"} if role == "assistant" else set())
    need(message.keys() <= allowed, "message keys")
    need("tool_calls" not in message or (calls and with_tools), "tool calls without tools")
    need(content is not None or calls, "an empty turn")
    for part in content if isinstance(content, list) else []:
        need(role == "user", "parts belong to users")
        if part["type"] == "image_url":
            match = re.fullmatch(r"data:(image/\w+);base64,(.+)", part["image_url"]["url"])
            need(match, "picture")
            assert match is not None
            picture_size(match[1], match[2])
        else:
            need(part.keys() == {"type", "text"} and part["text"], "text part")
    for call in calls:
        need(call.keys() - {"extra_content"} == {"id", "type", "function"}, "call keys")
        need(re.fullmatch(r"[a-zA-Z0-9]{9}", call["id"]), "call id")
        need(_NAME.fullmatch(call["function"]["name"]), "call name")
        need(isinstance(json.loads(call["function"]["arguments"]), dict), "arguments")
    ids = [call["id"] for call in calls]
    need(len(ids) == len(set(ids)), "an id twice")
    return ids


def chat_answer(
    text: str, calls: list[tuple[str, str]], finish: str, usage: tuple[int, int, int]
) -> dict[str, Any]:
    read, cached, written = usage
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": words}}
            for i, (name, words) in enumerate(calls)
        ]
    reason = {"stop": "tool_calls" if calls else "stop", "refusal": "content_filter"}
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": reason.get(finish, finish)}],
        "usage": {
            "prompt_tokens": read + cached,
            "completion_tokens": written,
            "total_tokens": read + cached + written,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


# ---- messages -------------------------------------------------------------------------------

_MESSAGE_KEYS = {"model", "messages", "tools", "temperature", "max_tokens", "system"}


def check_messages(headers: dict[str, str], body: dict[str, Any]) -> None:
    need(headers.get("x-api-key") == KEY, "no or wrong key")
    need(headers.get("anthropic-version") == "2023-06-01", "version")
    need("authorization" not in headers, "a second key")
    need(body.keys() <= _MESSAGE_KEYS, f"unknown fields {body.keys() - _MESSAGE_KEYS}")
    need(body["max_tokens"] >= 1, "max_tokens")
    need(0 <= body.get("temperature", 0) <= 1, "temperature")
    need(json.dumps(body).count('"cache_control"') <= 4, "too many cache hints")
    for tool in body.get("tools", []):
        need(tool.keys() == {"name", "description", "input_schema"}, "tool")
        need(_NAME.fullmatch(tool["name"]), "tool name")
    for block in body.get("system", []):
        need(block["type"] == "text" and block["text"].strip(), "system block")
    waiting: list[str] = []
    for index, message in enumerate(body["messages"]):
        need(message.keys() == {"role", "content"}, "message keys")
        need(message["role"] == ("user", "assistant")[index % 2], "roles alternate")
        need(message["content"], "an empty turn")
        waiting = _check_blocks(message, waiting)
    need(body["messages"][-1]["role"] == "user" and not waiting, "nobody asks")


def _check_blocks(message: dict[str, Any], waiting: list[str]) -> list[str]:
    blocks = message["content"]
    answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    need(sorted(answered) == sorted(waiting), "calls and results differ")
    leading = [block["type"] for block in blocks[: len(answered)]]
    need(leading == ["tool_result"] * len(answered), "results come first")
    for block in blocks:
        match block["type"]:
            case "tool_result":
                need(block.get("content", "none"), "an empty result")
                for inner in block.get("content", []):
                    _check_block(inner)
            case "tool_use":
                need(message["role"] == "assistant", "users call nothing")
                need(_NAME.fullmatch(block["name"]) and isinstance(block["input"], dict), "call")
            case "thinking":
                need(block.keys() == {"type", "thinking", "signature"}, "thinking")
            case _:
                _check_block(block)
    return [block["id"] for block in blocks if block["type"] == "tool_use"]


def _check_block(block: dict[str, Any]) -> None:
    if block["type"] == "text":
        need(block.keys() - {"cache_control"} == {"type", "text"}, "text keys")
        need(block["text"].strip(), "text content blocks must contain non-whitespace text")
    else:
        need(block["type"] == "image" and block["source"]["type"] == "base64", "block type")
        picture_size(block["source"]["media_type"], block["source"]["data"])


def messages_answer(
    text: str, calls: list[tuple[str, str]], finish: str, usage: tuple[int, int, int]
) -> dict[str, Any]:
    read, cached, written = usage
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    blocks += [
        {"type": "tool_use", "id": f"toolu_{i}", "name": name, "input": json.loads(words)}
        for i, (name, words) in enumerate(calls)
    ]
    reason = {"stop": "tool_use" if calls else "end_turn", "length": "max_tokens"}
    return {
        "id": "msg_x",
        "type": "message",
        "role": "assistant",
        "content": blocks,
        "stop_reason": reason.get(finish, finish),
        "usage": {
            "input_tokens": read,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": written,
        },
    }
