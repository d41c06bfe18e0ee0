"""Whatever a model writes for an array, a light tool answers or refuses; it never breaks."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolshed.backends.light_boxes import LightBoxes
from toolshed.backends.light_grasping import LightGrasping
from toolshed.backends.light_robot import LightRobot
from toolshed.errors import ToolRefusal
from toolshed.shed import Toolshed
from toolshed.tabletop.render import render
from toolshed.tabletop.scene import DEMO, make_scene
from toolshed.tabletop.world import initial_state
from toolshed.tool import Method, Parameter
from toolshed.toolset import ToolSet
from toolshed.types import Json, ToolCall

METHODS = [
    method
    for method in ToolSet.named("light").methods.values()
    if any(each.role in ("array", "points", "point") for each in method.visible)
]
PICTURE = render(make_scene(0, DEMO)).image()
EXTREMES = [0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, -1e-12, 1e-3, 999.0, -1000.0, 1e6, 1e200, -1e308]
FLOATS = st.one_of(
    st.sampled_from(EXTREMES),
    st.floats(-1.0, 1.0),
    st.floats(-1000.0, 1000.0),
    st.floats(allow_nan=True, allow_infinity=True),
)
LEAVES = st.one_of(FLOATS, st.booleans(), st.sampled_from([10**400, -(10**19), None, "NaN", ""]))


@pytest.fixture(scope="module")
def shed() -> Iterator[Toolshed]:
    with Toolshed.open("light") as opened:
        yield opened


def nested(leaves: st.SearchStrategy[object], shape: tuple[int, ...]) -> st.SearchStrategy[object]:
    found = leaves
    for size in reversed(shape):
        found = st.lists(found, min_size=size, max_size=size)
    return found


def plane(near_m: float, step_m: float) -> object:
    """A cloud as a camera could see it, from nearer or farther than any camera does."""
    return [[step_m * x, step_m * y, near_m] for x in range(-6, 6) for y in range(-6, 6)]


def odd() -> st.SearchStrategy[object]:
    shapes = st.lists(st.integers(0, 4), min_size=0, max_size=4)
    array = shapes.flatmap(lambda shape: nested(LEAVES, tuple(shape)))
    texts = st.sampled_from(["", "[]", "[[NaN, 0, 1]]", "[[1e999, 0, 1]]", "$_world", "((("])
    return st.one_of(array, array.map(lambda value: json.dumps(value)), texts)


def literals(parameter: Parameter, side: int) -> st.SearchStrategy[object]:
    """Literals of the right shape with every kind of number, and such as fit nothing."""
    if parameter.role == "image":
        return st.just(0)
    if parameter.role == "number":
        return st.one_of(st.sampled_from([1.0, 0.5, 250.0, 100_000.0]), FLOATS)
    if parameter.role in ("points", "point"):
        pair = nested(st.one_of(st.floats(0.0, 1.0), FLOATS), (2,))
        return st.one_of(pair, st.lists(pair, max_size=4), odd())
    assert parameter.array is not None
    if parameter.array.booleans:
        whole = st.just(np.ones((side, side), dtype=bool).tolist())
        return st.one_of(whole, nested(st.booleans(), (side, side)), odd())
    shape = tuple(24 if size is None else size for size in parameter.array.shape)
    arrays = nested(FLOATS, shape), nested(st.floats(-1000.0, 1000.0), shape)
    planes = st.builds(plane, FLOATS, FLOATS)
    poses = st.builds(lambda each: (np.eye(4) * each).tolist(), FLOATS)
    return st.one_of(*arrays, poses if shape == (4, 4) else planes, odd())


@st.composite
def calls(draw: st.DrawFn, method: Method) -> ToolCall:
    side = draw(st.sampled_from([1, 2, 8, 24]))
    arguments = {each.schema_name: draw(literals(each, side)) for each in method.visible}
    # What a model writes has been through JSON, Python's with its NaN.
    sent: dict[str, Json] = json.loads(json.dumps(arguments))
    return ToolCall(id="id", name=method.dotted, arguments=sent)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method.dotted))
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_every_literal_is_answered_or_refused(
    shed: Toolshed, method: Method, data: st.DataObject
) -> None:
    result = asyncio.run(shed.session([PICTURE], scene=3).call(data.draw(calls(method))))
    assert result.status in ("ok", "refused")
    assert result.text and not any(word in result.text for word in ("inf", "nan]", "nan,"))


@pytest.mark.parametrize("value", [1e200, 1001.0, -1e300, math.nan, math.inf])
def test_numbers_beyond_sense_are_refused_with_the_range(shed: Toolshed, value: float) -> None:
    place = ToolCall(
        id="id",
        name="robot.place_object_at_3d_location",
        arguments={"placement_point_3d": [0.0, 0.0, value]},
    )
    result = asyncio.run(shed.session([PICTURE], scene=3).call(place))
    assert (result.status, result.reason) == ("refused", "bad_argument")
    assert "numbers from -1000 to 1000 of shape 3" in result.text


@settings(deadline=None, max_examples=60)
@given(nested(FLOATS, (24, 3)), st.sampled_from([1.0, 250.0, 1e5]), st.sampled_from([1, 8, 24]))
def test_back_ends_themselves_refuse_clouds_that_no_camera_saw(
    cloud: object, focal_length_px: float, side: int
) -> None:
    points, whole = np.array(cloud), np.ones((side, side), dtype=bool)
    try:
        box = LightBoxes().compute_bbox(points, whole, focal_length_px)
        assert np.isfinite(box.corners_m).all() and np.isfinite(box.corners_uv).all()
    except ToolRefusal:
        pass
    try:
        grasp = LightGrasping().compute_grasp(points, whole, focal_length_px, PICTURE)
        assert np.isfinite(grasp.pose).all() and np.isfinite(grasp.keypoints_uv).all()
    except ToolRefusal:
        pass


def test_a_small_cloud_of_huge_numbers_is_no_crash() -> None:
    for size in (1e200, 1e300, 1e-300, 5e-324):
        cloud = np.array([[size * x, size * y, size] for x in range(8) for y in range(8)])
        with pytest.raises(ToolRefusal, match="none of the 64 points"):
            LightBoxes().compute_bbox(cloud, np.ones((8, 8), dtype=bool), 100.0)


def test_the_robot_refuses_places_beyond_its_world() -> None:
    for value in (1e200, math.nan, -math.inf):
        with pytest.raises(ToolRefusal):
            LightRobot().execute_grasp(np.full((4, 4), value), initial_state(3))
        with pytest.raises(ToolRefusal):
            LightRobot().place_object_at_3d_location(np.full(3, value), initial_state(3))
