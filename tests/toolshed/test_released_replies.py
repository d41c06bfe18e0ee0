"""Golden texts of the released profile, one per function, fields in the published order."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toolshed.fake_tools import picture
from tests.toolshed.test_published_tools import V2
from toolshed.replies import BOX_EDGES, render
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

POINTS = (Point(u=0.123456789, v=0.5), Point(u=0.25, v=1.0))
DEPTH_M = np.array([[0.5, 1.0, 1.5], [2.0, 0.0, np.nan]], dtype=np.float32)
CLOUD = np.array([[0, 0, 0.5], [0, 0, 1.5]], dtype=np.float32)
DEPTH = DepthEstimate(depth_m=DEPTH_M, focal_length_px=512.345)
WITH_CLOUD = DepthEstimate(depth_m=DEPTH_M, focal_length_px=512.345, points=CLOUD)
MASK = np.ones((120, 160), dtype=bool)
SEGMENTED = Segmentation(mask=MASK, score=0.98765, points=POINTS[:1])
BOX = OrientedBox(
    corners_m=np.arange(24).reshape(8, 3) / 8 - 1.0004,
    corners_uv=np.arange(16).reshape(8, 2) / 16,
    extent_m=np.array([0.12345, 0.2, 0.3]),
    num_kept=1234,
    num_total=56789,
)
GRASP = GraspEstimate(
    pose=np.eye(4),
    confidence=0.87654,
    keypoints_uv=np.array([[0.5, 0.25], [0.4, 0.25], [0.6, 0.25], [0.4, 0.5], [0.6, 0.5]]),
    num_masked=1234,
    num_total=56789,
    num_generated=100,
    num_collision_free=17,
)
SEEN = CapturedImage(image=picture())
GOLDEN: dict[str, tuple[ToolValue, str]] = {
    "vision_ops.index_at": (
        IndexedValue(u=0.5, v=0.25, value=1.2345678806304932, kind="depth_map"),
        "Pixel value at (0.500, 0.250) is 1.2345678806304932",
    ),
    "bounding_box.compute_bbox": (
        BOX,
        "Oriented bounding box computed from 1234/56789 points.Corners in 3D: "
        "[[-1.0, -0.875, -0.75], [-0.625, -0.5, -0.375], [-0.25, -0.125, 0.0], "
        "[0.125, 0.25, 0.375], [0.5, 0.625, 0.75], [0.875, 1.0, 1.125], [1.25, 1.375, 1.5], "
        "[1.625, 1.75, 1.875]]\n"
        "Corners in normalized image coordinates: "
        "[[0.0, 0.062], [0.125, 0.188], [0.25, 0.312], [0.375, 0.438], [0.5, 0.562], "
        "[0.625, 0.688], [0.75, 0.812], [0.875, 0.938]]\n"
        f"Edges: {list(BOX_EDGES)}\n"
        "Extent: [0.123, 0.2, 0.3]\n"
        "Volume: 0.007\n",
    ),
    "sam2.segment_from_point": (
        SEGMENTED,
        "Segmented object at normalized coords (0.123, 0.500) with IoU score: 0.988. "
        "Kept for later calls: $segmentation_mask (boolean array, 120x160).",
    ),
    "sam2.segment_from_points": (
        Segmentation(mask=MASK, score=0.5, points=POINTS),
        "Segmented object using 2 normalized points with best IoU score: 0.500. "
        "Kept for later calls: $segmentation_mask (boolean array, 120x160).",
    ),
    "grasp_generator.compute_grasp": (
        GRASP,
        "Generated collision-free grasp with confidence 0.877 from 1234/56789 masked points. "
        "Filtered 100 → 17 collision-free grasps. Projected 2D gripper points: "
        "[(0.500, 0.250), (0.400, 0.250), (0.600, 0.250), (0.400, 0.500), (0.600, 0.500)]",
    ),
    "vlm.detect_all": (
        Detections(obj_name="red cup", points=POINTS, announce=True),
        "Detected 2 instance(s) of 'red cup': [(0.123456789, 0.5), (0.25, 1.0)] "
        "Kept for later calls: $red_cup_detections (list, 2 points).",
    ),
    "vlm.detect_one": (
        Detections(obj_name="red cup", points=POINTS[:1], announce=True),
        "Detected 1 instance(s) of 'red cup': [(0.123456789, 0.5)] "
        "Kept for later calls: $red_cup_detections (list, 1 point).",
    ),
    "depth_estimator.estimate_depth": (
        DEPTH,
        "Estimated depth map for 3x2 image. Focal length: 512.3px. "
        "Depth range: 0.50m to 2.00m (mean: 1.25m). Kept for later calls: "
        "$depth_map (numpy array, 2x3), $focal_length_px (float).",
    ),
    "depth_estimator.estimate_depth_with_pointcloud": (
        WITH_CLOUD,
        "Generated 3x2 depth map and 2 3D points. "
        "Depth range in point cloud: 0.50m to 1.50m (mean: 1.00m). Kept for later calls: "
        "$depth_map (numpy array, 2x3), $point_cloud (numpy array, 2x3), $focal_length_px (float).",
    ),
    "roborefer.detect_all": (
        Detections(obj_name="red cup", points=POINTS),
        "Detected 2 instance(s) of 'red cup': [(0.123456789, 0.5), (0.25, 1.0)]",
    ),
    "roborefer.detect_one": (
        Detections(obj_name="red cup", points=POINTS[:1]),
        "Detected 1 instance(s) of 'red cup': [(0.123456789, 0.5)]",
    ),
    "robot.capture_image": (SEEN, "Captured image: 8×8 pixels."),
    "robot.get_depth": (
        DepthEstimate(depth_m=DEPTH_M, focal_length_px=512.345, source="robot"),
        "Retrieved depth map for 3x2 image. Focal length: 512.3px. "
        "Depth range: 0.50m to 2.00m (mean: 1.25m). Kept for later calls: "
        "$depth_map (numpy array, 2x3), $focal_length_px (float).",
    ),
    "robot.get_depth_with_pointcloud": (
        DepthEstimate(depth_m=DEPTH_M, focal_length_px=512.345, points=CLOUD, source="robot"),
        "Retrieved depth map and generated 2 3D points. "
        "Depth range in point cloud: 0.50m to 1.50m (mean: 1.00m). Kept for later calls: "
        "$depth_map (numpy array, 2x3), $point_cloud (numpy array, 2x3), $focal_length_px (float).",
    ),
    "robot.execute_grasp": (
        RobotAction(action="grasp", success=True, execution_time_s=2.5),
        "Grasp execution succeeded.",
    ),
    "robot.place_object_at_2d_location": (
        RobotAction(action="place", success=True, execution_time_s=1.8),
        "Placement succeeded.",
    ),
    "robot.place_object_at_3d_location": (
        RobotAction(action="place", success=False, execution_time_s=1.8),
        "Placement failed.",
    ),
}


@pytest.mark.parametrize("name", V2)
def test_released_text_of_every_function(name: str) -> None:
    value, text = GOLDEN[name]
    assert render(value, "released", method=name.partition(".")[2]) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            RobotAction(action="grasp", success=False, execution_time_s=9.0, source="hardware"),
            "Grasp execution failed.",
        ),
        (
            RobotAction(action="place", success=True, execution_time_s=9.0, source="hardware"),
            "Release operation succeeded.",
        ),
        (
            DepthEstimate(
                depth_m=np.zeros((2, 3), np.float32), focal_length_px=9, source="hardware"
            ),
            "Retrieved depth map for 3x2 image from robot. Focal length: 9.0px. Kept for later "
            "calls: $depth_map (numpy array, 2x3), $focal_length_px (float).",
        ),
        (
            DepthEstimate(
                depth_m=np.ones((1, 1), np.float32),
                focal_length_px=9,
                points=np.tile(np.array([0, 0, 1], np.float32), (12_345, 1)),
                source="hardware",
            ),
            "Retrieved depth map and generated 12,345 3D points from robot data. Depth range in "
            "point cloud: 1.00m to 1.00m (mean: 1.00m). Kept for later calls: $depth_map (numpy "
            "array, 1x1), $point_cloud (numpy array, 12345x3), $focal_length_px (float).",
        ),
        (
            IndexedValue(u=1.0, v=0.0, value=(12, 34, 56), kind="image"),
            "Pixel value at (1.000, 0.000) is [12, 34, 56]",
        ),
        (
            IndexedValue(u=0.0, v=0.0, value=True, kind="mask"),
            "Pixel value at (0.000, 0.000) is True",
        ),
        (Detections(obj_name="cup", points=()), "Detected 0 instance(s) of 'cup': []"),
    ],
)
def test_released_text_of_other_forms(value: ToolValue, text: str) -> None:
    assert render(value, "released") == text
