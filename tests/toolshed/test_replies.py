"""What models read: the released texts token by token, and the short ones."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toolshed.fake_tools import picture
from toolshed.errors import ToolRefusal
from toolshed.replies import BOX_EDGES, render, render_refusal, variables
from toolshed.types import (
    CapturedImage,
    DepthEstimate,
    Detections,
    GraspEstimate,
    IndexedValue,
    OrientedBox,
    Point,
    RobotAction,
    Segmentation,
    ToolValue,
)

POINT = Point(u=0.4321, v=0.5)
DETECTED = Detections(obj_name="red cube", points=(POINT, Point(u=0.1, v=0.996)))
ANNOUNCED = Detections(obj_name="red cube", points=(POINT,), announce=True)
MASKED = Segmentation(mask=np.ones((3, 5), dtype=bool), score=0.91239, points=(POINT,))
DEPTH = DepthEstimate(
    depth_m=np.array([[1, 2, 0], [3, np.nan, 2]], dtype=np.float32), focal_length_px=123.456
)
CLOUD = DepthEstimate(
    depth_m=np.ones((2, 3), dtype=np.float32),
    focal_length_px=1.0,
    points=np.tile(np.array([[0, 0, 1.5]], dtype=np.float32), (1234, 1)),
)
BOX = OrientedBox(
    corners_m=np.arange(24, dtype=np.float64).reshape(8, 3) / 10,
    corners_uv=np.linspace(-0.0001, 1.1, 16).reshape(8, 2),
    extent_m=np.array([0.1, 0.2, 0.3]),
    num_kept=7,
    num_total=99,
)
GRASP = GraspEstimate(
    pose=np.eye(4),
    confidence=0.98765,
    keypoints_uv=np.array([[0.5, 0.5], [0.4, 0.5], [0.6, 0.5], [0.4, 0.7], [0.6, 0.7]]),
    num_masked=10,
    num_total=200,
    num_generated=100,
    num_collision_free=12,
)
LIFTED = RobotAction(action="grasp", success=True, execution_time_s=1.0, image=picture())
DROPPED = RobotAction(action="place", success=False, execution_time_s=1.0)
SEEN = CapturedImage(image=picture())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (DETECTED, "[(0.43, 0.50), (0.10, 1.00)]"),
        (ANNOUNCED, "[(0.43, 0.50)]"),
        (Detections(obj_name="red cube", points=()), "not found: red cube"),
        (MASKED, "$segmentation_mask"),
        (DEPTH, "$depth_map"),
        (CLOUD, "$depth_map $point_cloud $focal_length_px"),
        (IndexedValue(u=0, v=0, value=0.8651, kind="depth_map"), '{"depth": 0.87}'),
        (IndexedValue(u=0, v=0, value=True, kind="mask"), '{"value": true}'),
        (IndexedValue(u=0, v=0, value=(1.0, 2.5), kind="image"), '{"value": [1.00, 2.50]}'),
        (
            GRASP,
            "[(0.50, 0.50), (0.40, 0.50), (0.60, 0.50), (0.40, 0.70), (0.60, 0.70)] $grasp_pose",
        ),
        (LIFTED, "grasp succeeded, image 2"),
        (SEEN, "image 2: 8x8"),
    ],
)
def test_compact(value: ToolValue, text: str) -> None:
    assert render(value, "compact", image_index=2) == text


def test_compact_box_and_action_without_picture() -> None:
    text = render(BOX, "compact")
    assert text.startswith("[(0.00, 0.07), ") and text.endswith(" $obb_corners_2d $obb_corners_3d")
    assert render(DROPPED, "compact") == "place failed"


def test_released_texts() -> None:
    assert render(DETECTED, "released") == (
        "Detected 2 instance(s) of 'red cube': [(0.4321, 0.5), (0.1, 0.996)]"
    )
    assert "$red_cube_detections" in render(ANNOUNCED, "released")
    assert render(DEPTH, "released").startswith(
        "Estimated depth map for 3x2 image. Focal length: 123.5px. "
        "Depth range: 1.00m to 3.00m (mean: 2.00m). "
    )
    cloud = render(CLOUD, "released")
    assert cloud.startswith(
        "Generated 3x2 depth map and 1,234 3D points. "
        "Depth range in point cloud: 1.50m to 1.50m (mean: 1.50m). "
    )
    assert "$depth_map" in cloud and "$point_cloud" in cloud and "1234x3" in cloud
    point = render(MASKED, "released", method="segment_from_point")
    assert point.startswith(
        "Segmented object at normalized coords (0.432, 0.500) with IoU score: 0.912."
    )
    assert "$segmentation_mask" in point and "3x5" in point
    points = render(MASKED, "released", method="segment_from_points")
    assert points.startswith(
        "Segmented object using 1 normalized points with best IoU score: 0.912."
    )
    value = IndexedValue(u=0.5, v=0.25, value=0.8700000047683716, kind="depth_map")
    assert render(value, "released") == "Pixel value at (0.500, 0.250) is 0.8700000047683716"
    assert render(GRASP, "released") == (
        "Generated collision-free grasp with confidence 0.988 from 10/200 masked points. "
        "Filtered 100 → 12 collision-free grasps. Projected 2D gripper points: "
        "[(0.500, 0.500), (0.400, 0.500), (0.600, 0.500), (0.400, 0.700), (0.600, 0.700)]"
    )
    assert render(LIFTED, "released") == "Grasp execution succeeded."
    assert render(DROPPED, "released") == "Placement failed."
    assert render(SEEN, "released") == "Captured image: 8×8 pixels."


def test_unknown_depth_has_no_range() -> None:
    nothing = DepthEstimate(depth_m=np.zeros((2, 2), dtype=np.float32), focal_length_px=5.0)
    assert "range" not in render(nothing, "released")


def test_released_box_and_its_two_edge_lists() -> None:
    lines = render(BOX, "released").split("\n")
    assert lines[0].startswith(
        "Oriented bounding box computed from 7/99 points.Corners in 3D: [[0.0, 0.1, 0.2], "
    )
    assert lines[1].startswith("Corners in normalized image coordinates: [[0.0, 0.073], ")
    assert lines[2] == f"Edges: {list(BOX_EDGES)}"
    assert lines[3:] == ["Extent: [0.1, 0.2, 0.3]", "Volume: 0.006", ""]
    assert f"Edges: {list(BOX_EDGES)}" not in render(BOX, "released", "released")


def test_true_edges_join_corners_along_one_axis() -> None:
    signs = {0: (-1, -1, -1), 1: (1, -1, -1), 2: (-1, 1, -1), 3: (-1, -1, 1)}
    signs |= {4: (1, 1, 1), 5: (-1, 1, 1), 6: (1, -1, 1), 7: (1, 1, -1)}
    for first, second in BOX_EDGES:
        differing = sum(a != b for a, b in zip(signs[first], signs[second], strict=True))
        assert differing == 1
    assert len(set(BOX_EDGES)) == 12


def test_variables_have_published_names_and_kinds() -> None:
    def kept(value: ToolValue) -> dict[str, str]:
        return {each.name: each.kind for each in variables(value)}

    assert kept(DETECTED) == {}
    assert kept(ANNOUNCED) == {"red_cube_detections": "points"}
    assert kept(MASKED) == {"segmentation_mask": "mask"}
    assert kept(DEPTH) == {"depth_map": "depth_map", "focal_length_px": "number"}
    assert list(kept(CLOUD)) == ["depth_map", "point_cloud", "focal_length_px"]
    assert list(kept(BOX)) == ["obb_corners_3d", "obb_corners_2d", "edges", "extent"]
    assert [each.name for each in variables(BOX, "released")][-1] == "edges"
    assert kept(GRASP) == {"grasp_pose": "pose"}
    assert kept(LIFTED) == {"captured_image": "image"} and kept(DROPPED) == {}


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("red cube", "red_cube_detections"),
        ("child's cup-holder", "child_s_cup_holder_detections"),
        ("2 cups", "object_2_cups_detections"),
        ("Café", "Cafe_detections"),
        ("日本", "object_detections"),
        ("_hidden", "hidden_detections"),
    ],
)
def test_every_announced_name_can_be_referred_to(name: str, variable: str) -> None:
    found = Detections(obj_name=name, points=(POINT,), announce=True)
    assert [each.name for each in variables(found)] == [variable]
    assert variables(found, "released")[0].name == f"{name.replace(' ', '_')}_detections"


def test_refusals() -> None:
    missing = ToolRefusal("not_found", "no such thing")
    assert render_refusal(missing, "compact", "red cube") == "not found: red cube"
    assert render_refusal(missing, "released", "red cube") == (
        "Detected 0 instance(s) of 'red cube': []"
    )
    wrong = ToolRefusal("bad_argument", "u: got 2")
    assert render_refusal(wrong, "compact") == "u: got 2"
    assert render_refusal(wrong, "released") == "Error: u: got 2"
    unknown = ToolRefusal("unknown_tool", "unknown tool 'x'")
    assert render_refusal(unknown, "released").startswith("Error when executing tool: unknown")
