"""Conversations in the forms of training sets: what stays, what is written how, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sft.data import load_transcripts
from toolshed import formats
from toolshed.chat import answer_of, parse_calls
from toolshed.errors import ConfigError
from toolshed.schemas import dotted, mangled, schemas_of
from toolshed.types import Json

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ARGUMENTS: dict[str, Json] = {"obj_name": "cup", "image_index": 0}
OPENAI: list[dict[str, Json]] = [
    {"role": "system", "content": "Be exact."},
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": "scene.png"}},
            {"type": "text", "text": "Where is the cup?"},
        ],
    },
    {
        "role": "assistant",
        "content": "I look for it.",
        "tool_calls": [
            {
                "id": "c0",
                "type": "function",
                "function": {"name": "roborefer__detect_one", "arguments": json.dumps(ARGUMENTS)},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c0", "content": "[(0.25, 0.50)]"},
    {"role": "user", "content": [{"type": "image", "image": "after.png"}]},
    {"role": "assistant", "content": "It is there.\n<answer>(0.25, 0.50)</answer>"},
]
ANTHROPIC: list[dict[str, Json]] = [
    OPENAI[0],
    {
        "role": "user",
        "content": [
            {"type": "image", "source": {"type": "url", "url": "scene.png"}},
            {"type": "text", "text": "Where is the cup?"},
        ],
    },
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "I look for it."},
            {"type": "tool_use", "id": "c0", "name": "roborefer__detect_one", "input": ARGUMENTS},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c0", "content": "[(0.25, 0.50)]"},
            {"type": "image", "path": "after.png"},
        ],
    },
    OPENAI[5],
]
CALL = (
    '<tool_call>\n{"name": "roborefer.detect_one", "arguments": '
    '{"obj_name": "cup", "image_index": 0}}\n</tool_call>'
)
SIMPLE = [
    {"from": "user", "value": "<image>\nWhere is the cup?"},
    {"from": "assistant", "value": f"<think>I look for it.</think>\n{CALL}"},
    {
        "from": "user",
        "value": "<tool_response>\n[(0.25, 0.50)]\n</tool_response>\n<image>",
    },
    {
        "from": "assistant",
        "value": "<think>It is there.</think>\n<answer>(0.25, 0.50)</answer>",
    },
]


@pytest.mark.parametrize("messages", [OPENAI, ANTHROPIC])
def test_the_simple_form_has_user_and_assistant_alone(messages: list[dict[str, Json]]) -> None:
    row = formats.convert_messages_to_sharegpt_simple(messages)
    assert row["conversations"] == SIMPLE
    assert (row["system"], row["images"], row["tools"]) == (
        "Be exact.",
        ["scene.png", "after.png"],
        "[]",
    )
    assert list(row) == ["conversations", "system", "images", "tools"]


@pytest.mark.parametrize("messages", [OPENAI, ANTHROPIC])
def test_sharegpt_has_a_turn_for_each_kind_of_thing(messages: list[dict[str, Json]]) -> None:
    turns = formats.convert_messages_to_sharegpt(messages)
    assert [turn["from"] for turn in turns] == [
        "system",
        "user",
        "assistant",
        "function_call",
        "observation",
        "user",
        "assistant",
    ]
    assert turns[1]["value"] == "<image>\nWhere is the cup?"
    assert json.loads(turns[3]["value"]) == {"name": "roborefer.detect_one", "arguments": ARGUMENTS}


def test_thoughts_have_a_turn_and_tags() -> None:
    thought: dict[str, Json] = {"type": "thinking", "thinking": "hm"}
    messages: list[dict[str, Json]] = [
        OPENAI[0],
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [thought]},
    ]
    assert formats.convert_messages_to_sharegpt(messages)[2] == {"from": "thinking", "value": "hm"}
    row = formats.convert_messages_to_sharegpt_simple(messages)
    assert row["conversations"] == [
        {"from": "user", "value": "x"},
        {"from": "assistant", "value": "<think>hm</think>"},
    ]


@pytest.mark.parametrize("messages", [OPENAI, ANTHROPIC])
def test_verl_has_items_and_calls(messages: list[dict[str, Json]]) -> None:
    turns = formats.convert_messages_to_verl(messages)
    assert turns[1]["content"] == [
        {"type": "image", "image": "scene.png"},
        {"type": "text", "text": "Where is the cup?"},
    ]
    assert turns[2]["tool_calls"] == [{"name": "roborefer.detect_one", "args": ARGUMENTS}]
    assert turns[3] == {
        "role": "tool",
        "content": [{"type": "text", "text": "[(0.25, 0.50)]"}],
        "tool_call_id": "c0",
    }
    assert [turn["role"] for turn in turns] == [
        "system",
        "user",
        "assistant",
        "tool",
        "user",
        "assistant",
    ]
    # What came out is a conversation again.
    assert formats.convert_messages_to_verl(turns) == turns
    assert formats.convert_messages_to_sharegpt(turns) == formats.convert_messages_to_sharegpt(
        messages
    )


def test_base64_is_removed_for_verl_and_is_no_path() -> None:
    data = {"type": "base64", "media_type": "image/png", "data": PIXEL.partition(",")[2]}
    for item in (
        {"type": "image_url", "image_url": {"url": PIXEL}},
        {"type": "image", "source": data},
    ):
        message: dict[str, Json] = {"role": "user", "content": [item]}  # type: ignore[list-item]
        assert formats.convert_messages_to_verl([message])[0]["content"] == [{"type": "image"}]
        assert formats.extract_image_path_from_message(message) is None
        row = formats.convert_messages_to_sharegpt_simple([OPENAI[0], message])
        assert row["images"] == [PIXEL]


def test_paths_come_in_the_order_of_the_pictures() -> None:
    shown: dict[str, Json] = {
        "role": "tool",
        "tool_call_id": "c",
        "content": [{"type": "image", "image": "file:///seen.png"}],
    }
    messages = [*OPENAI, shown]
    assert formats.extract_all_image_paths_from_messages(messages) == [
        "scene.png",
        "after.png",
        "/seen.png",
    ]
    assert formats.extract_image_path_from_message(shown) == "/seen.png"
    assert formats.extract_image_path_from_message(OPENAI[0]) is None


WRONG: list[tuple[list[dict[str, Json]], str]] = [
    ([{"role": "user", "content": [{"type": "audio"}]}], "type 'audio'"),
    ([{"role": "robot", "content": "x"}], "role 'robot'"),
    ([{"role": "user", "content": 3}], "neither text nor a list"),
    ([{"role": "user", "content": [{"type": "image"}]}], "has no picture"),
    ([{"role": "assistant", "tool_calls": [{"name": "a.b", "args": "{"}]}], "no JSON"),
    ([{"role": "assistant", "tool_calls": [{"args": {}}]}], "is none"),
    ([{"role": "assistant", "tool_calls": "x"}], "no list"),
]


@pytest.mark.parametrize(("messages", "told"), WRONG)
def test_what_cannot_be_converted_is_named(messages: list[dict[str, Json]], told: str) -> None:
    for convert in (formats.convert_messages_to_verl, formats.convert_messages_to_sharegpt):
        with pytest.raises(ConfigError, match=told):
            convert(messages)


@pytest.mark.parametrize("systems", [0, 2])
def test_there_is_exactly_one_system_message(systems: int) -> None:
    with pytest.raises(ValueError, match=f"{systems} system messages"):
        formats.convert_messages_to_sharegpt_simple([OPENAI[0]] * systems + OPENAI[1:])


def test_pictures_and_marks_must_agree() -> None:
    with pytest.raises(ConfigError, match="2 <image> marks for 1 images"):
        formats.convert_messages_to_sharegpt_simple(OPENAI, ["scene.png"])


def test_schemas_of_any_form_become_one_under_dotted_names() -> None:
    texts = [
        formats.convert_tool_schemas_to_simple_format(
            [each for each in schemas_of("light", form, mangle=True) if isinstance(each, Mapping)]
        )
        for form in ("openai", "anthropic", "mcp")
    ]
    assert texts[0] == texts[1] == texts[2]
    assert json.loads(texts[0]) == schemas_of("light", "openai")
    assert texts[0].startswith('[\n  {\n    "type"')
    with pytest.raises(ConfigError, match="no name"):
        formats.convert_tool_schemas_to_simple_format([{"type": "function"}])


@given(
    st.from_regex(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", fullmatch=True),
    st.from_regex(r"[a-z_]+", fullmatch=True),
)
def test_names_survive_the_loss_of_their_dot(family: str, method: str) -> None:
    name = f"{family}.{method}"
    assert "." not in mangled(name)
    assert dotted(mangled(name)) == name == formats.convert_tool_name(name)


# ---- what SFT reads -------------------------------------------------------------------------

_SAID = st.text(st.characters(blacklist_characters="<>|$", blacklist_categories=["Cs"]), min_size=1)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | _SAID,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_SAID, inner, max_size=3),
    max_leaves=5,
)
_CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["sam2.segment_from_point", "vlm__detect_one"]),
            "args": st.dictionaries(_SAID, _JSON, max_size=3),
        }
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=50, deadline=None)
@given(question=_SAID, thought=_SAID, calls=_CALLS, reply=_SAID, answer=_SAID)
def test_sft_reads_back_what_was_said_called_and_answered(
    tmp_path_factory: pytest.TempPathFactory,
    question: str,
    thought: str,
    calls: list[Json],
    reply: str,
    answer: str,
) -> None:
    folder = tmp_path_factory.mktemp("row")
    Image.new("RGB", (4, 4)).save(folder / "scene.png")
    replies: list[dict[str, Json]] = [{"role": "tool", "content": reply} for _ in calls]
    messages: list[dict[str, Json]] = [
        {"role": "system", "content": "given"},
        {"role": "user", "content": [{"type": "image", "image": "scene.png"}, question]},
        {"role": "assistant", "content": thought, "tool_calls": calls},
        *replies,
        {"role": "assistant", "content": f"<answer>{answer}</answer>"},
    ]
    row = formats.build_training_example(
        messages, "t1", 3, 0.5, system_prompt_override="override", source="set"
    )
    assert list(row)[:3] == ["task_id", "dataset_index", "score"] and row["score"] == 0.5
    file = folder / "rows.json"
    file.write_text(json.dumps([row]), encoding="utf-8")
    (transcript,) = load_transcripts(file)
    assert (transcript.id, transcript.source) == ("t1", "set")
    system, asked, acted, replied, ended = transcript.messages
    assert (system.role, system.text) == ("system", "override")
    assert (asked.text, asked.num_images) == (f"<image>\n{question}", 1)
    parsed = parse_calls(acted.text)
    assert not parsed.errors
    expected = [(formats.convert_tool_name(each["name"]), each["args"]) for each in calls]  # type: ignore[index,call-overload,arg-type]
    assert [(each.name, each.arguments) for each in parsed.calls] == expected
    assert replied.text.count(f"<tool_response>\n{reply}\n</tool_response>") == len(calls)
    assert answer_of(ended.text) == answer.strip()
