"""The published tool sets: the same functions, parameters, types and order; files that start."""

from __future__ import annotations

import importlib
from typing import cast

import pytest

from toolshed.config import load_tools
from toolshed.registry import FAMILIES, backend_of
from toolshed.tool import Family
from toolshed.toolset import ToolSet

IMAGE = "image_index: integer"
V1 = {
    "vision_ops.index_at": ["data: string", "u: number", "v: number"],
    "bounding_box.compute_bbox": ["point_cloud: string", "mask: string", "focal_length_px: number"],
    "sam2.segment_from_point": ["x: number", "y: number", IMAGE],
    "sam2.segment_from_points": ["points: string", IMAGE],
    "grasp_generator.compute_grasp": [
        "point_cloud: string",
        "mask: string",
        "focal_length_px: number",
        IMAGE,
    ],
    "vlm.detect_all": ["obj_name: string", IMAGE],
    "vlm.detect_one": ["obj_name: string", IMAGE],
    "depth_estimator.estimate_depth": [IMAGE],
    "depth_estimator.estimate_depth_with_pointcloud": [IMAGE],
    "roborefer.detect_all": ["obj_name: string", IMAGE],
    "roborefer.detect_one": ["obj_name: string", IMAGE],
}
V2 = V1 | {
    "robot.capture_image": [],
    "robot.get_depth": [],
    "robot.get_depth_with_pointcloud": [],
    "robot.execute_grasp": ["grasp_pose: string"],
    "robot.place_object_at_2d_location": ["placement_point_2d: string"],
    "robot.place_object_at_3d_location": ["placement_point_3d: string"],
}
SHIPPED = ("demo", "light", "point", "v1", "v1_4gpus", "v2", "v2_mock")
ENVIRONMENTS = ("roborefer", "vlm", "sam2", "depth", "bbox", "graspgen")


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("v1", V1), ("v1_4gpus", V1), ("v2", V2), ("v2_mock", V2), ("light", V2)],
)
def test_functions_parameters_types_and_order_are_the_published_ones(
    word: str, wanted: dict[str, list[str]]
) -> None:
    found = {}
    for spec in ToolSet.of(word).specs:
        properties = cast("dict[str, dict[str, str]]", spec.parameters["properties"])
        found[spec.name] = [f"{name}: {each['type']}" for name, each in properties.items()]
        assert spec.parameters["required"] == list(properties)
    assert list(found.items()) == list(wanted.items())


@pytest.mark.parametrize("word", SHIPPED)
def test_d23_shipped_files_name_known_environments_and_give_every_real_family_time(
    word: str,
) -> None:
    for name, family in load_tools(word).families.items():
        assert family.environment in (None, *ENVIRONMENTS)
        assert None not in family.arguments.values()
        if family.backend == "real":
            assert family.environment == backend_of(name, "real").environment
            assert family.timeout_s == 600


@pytest.mark.parametrize(
    ("family", "word"),
    [(name, each) for name in load_tools("v2").families for each in FAMILIES[name].back_ends],
)
def test_every_back_end_of_the_table_is_a_class_of_its_contract(family: str, word: str) -> None:
    """Its module loads here, so it imports its packages late."""
    module, _, name = backend_of(family, word).location.partition(":")
    found = getattr(importlib.import_module(module), name)
    methods = [each.partition(".")[2] for each in V2 if each.startswith(f"{family}.")]
    assert issubclass(found, Family) and methods
    assert not [each for each in methods if not callable(getattr(found, each, None))]
