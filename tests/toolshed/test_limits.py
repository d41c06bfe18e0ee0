"""Limits of what a model may send: each refusal names the field, the limit and the value."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolshed.fake_tools import picture
from toolshed import limits
from toolshed.arguments import check_arguments
from toolshed.chat import parse_calls, write_call
from toolshed.errors import ToolRefusal
from toolshed.registry import contract_of
from toolshed.sandbox.levels import Limits
from toolshed.tool import Method, methods_of
from toolshed.types import Json, Variable

GOOD = '<tool_call>{"name": "a.b", "arguments": {}}</tool_call>'
ROOT = Path(__file__).resolve().parents[2]


def method(dotted: str) -> Method:
    family, _, name = dotted.partition(".")
    return methods_of(contract_of(family, "light"))[name]


def refusal(dotted: str, **arguments: Json) -> str:
    with pytest.raises(ToolRefusal) as caught:
        check_arguments(method(dotted), arguments, images=[picture()], variables={"result": RESULT})
    assert caught.value.reason == "bad_argument" and len(caught.value.text) < 300
    return caught.value.text


RESULT = Variable(name="result", kind="list", value=[[0.5, 0.5]] * 300)


# ---- texts ------------------------------------------------------------------------------------


def test_calls_are_read_in_the_first_part_of_a_message_alone() -> None:
    filler = "x" * (limits.MESSAGE_CHARS - len(GOOD))
    assert len(parse_calls(filler + GOOD).calls) == 1
    for text in (filler + "x" * len(GOOD) + GOOD, f"{filler}{'x' * (len(GOOD) - 4)}{GOOD}"):
        found = parse_calls(text)
        (error,) = found.errors
        assert found.calls == () and error.reason == "excess" and error.end == len(text)
        assert f"has {len(text)} characters" in error.text and "65536" in error.text
    assert parse_calls("x" * 10**6).errors == ()


def test_a_call_that_is_too_long_is_malformed() -> None:
    text = write_call("a.b", {"code": "x" * 40_000})
    (error,) = parse_calls(text).errors
    assert error.reason == "malformed" and "32768" in error.text and "40043" in error.text
    assert (error.start, error.end) == (0, len(text))
    many = write_call("a.b", {"u": [1.5] * 10_000})
    assert "32768" in parse_calls(many).errors[0].text
    (cut,) = parse_calls(write_call("a.b", {"u": [1.5] * 20_000})).errors
    assert cut.reason == "excess" and "65536" in cut.text and cut.end > 65_536


def test_calls_per_turn() -> None:
    found = parse_calls(GOOD * 9)
    assert (len(found.calls), [each.reason for each in found.errors]) == (8, ["excess"])


@settings(max_examples=30, deadline=None)
@given(st.integers(65_400, 65_700), st.lists(st.sampled_from([GOOD, "<tool_call>", "x"])))
def test_the_border_of_a_message_breaks_nothing(size: int, rest: list[str]) -> None:
    text = "y" * size + "".join(rest)
    found = parse_calls(text)
    places = [(each.start, each.end) for each in found.calls]
    places = sorted(places + [(each.start, each.end) for each in found.errors])
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(places))
    assert bool(places) == ("<tool_call>" in text)


# ---- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"points": [[0.5, 0.5]] * 257}, ["points", "257 entries", "256"]),
        ({"points": "[" + "[0.5, 0.5]," * 256 + "[0.5, 0.5]]"}, ["points", "257 entries", "256"]),
        ({"points": "$result"}, ["points", "256 pairs, not 300"]),
        ({"points": [[0.5] * 200] * 6}, ["points[", "more than 1000 values"]),
        ({"points": "x" * 8193}, ["points", "8193 characters", "8192"]),
        ({"points": [["x" * 8000]] * 5}, ["points[", "32768 characters"]),
        ({"points": [[2**53 + 1, 0]]}, ["points[0][0]", "9007199254740993", "9007199254740992"]),
        ({"points": [[-(10**400), 0]]}, ["points[0][0]", "about 400 digits"]),
        ({"points": {"a": {"b" * 100: 10**17}}}, ["points.a.b", "allowed"]),
        ({"x" * 40_000: 1}, ["32768"]),
        ({str(number): 1 for number in range(300)}, ["an object of 301 entries"]),
    ],
)
def test_arguments_beyond_a_limit(arguments: dict[str, Json], words: list[str]) -> None:
    text = refusal("sam2.segment_from_points", **{"image_index": 0, **arguments})
    assert all(word in text for word in words), text


def nested(depth: int) -> Json:
    value: Json = 1
    for _ in range(depth):
        value = [value]
    return value


def test_depth() -> None:
    deepest = nested(limits.DEPTH - 1)
    limits.check_json({"points": deepest})
    text = refusal("sam2.segment_from_points", points=nested(limits.DEPTH), image_index=0)
    assert "17 levels deep" in text and "16" in text
    hostile: Json = nested(100_000)
    assert "levels deep" in refusal("sam2.segment_from_points", points=hostile, image_index=0)


def test_lists_of_a_million_are_refused_at_once() -> None:
    text = refusal("sam2.segment_from_points", points=[0] * 10**6, image_index=0)
    assert "1000000 entries" in text


def test_a_pose_and_a_small_mask_are_within_the_limits() -> None:
    pose: Json = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    checked = check_arguments(
        method("robot.execute_grasp"), {"grasp_pose": pose}, images=[], variables={}
    )
    np.testing.assert_array_equal(np.asarray(checked["grasp_pose"]), np.eye(4))
    mask: Json = [[True] * 30] * 30
    read = check_arguments(
        method("vision_ops.mask_crop"), {"mask": mask, "image_index": 0},
        images=[picture()], variables={},
    )  # fmt: skip
    assert np.asarray(read["mask"]).shape == (30, 30)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
def test_small_arguments_pass_unless_a_number_is_too_large(arguments: dict[str, Json]) -> None:
    try:
        limits.check_json(arguments)
    except ToolRefusal as refused:
        assert "integers from" in refused.text and re.search(r"\d{16,}|digits", refused.text)


@settings(max_examples=200)
@given(VALUES)
def test_whatever_is_written_is_taken_or_refused(value: Json) -> None:
    for dotted, field in (
        ("sam2.segment_from_points", "points"),
        ("vision_ops.index_at", "data"),
        ("visual_io.view_image", "image"),
        ("code_executor.exec", "variables"),
        ("calculator.add", "a"),
    ):
        try:
            check_arguments(
                method(dotted), {field: value}, images=[picture()], variables={"result": RESULT}
            )
        except ToolRefusal as refused:
            assert refused.text and len(refused.text) < 600


# ---- the page ---------------------------------------------------------------------------------


def test_the_page_has_the_numbers_of_the_code() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE))
    code = Limits()
    expected = {
        "Assistant message, scanned for calls": f"{limits.MESSAGE_CHARS:,} characters",
        "Calls in one turn": f"{limits.CALLS_PER_TURN}",
        "One call, and all of its arguments together": f"{limits.CALL_CHARS:,} characters",
        "Depth of the arguments": f"{limits.DEPTH}",
        "Values in the arguments of one call": f"{limits.NODES:,}",
        "One text": f"{limits.STRING_CHARS:,} characters",
        "A phrase, such as an object's name": f"{limits.TEXT_CHARS} characters",
        "Entries of one list or object": f"{limits.LIST_ENTRIES}",
        "Integers": f"from {-limits.INTEGER:,} to {limits.INTEGER:,}",
        "Tool calls that code may make": f"{limits.NESTED_CALLS}",
        "Levels of calls": f"{limits.CALL_DEPTH}",
        "Encoded": f"{limits.IMAGE_BYTES:,} bytes",
        "Decoded": f"{limits.IMAGE_PIXELS:,} pixels",
        "Frames": f"{limits.IMAGE_FRAMES}",
        "Formats": ", ".join(limits.IMAGE_FORMATS),
        "Sessions": f"{limits.CLIENT_SESSIONS}",
        "Pictures in one call": f"{limits.CALL_IMAGES}",
        "Pictures in one session, those that tools brought included": f"{limits.SESSION_IMAGES}",
        "Bytes of the pictures of one session": f"{limits.SESSION_IMAGE_BYTES:,}",
        "Bytes of the pictures of all sessions": f"{limits.SERVER_IMAGE_BYTES:,}",
        "Processor time": f"{code.cpu_s:g} s",
        "Wall time, tools that it calls included": f"{code.wall_s:g} s",
        "Memory": f"{code.memory_bytes >> 20} MB",
        "Processes and threads": f"{code.processes}",
        "Output": f"{code.output_bytes >> 20} MB",
        "Files": f"{code.disk_bytes >> 20} MB",
        "Result": f"{code.result_bytes >> 20} MB",
    }
    assert {name: rows.get(name) for name in expected} == expected


PAGE = (ROOT / "docs" / "SECURITY.md").read_text()
