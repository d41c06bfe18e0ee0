"""Every format: what its rows become, and what is said of those that cannot be learned from."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sft.formats.llava import REFSPATIAL
from sft.formats.table import FORMATS, check_format, format_named, recognised
from sft.transcript import Reading, RejectedRow, Transcript
from toolshed.chat import parse_calls, write_replies
from toolshed.errors import ConfigError

ASKED: dict[str, Any] = {"from": "human", "value": "<image>Where is the cup?"}
SAID: dict[str, Any] = {"from": "gpt", "value": "<answer>left</answer>"}


def read(name: str, row: dict[str, Any], folder: Path = Path("/data"), **more: Any) -> Transcript:
    reading = Reading(path=folder / "set.json", images=folder, **more)
    return format_named(name).read(row, 3, reading)


def texts(transcript: Transcript) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in transcript.messages]


def rejected(name: str, row: dict[str, Any], **more: Any) -> str:
    with pytest.raises(RejectedRow) as told:
        read(name, row, **more)
    return told.value.reason


# ---- sharegpt -----------------------------------------------------------------------------------


def test_calls_and_replies_in_turns_of_their_own_are_written_as_models_write_them() -> None:
    call = {"name": "roborefer.detect_one", "arguments": {"obj_name": "Tasse ☕"}}
    turns = [
        ASKED,
        {"from": "thinking", "value": "I point."},
        {"from": "function_call", "value": json.dumps([call, call])},
        {"from": "observation", "value": "(0.1, 0.2)"},
        {"from": "observation", "value": "(0.3, 0.4)"},
        SAID,
    ]
    transcript = read("sharegpt", {"conversations": turns, "images": ["a.png"], "system": "Look."})
    said = texts(transcript)
    assert [role for role, _ in said] == ["system", "user", "assistant", "user", "assistant"]
    assert said[2][1].startswith("<think>I point.</think>\n<tool_call>\n")
    calls = parse_calls(said[2][1]).calls
    assert [each.arguments for each in calls] == [call["arguments"]] * 2
    assert said[3][1] == write_replies(["(0.1, 0.2)", "(0.3, 0.4)"])
    assert transcript.images[0].image == "/data/a.png"


def test_replies_and_calls_that_have_their_tags_stay_as_they_are() -> None:
    reply = "<tool_response>\nno cup\n</tool_response>"
    call = "<tool_call>\n{}\n</tool_call>"
    turns = [
        {"role": "user", "content": "Where?"},
        {"role": "function_call", "content": call},
        {"role": "observation", "content": reply},
        {"role": "assistant", "content": "<answer>nowhere</answer>"},
    ]
    said = texts(read("sharegpt", {"conversations": turns}, system="Be short."))
    assert said[0] == ("system", "Be short.")
    assert said[2:4] == [("assistant", call), ("user", reply)]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([ASKED, {"from": "function_call", "value": "{"}], "a function_call that is none"),
        (
            [ASKED, {"from": "function_call", "value": '{"name": 3}'}],
            "a function_call that is none",
        ),
        ([ASKED, SAID, SAID], "turns do not alternate"),
        ([ASKED], "no assistant turn to learn from"),
        ([ASKED, {"from": "gpt", "value": "\ud800"}], "half of a surrogate pair in a text"),
        ([ASKED, {"from": "gpt", "value": "<|im_end|>"}], "a token of the template in a text"),
        ([{"from": "human", "value": "hi"}, SAID], "image marks and images differ in number"),
        ([{"from": ["human"], "value": "hi"}, SAID], "a turn without a known tag and a text"),
    ],
)
def test_a_bad_conversation_is_rejected_for_one_reason(turns: list[Any], reason: str) -> None:
    assert rejected("sharegpt", {"conversations": turns, "images": ["a.png"]}) == reason


# ---- llava --------------------------------------------------------------------------------------


def refspatial(root: Path, part: str, name: str) -> Path:
    """A file of RefSpatial with one picture and its depth picture."""
    for folder in REFSPATIAL[part, name]:
        (root / part / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((56, 56, 3), np.uint8)).save(root / part / folder / "1.png")
    path = root / part / name
    row = {"image": "1.png", "depth": ["1.png"], "conversations": [ASKED, SAID]}
    path.write_text(json.dumps([row]))
    return path


@pytest.mark.parametrize(("part", "name"), REFSPATIAL)
def test_each_file_of_refspatial_knows_its_folders(tmp_path: Path, part: str, name: str) -> None:
    path = refspatial(tmp_path, part, name)
    row = json.loads(path.read_text())[0]
    form = format_named(recognised([row]))
    colour, depth = (tmp_path / part / folder for folder in REFSPATIAL[part, name])
    reading = form.roots(Reading(path=path, images=Path()))
    (shown,) = form.read(row, 0, reading).images
    assert Path(shown.image) == colour / "1.png" and Path(shown.image).exists()
    reading = form.roots(Reading(path=path, images=Path(), depth=Path("auto")))
    transcript = form.read(row, 0, reading)
    assert [Path(each.image).parent for each in transcript.images] == [colour, depth]
    assert texts(transcript)[1] == ("user", "<image> <image>\nWhere is the cup?")


def test_depth_folders_are_guessed_for_refspatial_alone(tmp_path: Path) -> None:
    reading = Reading(path=tmp_path / "other.json", images=Path(), depth=Path("auto"))
    with pytest.raises(ConfigError, match="knows the folders of RefSpatial alone"):
        format_named("llava").roots(reading)


def test_marks_are_set_anew_one_line_a_picture_before_the_first_question() -> None:
    turns = [
        {"from": "human", "value": "Is it <image> left of <image>?\n<depth>"},
        SAID,
        {"from": "human", "value": "<image>And now?"},
        SAID,
    ]
    said = texts(read("llava", {"image": ["a.png", "b.png"], "conversations": turns}))
    assert said[1] == ("user", "<image>\n<image>\nIs it left of?")
    assert said[3] == ("user", "And now?")


def test_what_vst_says_of_a_row_is_heeded() -> None:
    picture = {"bytes": None, "path": "a.png"}
    turns = [{"from": "human", "value": "Which is nearer?"}, SAID]
    row: dict[str, Any] = {"conversations": turns, "id": "x"}
    row |= {"images": [picture, picture], "type": "multi_image", "meta_info": "{}"}
    assert recognised([row]) == "llava"
    transcript = read("llava", row)
    assert transcript.messages[1].num_images == len(transcript.images) == 2
    assert rejected("llava", row | {"type": "si_video"}) == "a video"
    assert rejected("llava", row | {"type": "bbox_3d"}) == "a 3-D box of VST"
    assert not read("llava", row | {"type": "text", "images": []}).images


# ---- messages -----------------------------------------------------------------------------------


def test_parts_follow_each_other_as_chat_templates_render_them() -> None:
    uri = "data:image/png;base64," + base64.b64encode(b"x").decode()
    parts = [
        {"type": "image"},
        {"type": "text", "text": "and "},
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": "differ?"},
    ]
    rows = [
        {"role": "system", "content": "Look."},
        {"role": "user", "content": parts},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"function": {"name": "a.b", "arguments": '{"x": 1}'}}],
        },
        {"role": "tool", "content": "yes"},
        {"role": "tool", "content": [{"type": "text", "text": "no"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "They do."}]},
    ]
    transcript = read("messages", {"messages": rows, "images": ["a.png"]})
    assert [each.image for each in transcript.images] == ["/data/a.png", uri]
    said = texts(transcript)
    assert said[1] == ("user", "<image>and <image>differ?")
    assert said[2][1] == (
        'I look.\n<tool_call>\n{"name": "a.b", "arguments": {"x": 1}}\n</tool_call>'
    )
    assert said[3][1].count("<tool_response>") == 2 and said[4] == ("assistant", "They do.")


def test_messages_of_plain_texts_count_their_marks() -> None:
    rows = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "That."}]
    assert read("messages", {"messages": rows, "images": ["a.png"]}).messages[1].num_images == 1
    reason = "image marks and images differ in number"
    assert rejected("messages", {"messages": rows}) == reason
    assert rejected("messages", {"messages": rows, "images": ["a.png", "b.png"]}) == reason
    audio = [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}]
    assert rejected("messages", {"messages": audio}) == "a part of another type"


# ---- verl ---------------------------------------------------------------------------------------

QUESTION = "Where is the cup?"
CALL = '<tool_call>\n{"name": "a.b", "arguments": {}}\n</tool_call>'
REPLY = "<tool_response>\n(0.1, 0.2)\n</tool_response>"


def test_dumps_are_read_with_the_templates_tokens_and_without() -> None:
    plain: dict[str, Any] = {
        "input": f"system\nLook.\nuser\n{QUESTION}\nassistant\n",
        "output": f"{CALL}\nuser\n{REPLY}\nassistant\n<answer>left</answer>",
        "image": "a.png",
        "gts": "left",
        "score": 1.0,
        "uid": "u7",
    }
    turns = [("system", "Look."), ("user", "<|image_pad|>" + QUESTION), ("assistant", CALL),
             ("user", REPLY)]  # fmt: skip
    tagged: dict[str, Any] = plain | {
        "input": "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
        + "<|im_start|>assistant\n",
        "output": "<answer>left</answer><|im_end|><|endoftext|>",
    }
    first, second = read("verl", plain), read("verl", tagged)
    assert recognised([plain]) == recognised([tagged]) == "verl"
    assert texts(first) == texts(second)
    assert texts(first)[1:] == [
        ("user", "<image>" + QUESTION),
        ("assistant", CALL),
        ("user", REPLY),
        ("assistant", "<answer>left</answer>"),
    ]
    assert (first.id, first.source) == ("u7", "set")


def test_a_dump_whose_turns_cannot_be_told_is_rejected() -> None:
    row = {"input": f"user\n{QUESTION}\nassistant\n", "output": "yes", "score": 1}
    assert read("verl", row)
    reason = "an input that cannot be parted into turns"
    assert rejected("verl", row | {"input": QUESTION}) == reason
    assert rejected("verl", row | {"input": "user\na\nuser\nb\nassistant\n"}) == reason
    reason = "an output that cannot be parted into turns"
    assert rejected("verl", row | {"output": "a\nuser\nb"}) == reason
    assert rejected("verl", row | {"output": None}) == "no input and output"


# ---- which one ----------------------------------------------------------------------------------


def test_formats_are_told_by_their_content() -> None:
    talk: Any = [ASKED, SAID]
    assert recognised([{"conversations": talk}]) == "sharegpt"
    assert recognised([{"conversations": talk}, {"conversations": talk, "image": "a"}]) == "llava"
    assert recognised([{"messages": []}]) == "messages"
    assert recognised([{"question": "?"}]) == ""


def test_every_format_has_what_the_table_asks_for() -> None:
    for name in FORMATS:
        form = format_named(name)
        assert not form.fits({}) and callable(form.read) and callable(form.roots)
    with pytest.raises(ConfigError, match="did you mean sharegpt"):
        check_format("sharegtp")


WORDS = ["conversations", "messages", "images", "image", "from", "value", "role", "content", "type",
         "human", "gpt", "function_call", "tool_calls", "function", "name", "arguments", "input",
         "output", "text", "<image>", "url", "{}"]  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(WORDS), ANYTHING, max_size=5), st.sampled_from([*FORMATS]))
@settings(max_examples=300, deadline=None)
def test_whatever_a_row_holds_it_is_read_or_rejected(row: dict[str, Any], name: str) -> None:
    recognised([row])
    try:
        transcript = read(name, row)
    except RejectedRow as wrong:
        assert wrong.reason and str(wrong)
    else:
        assert sum(turn.num_images for turn in transcript.messages) == len(transcript.images)


def test_thoughts_and_old_calls_of_messages_are_kept_and_empty_turns_rejected() -> None:
    asked = {"role": "user", "content": "Where?"}
    call = {"name": "f", "arguments": '{"a": 1}'}
    said = {"role": "assistant", "content": None, "function_call": call}
    told = {"role": "tool", "content": "(0.1, 0.2)"}
    last = {"role": "assistant", "content": "There.", "reasoning_content": "It points."}
    turns = texts(read("messages", {"messages": [asked, said, told, last]}))
    assert [each.name for each in parse_calls(turns[2][1]).calls] == ["f"]
    assert turns[4][1].startswith("<think>It points.</think>") and turns[4][1].endswith("There.")
    silent = {"messages": [asked, {"role": "assistant", "content": None}]}
    assert rejected("messages", silent) == "an assistant turn that says nothing"
