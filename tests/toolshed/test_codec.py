"""The neutral form: exact there and back, no copies, and nothing but CodecError for other bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from toolshed.codec import (
    FRAME_START,
    CodecError,
    Packed,
    frame_lengths,
    from_frame,
    pack,
    to_frame,
    unpack,
)
from toolshed.images import make_image
from toolshed.tabletop.state import WorldState
from toolshed.tools.robot import RobotReply
from toolshed.types import DepthEstimate, Detections, Point, TextReply, ToolImage, Variable

DTYPES = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    npst.complex_number_dtypes(endianness="?", sizes=(64, 128)),
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: npst.arrays(
        dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)
TEXTS = st.text(st.characters(), max_size=8)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
VALUES = st.recursive(
    st.one_of(PLAIN, st.binary(max_size=9), ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(TEXTS, st.just("~")), inner, max_size=4),
    ),
    max_leaves=12,
)


def through_frame(value: object) -> Any:
    stream = b"".join(bytes(piece) for piece in to_frame(value))
    header, buffers = frame_lengths(stream[:FRAME_START])
    assert len(stream) == FRAME_START + header + buffers
    return from_frame(stream[FRAME_START:][:header], stream[FRAME_START + header :])


def same(one: Any, other: Any) -> bool:
    """Equal in type and in every bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return bool(
            one.dtype.str == other.dtype.str
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    return bool(one == other)


# ---- there and back ----------------------------------------------------------------------------


@given(VALUES)
def test_values_come_back_exactly_through_a_frame(value: object) -> None:
    assert same(through_frame(value), value)


@given(VALUES)
def test_values_come_back_exactly_out_of_band(value: object) -> None:
    assert same(unpack(pack(value)), value)


@given(ARRAYS, st.data())
def test_strided_arrays_come_back_exactly(array: np.ndarray, data: st.DataObject) -> None:
    steps = tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1]))) for _ in array.shape)
    axes = data.draw(st.permutations(range(array.ndim)))
    index: Any = (..., *steps)
    strided = array[index].transpose(axes)
    assert same(through_frame({"a": strided})["a"], strided.copy())


def test_carriers_come_back_as_themselves() -> None:
    image = make_image(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    kept = Variable(name="picture", kind="image", value=image)
    back = through_frame(TextReply(text="seen", variables=(kept,), images=(image,)))
    assert type(back) is TextReply and back.images[0].sha256 == image.sha256
    picture = back.variables[0].value
    assert isinstance(picture, ToolImage) and np.array_equal(picture.pixels, image.pixels)
    assert through_frame(Detections(obj_name="cup", points=(Point(u=0.5, v=1.0),))) == Detections(
        obj_name="cup", points=(Point(u=0.5, v=1.0),)
    )


def test_a_robots_reply_brings_its_world() -> None:
    world = WorldState(
        seed=3, style="plain", physics=np.arange(4.0), positions_m={"a": (1.0, 2.0, 3.0)}
    )
    back = through_frame(RobotReply(value=TextReply(text="moved"), world=world)).world
    assert (back.seed, back.positions_m) == (3, {"a": (1.0, 2.0, 3.0)})
    assert np.array_equal(back.physics, world.physics)


def test_numbers_of_numpy_become_plain_ones() -> None:
    value = [np.float32(0.5), np.int64(7), np.bool_(True), np.str_("x")]
    assert through_frame(value) == [0.5, 7, True, "x"]
    assert [type(each) for each in through_frame(value)] == [float, int, bool, str]


# ---- copies ------------------------------------------------------------------------------------


def test_a_whole_array_is_not_copied_on_either_side() -> None:
    array = np.arange(1000, dtype=np.float32).reshape(10, 100)
    assert any(
        np.shares_memory(np.frombuffer(piece, np.uint8), array)
        for piece in to_frame(array)
        if isinstance(piece, memoryview)
    )
    assert np.shares_memory(unpack(pack(array)), array)


def test_received_arrays_are_views_that_nobody_can_write() -> None:
    pieces = to_frame([np.arange(3, dtype=np.int8), np.arange(5.0)])
    header, body = bytes(pieces[1]), bytearray(b"".join(bytes(each) for each in pieces[2:]))
    small, large = from_frame(header, body)
    assert np.shares_memory(large, np.frombuffer(body, np.uint8))
    assert large.flags.aligned
    for array in (small, large, through_frame(np.zeros((0, 3)))):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1


def test_an_array_that_is_met_twice_travels_once() -> None:
    array = np.ones((100, 100))
    assert pack([array, {"again": array}]).num_bytes == array.nbytes


def test_what_stands_for_an_absent_buffer_is_asked_for() -> None:
    packed = pack({"a": np.zeros((2, 3), ">f4"), "b": np.ones(2)})
    found = unpack(Packed(tree=packed.tree, buffers=[None, packed.buffers[1]]), lambda *told: told)
    assert found["a"] == (">f4", (2, 3), 0)
    assert found["b"].tolist() == [1.0, 1.0]


# ---- what cannot be sent -----------------------------------------------------------------------


def endless() -> list[object]:
    inner: list[object] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        {1: "a"},
        1j,
        np.array([object()]),
        np.array(["text"]),
        np.zeros(2, [("a", "f4")]),
        np.array(["2026-01-01"], "M8[D]"),
        np.longdouble(1),
        np.datetime64("2026-01-01"),
        np.ma.masked_array([1, 2], mask=[True, False]),
        10**5000,
        endless(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_sent_is_said_at_once(value: object) -> None:
    with pytest.raises(CodecError):
        to_frame(value)


# ---- bytes of others ---------------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(
        PLAIN, st.integers(-2, 2**70), st.sampled_from(["array", "tuple", "<f4", "|O", "f4"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["~", "items", "dtype", "shape", "buffer", "points", "obj_name"]),
            inner,
            max_size=4,
        ),
        st.fixed_dictionaries(
            {
                "~": st.sampled_from(["array", "map", "tuple", "bytes", "Point", "DepthEstimate"]),
                "dtype": st.sampled_from(["<f4", "|b1", "|O", "(3,)f4", "f4,f4", ">c8"]),
                "shape": st.lists(st.integers(-1, 2**70), max_size=3),
                "buffer": st.integers(-1, 3),
            }
        ),
    ),
    max_leaves=10,
)


