"""Conversations in providers' forms: nothing is lost on the way there and back."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rl.policy import pictures
from rl.policy.anthropic_api import Messages
from rl.policy.native_turns import NativeTools, assistant_text, call_text, native_turns
from rl.policy.openai_api import PICTURES_OF_REPLIES, ChatCompletions
from rl.policy.provider import Ask
from rl.types import SamplingParams
from tests.rl.camera_tools import camera_shed
from tests.rl.provider_rules import KEY, check_chat, check_messages
from toolshed.chat import system_prompt, write_call, write_replies
from toolshed.errors import ConfigError
from toolshed.images import make_image
from toolshed.types import Json, Message, ToolImage, ToolSpec

MARK = "<image>"
TOOLS = NativeTools(camera_shed().specs)
PICTURES = [
    make_image(np.full((2 + i, 3, 3), 40 * i, dtype=np.uint8)) for i in range(4)
]  # other sizes and colours each
_words = st.text(st.sampled_from('ab 7\n"{}<>$é'), max_size=12)
_said = _words.filter(lambda text: bool(text.strip()))
_name = st.sampled_from(["camera.left", "camera.points", "other.tool", "plain", "odd name"])
_value = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | _words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_words, inner, max_size=2),
    max_leaves=4,
)
_call = st.builds(write_call, _name, st.dictionaries(_words, _value, max_size=3))
_broken = st.sampled_from(
    ["<tool_call>", "<tool_call>\n{}\n</tool_call>", "</tool_call>", "<image>"]
)
_reply = st.tuples(_words, st.integers(0, 2))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Message], list[ToolImage]]:
    """System, question, then assistant turns of any kind and the replies to them."""
    images: list[ToolImage] = []

    def user(text: str) -> Message:
        number = text.count(MARK)
        images.extend(PICTURES[(len(images) + i) % len(PICTURES)] for i in range(number))
        return Message(role="user", text=text, num_images=number)

    system = system_prompt(draw(_said), TOOLS.specs) if draw(st.booleans()) else draw(_said)
    messages = [Message(role="system", text=system), user(MARK * draw(st.integers(0, 2)) + "Q?")]
    for _ in range(draw(st.integers(0, 3))):
        parts = draw(st.lists(_call | _said | _broken, min_size=1, max_size=3))
        canonical = assistant_text(draw(_words), draw(st.lists(_call, min_size=1, max_size=3)))
        text = draw(st.sampled_from([canonical, "\n".join(parts), "".join(parts)]))
        messages.append(Message(role="assistant", text=text))
        number = draw(st.sampled_from([max(1, text.count("<tool_call>")), 1]))
        replies = draw(st.lists(_reply, min_size=number, max_size=number))
        messages.append(user(write_replies([MARK * n + words for words, n in replies])))
    return messages, images


def ask_of(messages: Sequence[Message], images: Sequence[ToolImage]) -> Ask:
    return Ask(
        model="toy",
        turns=tuple(native_turns(messages, images, TOOLS)),
        tools=TOOLS,
        sampling=SamplingParams(max_tokens=9),
        seed=1,
        image_format="png",
        kept={},
    )


def shown(data: str) -> str:
    """A picture as its pixels."""
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return f"[{np.asarray(image).shape} {np.asarray(image).ravel()[0]}]"


def expected(messages: Sequence[Message], images: Sequence[ToolImage]) -> list[tuple[str, str]]:
    """Roles and texts, pictures in the place of their marks."""
    rest = iter(images)
    turns: list[tuple[str, str]] = []
    for message in messages:
        text = TOOLS.without_section(message.text) if message.role == "system" else message.text
        if message.num_images:
            first, *others = text.split(MARK)
            seen = [f"[{(i := next(rest)).pixels.shape} {i.pixels.ravel()[0]}]{o}" for o in others]
            text = first + "".join(seen)
        turns.append((message.role, text))
    return turns


# ---- back -----------------------------------------------------------------------------------


def chat_back(body: dict[str, Any]) -> list[tuple[str, str]]:
    turns: list[tuple[str, str]] = []
    replies: list[str] = []
    for message in body["messages"]:
        role, content = message["role"], message["content"]
        parts = content if isinstance(content, list) else []
        if role == "tool":
            replies.append(content)
            continue
        if replies:
            joined = write_replies(replies)
            is_follow_up = bool(parts) and parts[0].get("text") == PICTURES_OF_REPLIES
            for part in parts[1:] if is_follow_up else []:
                data = part["image_url"]["url"].partition(",")[2]
                joined = joined.replace(MARK, shown(data), 1)
            turns.append(("user", joined))
            replies = []
            if is_follow_up:
                continue
        calls = [
            call_text(TOOLS.ours(call["function"]["name"]), call["function"]["arguments"])
            for call in message.get("tool_calls", [])
        ]
        said = "".join(
            part["text"] if part["type"] == "text" else shown(part["image_url"]["url"][22:])
            for part in parts
        )
        turns.append((role, assistant_text(said if parts else content or "", calls)))
    return [*turns, ("user", write_replies(replies))] if replies else turns


def messages_back(body: dict[str, Any]) -> list[tuple[str, str]]:
    turns = [("system", _blocks_back(body["system"]))]
    for message in body["messages"]:
        blocks = message["content"]
        results = [block for block in blocks if block["type"] == "tool_result"]
        rest = [block for block in blocks if block["type"] in ("text", "image")]
        calls = [
            call_text(TOOLS.ours(block["name"]), json.dumps(block["input"]))
            for block in blocks
            if block["type"] == "tool_use"
        ]
        if results:
            texts = [_blocks_back(block.get("content", [])) for block in results]
            turns.append(("user", write_replies(texts)))
        if rest or calls:
            turns.append((message["role"], assistant_text(_blocks_back(rest), calls)))
    return turns


def _blocks_back(blocks: list[dict[str, Any]]) -> str:
    return "".join(
        block["text"] if block["type"] == "text" else shown(block["source"]["data"])
        for block in blocks
    )


@settings(max_examples=300, deadline=None)
@given(conversations())
def test_a_conversation_comes_back_from_chat_completions(
    conversation: tuple[list[Message], list[ToolImage]],
) -> None:
    messages, images = conversation
    body = ChatCompletions().body(ask_of(messages, images))
    check_chat({"authorization": f"Bearer {KEY}"}, json.loads(json.dumps(body)))
    assert chat_back(body) == expected(messages, images)


@settings(max_examples=300, deadline=None)
@given(conversations())
def test_a_conversation_comes_back_from_messages(
    conversation: tuple[list[Message], list[ToolImage]],
) -> None:
    """But for blank text by itself, which the API refuses."""
    messages, images = conversation
    body = json.loads(json.dumps(Messages().body(ask_of(messages, images))))
    check_messages({"x-api-key": KEY, "anthropic-version": "2023-06-01"}, body)
    back, before = messages_back(body), expected(messages, images)
    assert [(role, "".join(text.split())) for role, text in back] == [
        (role, "".join(text.split())) for role, text in before
    ]


# ---- by hand --------------------------------------------------------------------------------


def test_native_where_it_is_exact_and_text_elsewhere() -> None:
    call = write_call("camera.points", {"num": 2})
    replies = Message(role="user", text=write_replies(["ok"]))

    def form(text: str, following: Message = replies) -> str:
        messages = [Message(role="user", text="Q"), Message(role="assistant", text=text), following]
        return type(native_turns(messages, [], TOOLS)[1]).__name__

    assert form(call) == form(f"Look.\n{call}") == "Called"
    assert form(f"Look. {call}") == form(f"{call}\nthen") == form("no call") == "Said"
    assert form(call.replace('"num": 2', '"num":2')) == "Said"
    assert form(write_call("odd name", {})) == "Said"
    assert form(call, Message(role="user", text="not a reply")) == "Said"
    assert form(call, Message(role="user", text=write_replies(["a", "b"]))) == "Said"


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        ('{"a":1}', '{"a": 1}'),
        ('{"a": [1, {"b": "<tool_call>"}]}', '{"a": [1, {"b": "<tool_call>"}]}'),
        ("{}", "{}"),
        ('{"a": 1', '{"a": 1'),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
        ("[]", "[]"),
    ],
)
def test_calls_in_our_syntax(sent: str, written: str) -> None:
    wanted = f'<tool_call>\n{{"name": "f.m", "arguments": {written}}}\n</tool_call>'
    assert call_text("f.m", sent) == wanted


def test_names_that_providers_would_not_take() -> None:
    parameters: dict[str, Json] = {"type": "object", "properties": {}}

    def tools(*names: str) -> NativeTools:
        return NativeTools(
            [ToolSpec(name=name, description="", parameters=parameters) for name in names]
        )

    assert tools("a__b.c").ours("a__b__c") == "a__b.c"
    with pytest.raises(ConfigError, match="give api"):
        tools("a.b c")
    with pytest.raises(ConfigError, match="each name once"):
        tools("a.b", "a__b")


def test_a_picture_is_encoded_once_and_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image = make_image(noise)
    first = pictures.encoded_picture(image, "png", 1 << 20)
    assert pictures.encoded_picture(make_image(noise.copy()), "png", 1 << 20) is first
    assert pictures.encoded_picture(image, "png", 12_000).media_type == "image/jpeg"
    assert pictures.encoded_picture(image, "jpeg", 1 << 20).media_type == "image/jpeg"
    with pytest.raises(ConfigError, match="make the picture smaller"):
        pictures.encoded_picture(image, "png", 100)
    monkeypatch.setattr(pictures, "_encode", None)
    assert pictures.encoded_picture(image, "png", 1 << 20) is first


def test_messages_of_several_kinds_keep_the_rules_of_the_api() -> None:
    call = write_call("camera.left", {"image_index": 0})
    messages = [
        Message(role="system", text="S"),
        Message(role="user", text=f"{MARK}\n{MARK} Q", num_images=2),
        Message(role="assistant", text=f"{call}\n{call}"),
        Message(role="user", text=write_replies([MARK, " "]), num_images=1),
    ]
    body = json.loads(json.dumps(Messages().body(ask_of(messages, PICTURES[:3]))))
    check_messages({"x-api-key": KEY, "anthropic-version": "2023-06-01"}, body)
    question, calls, results = (message["content"] for message in body["messages"])
    assert [block["type"] for block in question] == ["image", "image", "text"]
    assert [block["id"] for block in calls] == [block["tool_use_id"] for block in results]
    assert [block["type"] for block in results[0]["content"]] == ["image"]
    assert "content" not in results[1]
