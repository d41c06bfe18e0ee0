"""Contracts become specs; arguments are taken strictly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.toolshed.fake_tools import picture
from toolshed.arguments import check_arguments
from toolshed.errors import ConfigError, ToolRefusal
from toolshed.registry import FAMILIES, contract_of
from toolshed.tool import Family, Method, methods_of, specs_of, tool
from toolshed.toolset import ToolSet
from toolshed.types import Json, Point, Variable

VARIABLES = {
    "depth_map": Variable(name="depth_map", kind="depth_map", value=np.ones((4, 4))),
    "point_cloud": Variable(name="point_cloud", kind="point_cloud", value=np.ones((5, 3))),
    "segmentation_mask": Variable(
        name="segmentation_mask", kind="mask", value=np.ones((4, 4), dtype=bool)
    ),
    "focal_length_px": Variable(name="focal_length_px", kind="number", value=200.0),
    "cup_detections": Variable(name="cup_detections", kind="points", value=(Point(u=0.25, v=0.5),)),
    "obb_corners_2d": Variable(
        name="obb_corners_2d", kind="points", value=np.array([[0.1, 0.2], [1.5, 0.2]])
    ),
    "_world": Variable(name="_world", kind="world", value=object()),
}


def method(dotted: str) -> Method:
    family, _, name = dotted.partition(".")
    return methods_of(contract_of(family, "light"))[name]


def check(dotted: str, **arguments: Json) -> dict[str, object]:
    return check_arguments(method(dotted), arguments, images=[picture()], variables=VARIABLES)


def refusal(dotted: str, **arguments: Json) -> ToolRefusal:
    with pytest.raises(ToolRefusal) as caught:
        check(dotted, **arguments)
    return caught.value


def test_schema_puts_the_picture_last_and_hides_the_world() -> None:
    (grasp,) = specs_of(contract_of("grasp_generator", "light"))
    properties = grasp.parameters["properties"]
    assert isinstance(properties, dict)
    assert list(properties) == ["point_cloud", "mask", "focal_length_px", "image_index"]
    assert grasp.parameters["required"] == list(properties)
    types = [each["type"] for each in properties.values() if isinstance(each, dict)]
    assert types == ["string", "string", "number", "integer"]
    (capture,) = specs_of(contract_of("robot", "light"), ["capture_image"])
    assert capture.parameters == {"type": "object", "properties": {}, "required": []}


def test_every_tool_and_argument_is_described() -> None:
    assert len(ToolSet.named("light").specs) == 17
    specs = [
        spec
        for name in FAMILIES
        for spec in specs_of(contract_of(name, "light"), [*methods_of(contract_of(name, "light"))])
    ]
    assert len(specs) > 30
    for spec in specs:
        properties = spec.parameters["properties"]
        assert spec.description and isinstance(properties, dict)
        for each in properties.values():
            assert isinstance(each, dict)
            assert not str(each["description"]).startswith("Parameter ")


def test_specs_of_unknown_method_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="detect_all, detect_one"):
        specs_of(contract_of("roborefer", "light"), ["detect_two"])


def test_contract_without_docstring_or_with_a_strange_annotation_is_refused() -> None:
    class Silent(Family):
        name = "silent"

        @tool
        def act(self) -> None: ...

    class Strange(Family):
        name = "strange"

        @tool
        def act(self, what: set[int]) -> None:
            """Act."""

    for contract in (Silent, Strange):
        with pytest.raises(ConfigError):
            specs_of(contract)


def test_references_become_values() -> None:
    found = check(
        "bounding_box.compute_bbox",
        point_cloud="$point_cloud",
        mask="$segmentation_mask",
        focal_length_px="$focal_length_px",
    )
    assert found["point_cloud"] is VARIABLES["point_cloud"].value
    assert found["focal_length_px"] == 200.0
    points = check("sam2.segment_from_points", points="$cup_detections", image_index=0)["points"]
    assert points == [Point(u=0.25, v=0.5)]


@pytest.mark.parametrize(
    "literal", [[[0.25, 0.5]], "[[0.25, 0.5]]", "[(0.25, 0.5)]", " [ (2.5e-1, 0.5) ] "]
)
def test_points_may_be_literal(literal: Json) -> None:
    found = check("sam2.segment_from_points", points=literal, image_index=0)
    assert found["points"] == [Point(u=0.25, v=0.5)]


def test_one_point_and_literal_arrays() -> None:
    spellings: list[Json] = [[0.25, 1], "(0.25, 1)", [[0.25, 1.0]]]
    for written in spellings:
        found = check("robot.place_object_at_2d_location", placement_point_2d=written)
        assert found == {"placement_point_2d": Point(u=0.25, v=1.0)}
    place = check("robot.place_object_at_3d_location", placement_point_3d=[0.1, -1, 2])
    np.testing.assert_array_equal(np.asarray(place["placement_point_3d"]), [0.1, -1, 2])
    rows: list[Json] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    pose = check("robot.execute_grasp", grasp_pose=rows)["grasp_pose"]
    np.testing.assert_array_equal(np.asarray(pose), np.eye(4))


@pytest.mark.parametrize(
    ("dotted", "arguments", "reason", "words"),
    [
        ("roborefer.detect_one", {"obj_name": "x"}, "missing_argument", ["image_index"]),
        (
            "roborefer.detect_one",
            {"obj_name": "x", "image_index": 0, "size": 3},
            "unknown_argument",
            ["size", "3", "obj_name, image_index"],
        ),
        ("roborefer.detect_one", {"obj_name": 3, "image_index": 0}, "bad_argument", ["obj_name"]),
        ("roborefer.detect_one", {"obj_name": " ", "image_index": 0}, "bad_argument", ["text"]),
        (
            "roborefer.detect_one",
            {"obj_name": "$depth_map", "image_index": 0},
            "bad_argument",
            ["obj_name", "$depth_map"],
        ),
        (
            "roborefer.detect_one",
            {"obj_name": "x", "image_index": 1},
            "bad_image_index",
            ["image_index=1 but only 1 images available in conversation"],
        ),
        (
            "roborefer.detect_one",
            {"obj_name": "x", "image_index": -1},
            "bad_image_index",
            ["image_index=-1 but"],
        ),
        ("roborefer.detect_one", {"obj_name": "x", "image_index": 0.0}, "bad_argument", ["0.0"]),
        ("roborefer.detect_one", {"obj_name": "x", "image_index": True}, "bad_argument", ["true"]),
        ("roborefer.detect_one", {"obj_name": "x", "image_index": "0"}, "bad_argument", ['"0"']),
        (
            "vision_ops.index_at",
            {"data": "$depth_map", "u": 1.01, "v": 0},
            "bad_argument",
            ["u: got 1.01", "0 to 1"],
        ),
        ("vision_ops.index_at", {"data": "$depth_map", "u": "0.5", "v": 0}, "bad_argument", ["u"]),
        ("vision_ops.index_at", {"data": "$depth_map", "u": True, "v": 0}, "bad_argument", ["u"]),
        ("vision_ops.index_at", {"data": "$depth_map", "u": None, "v": 0}, "bad_argument", ["u"]),
        (
            "vision_ops.index_at",
            {"data": "$nothing", "u": 0, "v": 0},
            "unknown_variable",
            ["data", "$nothing", "$depth_map, $point_cloud"],
        ),
        ("vision_ops.index_at", {"data": "$_world", "u": 0, "v": 0}, "unknown_variable", ["data"]),
        (
            "vision_ops.index_at",
            {"data": "$depth_map[0]", "u": 0, "v": 0},
            "bad_argument",
            ["$depth_map[0]", "shape 4;", "any x any"],
        ),
        (
            "vision_ops.index_at",
            {"data": "$point_cloud", "u": 0, "v": 0},
            "wrong_kind",
            ["data", "point_cloud", "depth_map or mask or image"],
        ),
        ("vision_ops.index_at", {"data": "depth_map", "u": 0, "v": 0}, "bad_argument", ["data"]),
        ("vision_ops.index_at", {"data": [[1], [2, 3]], "u": 0, "v": 0}, "bad_argument", []),
        ("vision_ops.index_at", {"data": [], "u": 0, "v": 0}, "bad_argument", []),
        ("sam2.segment_from_points", {"points": [], "image_index": 0}, "bad_argument", ["points"]),
        ("sam2.segment_from_points", {"points": "[[0.1]]", "image_index": 0}, "bad_argument", []),
        ("sam2.segment_from_points", {"points": [[0, 2]], "image_index": 0}, "bad_argument", []),
        (
            "sam2.segment_from_points",
            {"points": "$obb_corners_2d", "image_index": 0},
            "bad_argument",
            ["points", "0 to 1"],
        ),
        ("robot.execute_grasp", {"grasp_pose": [[1, 2], [3, 4]]}, "bad_argument", ["4 x 4"]),
        (
            "robot.place_object_at_2d_location",
            {"placement_point_2d": [0.1, 0.2, 0.3]},
            "bad_argument",
            ["one (u, v) pair"],
        ),
    ],
)
def test_refusals_name_field_value_and_what_is_allowed(
    dotted: str, arguments: dict[str, Json], reason: str, words: list[str]
) -> None:
    found = refusal(dotted, **arguments)
    assert found.reason == reason
    assert all(word in found.text for word in words), found.text


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    assert refusal("vision_ops.index_at", data="$depth_map", u=number, v=0).reason == "bad_argument"
    found = refusal("robot.place_object_at_3d_location", placement_point_3d=[number, 0, 0])
    assert found.reason == "bad_argument" and len(found.text) < 300