@settings(max_examples=400)
@given(JSON, st.lists(st.integers(0, 40), max_size=3), st.binary(max_size=200))
def test_any_tree_is_a_value_or_a_codec_error(tree: object, sizes: list[int], body: bytes) -> None:
    header = json.dumps({"version": 1, "tree": tree, "sizes": sizes}).encode()
    try:
        from_frame(header, body)
    except CodecError:
        return


@settings(max_examples=400)
@given(VALUES, st.data())
def test_a_damaged_frame_is_a_value_or_a_codec_error(value: object, data: st.DataObject) -> None:
    stream = bytearray(b"".join(bytes(piece) for piece in to_frame(value)))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        header, _ = frame_lengths(bytes(stream[:FRAME_START]))
        from_frame(
            bytes(stream[FRAME_START : FRAME_START + header]), stream[FRAME_START + header :]
        )
    except CodecError:
        return


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_any_bytes_are_a_codec_error(header: bytes, body: bytes) -> None:
    with pytest.raises(CodecError):
        from_frame(header, body)


@pytest.mark.parametrize(
    "tree",
    [
        {"~": "array", "dtype": "O", "shape": [1], "buffer": 0},
        {"~": "array", "dtype": None, "shape": [1], "buffer": 0},
        {"~": "array", "dtype": "<f8", "shape": [2], "buffer": 0},
        {"~": "array", "dtype": "<f8", "shape": [10**30, 0], "buffer": 0},
        {"~": "array", "dtype": "<f8", "shape": [1] * 99, "buffer": 0},
        {"~": "array", "dtype": "<f8", "shape": [1], "buffer": 1},
        {"~": "array", "dtype": "<f8", "shape": [1], "buffer": True},
        {"~": "array", "dtype": "<f8", "shape": [-1], "buffer": 0},
        {"~": "Family"},
        {"~": "Stored"},
        {"~": ["Point"]},
        {"~": None},
        {"~": "Point", "u": 0.0},
        {"~": "Point", "u": 0.0, "v": 0.0, "w": 0.0},
        {"~": "tuple"},
        {"~": "map", "items": []},
        {"~": "DepthEstimate", "depth_m": "no array", "focal_length_px": 1.0},
    ],
    ids=str,
)
def test_a_tree_that_lies_is_a_codec_error(tree: object) -> None:
    header = json.dumps({"version": 1, "tree": tree, "sizes": [8]}).encode()
    with pytest.raises(CodecError):
        from_frame(header, bytes(8))


def test_depth_of_nesting_is_no_crash() -> None:
    header = b'{"version": 1, "sizes": [], "tree": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(CodecError):
        from_frame(header, b"")


@pytest.mark.parametrize(
    "start", [b"", b"TSF1", b"JUNK" + bytes(12), b"TSF1" + b"\xff" * 12], ids=repr
)
def test_what_is_no_frame_is_not_read(start: bytes) -> None:
    with pytest.raises(CodecError):
        frame_lengths(start)


def test_a_frame_of_another_version_is_refused_by_its_number() -> None:
    with pytest.raises(CodecError, match="version 9; this side speaks 1"):
        from_frame(b'{"version": 9, "tree": null, "sizes": []}', b"")


def test_a_depth_estimate_keeps_what_was_computed_where_it_was_made() -> None:
    estimate = DepthEstimate(depth_m=np.array([[0.0, 2.0]], np.float32), focal_length_px=5.0)
    back = through_frame(estimate)
    assert back.known == estimate.known and back.points is None
