"""What every back-end of a family must keep, whatever answers: types, shapes, units and errors.

Needs numpy and the library alone, so that it also runs in a tool environment:
``python -m tests.toolshed.contracts FAMILY SPEC.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from toolshed.backend import Answer, BackEnd, BackEndSpec, Request, Voice
from toolshed.errors import ToolRefusal
from toolshed.images import make_image
from toolshed.replies import BOX_EDGES
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
    ToolImage,
)

ValueT = TypeVar("ValueT")
METHODS = {
    "roborefer": ("detect_one", "detect_all"),
    "vlm": ("detect_one", "detect_all"),
    "sam2": ("segment_from_point", "segment_from_points"),
    "depth_estimator": ("estimate_depth", "estimate_depth_with_pointcloud"),
    "vision_ops": ("index_at",),
    "bounding_box": ("compute_bbox",),
    "grasp_generator": ("compute_grasp",),
    "robot": (
        "capture_image",
        "get_depth",
        "get_depth_with_pointcloud",
        "execute_grasp",
        "place_object_at_2d_location",
        "place_object_at_3d_location",
    ),
}
VOICE = Voice(profile="released", defects="fixed")
FOCAL_PX = 120.0


class Asked:
    """A back-end of a family, asked by name."""

    def __init__(self, family: str, location: str, arguments: Mapping[str, object]) -> None:
        self.family = family
        self.back_end = BackEnd(
            BackEndSpec(
                name=family,
                location=location,
                arguments=dict(arguments),  # type: ignore[arg-type]
                methods=METHODS[family],
                voice=VOICE,
            )
        )

    def request(self, method: str, **arguments: object) -> Request:
        return Request(family=self.family, method=method, arguments=arguments, kind_read="array")

    def answer(self, method: str, **arguments: object) -> Answer:
        return self.back_end.answer(self.request(method, **arguments))

    def value(self, kind: type[ValueT], method: str, **arguments: object) -> ValueT:
        found = self.answer(method, **arguments).value
        assert type(found) is kind, f"{method} returns a {type(found).__name__}"
        return found

    def refusal(self, method: str, **arguments: object) -> str:
        """The reason of a call that must be refused."""
        try:
            found = self.answer(method, **arguments)
        except ToolRefusal as refusal:
            assert refusal.text and refusal.reason.islower()
            return refusal.reason
        raise AssertionError(f"{method} answered {found.text!r}")

    def batched(self, requests: list[Request]) -> list[Answer | ToolRefusal] | None:
        """Answers in one go, where the back-end works so and these calls may go together."""
        keys = {self.back_end.batch_key(each) for each in requests}
        return self.back_end.answer_batch(requests) if len(keys) == 1 and None not in keys else None


def table_picture(side: int = 64) -> ToolImage:
    """A grey table with a red block in its middle, 0.6 m away, 0.1 m nearer than the table."""
    pixels = np.full((side, side + 16, 3), 150, dtype=np.uint8)
    depth = np.full(pixels.shape[:2], 700, dtype=np.uint16)
    block = (slice(side // 3, 2 * side // 3), slice(side // 3, side // 3 + side // 5))
    pixels[block] = (200, 30, 30)
    depth[block] = 600
    # As they come from another process.
    pixels.setflags(write=False)
    depth.setflags(write=False)
    return make_image(pixels, depth, FOCAL_PX)


def check_pointing(asked: Asked) -> None:
    """Normalised points, one for ``detect_one``; names kept; nothing is no empty answer."""
    image = table_picture()
    for method in METHODS[asked.family]:
        found = asked.value(Detections, method, image=image, obj_name="red object")
        assert found.obj_name == "red object" and found.announce is (asked.family == "vlm")
        assert found.points and (method == "detect_all" or len(found.points) == 1)
        for point in found.points:
            assert type(point.u) is float and type(point.v) is float
            assert 0.0 <= point.u <= 1.0 and 0.0 <= point.v <= 1.0
    requests = [asked.request("detect_one", image=image, obj_name="red object")] * 2
    alone = asked.answer("detect_one", image=image, obj_name="red object")
    for each in asked.batched(requests) or []:
        assert isinstance(each, Answer) and each.text == alone.text


def check_absent(asked: Asked) -> None:
    """What is not there is refused as not found."""
    for method in METHODS[asked.family]:
        reason = asked.refusal(method, image=table_picture(), obj_name="purple object")
        assert reason == "not_found"


def check_segmentation(asked: Asked) -> None:
    """A mask of the picture's size and the score of that mask."""
    first, second = table_picture(), table_picture(48)
    middle = [Point(u=0.34, v=0.5), Point(u=0.33, v=0.45)]
    requests = [
        asked.request("segment_from_points", image=first, points=middle),
        asked.request("segment_from_points", image=second, points=middle[:1]),
        asked.request("segment_from_points", image=first, points=middle[1:]),
    ]
    for request in requests:
        found = asked.value(Segmentation, request.method, **request.arguments)
        image = request.arguments["image"]
        assert isinstance(image, ToolImage)
        assert found.mask.shape == (image.height, image.width) and found.mask.dtype == np.bool_
        assert found.mask.any() and 0.0 <= found.score <= 1.0
        assert found.whole_score is None or found.whole_score >= found.score
        assert found.points == tuple(request.arguments["points"])  # type: ignore[arg-type]
    for request, together in zip(requests, asked.batched(requests) or [], strict=False):
        alone = asked.value(Segmentation, request.method, **request.arguments)
        assert isinstance(together, Answer) and isinstance(together.value, Segmentation)
        assert np.mean(alone.mask == together.value.mask) > 0.99
        assert abs(alone.score - together.value.score) < 0.02
    one = asked.value(Segmentation, "segment_from_point", image=first, x=0.33, y=0.45)
    assert one.points == (Point(u=0.33, v=0.45),)
    asked.refusal("segment_from_points", image=first, points=[])
    asked.refusal("segment_from_point", image=first, x=1.2, y=0.5)
    asked.refusal("segment_from_point", image=first, x=0.2, y=float("nan"))


def check_depth(asked: Asked) -> None:
    """Metres in 32 bits; the cloud's points are the known pixels, row by row."""
    image = table_picture()
    found = asked.value(DepthEstimate, "estimate_depth", image=image)
    assert found.depth_m.shape == (image.height, image.width) and found.points is None
    assert found.depth_m.dtype == np.float32 and found.focal_length_px > 0
    cloud = asked.value(DepthEstimate, "estimate_depth_with_pointcloud", image=image)
    check_cloud(cloud)
    requests = [
        asked.request("estimate_depth_with_pointcloud", image=each)
        for each in (image, table_picture(48))
    ]
    for request, together in zip(requests, asked.batched(requests) or [], strict=False):
        alone = asked.value(DepthEstimate, request.method, **request.arguments)
        assert isinstance(together, Answer) and isinstance(together.value, DepthEstimate)
        assert np.allclose(alone.depth_m, together.value.depth_m, rtol=0.02)
        assert np.isclose(alone.focal_length_px, together.value.focal_length_px, rtol=0.02)


def check_cloud(found: DepthEstimate) -> None:
    points = found.points
    assert points is not None and points.dtype == np.float32 and points.shape[1] == 3
    height, width = found.depth_m.shape
    known = (found.depth_m > 0) & (found.depth_m < 100)
    assert len(points) == np.count_nonzero(known)
    assert np.array_equal(points[:, 2], found.depth_m[known])
    rows, columns = np.nonzero(known)
    pixels = points[:, :2] / points[:, 2:] * found.focal_length_px + (width / 2, height / 2)
    assert np.array_equal(np.floor(pixels[:, 0] + 1e-3), columns)
    assert np.array_equal(np.floor(pixels[:, 1] + 1e-3), rows)


def block_cloud() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The cloud of the table picture, and the mask of its block."""
    image = table_picture()
    assert image.depth_mm is not None
    depth = image.depth_mm.astype(np.float32) / 1000
    rows, columns = np.indices(depth.shape)
    x = (columns + 0.5 - image.width / 2) / FOCAL_PX * depth
    y = (rows + 0.5 - image.height / 2) / FOCAL_PX * depth
    return np.stack([x, y, depth], axis=-1).reshape(-1, 3).astype(np.float32), depth < 0.65


def check_boxes(asked: Asked) -> None:
    """Eight corners in Open3D's order, the same in the image, sides in metres."""
    cloud, mask = block_cloud()
    given = {"point_cloud": cloud, "mask": mask, "focal_length_px": FOCAL_PX}
    found = asked.value(OrientedBox, "compute_bbox", **given)
    assert found.corners_m.shape == (8, 3) and found.corners_uv.shape == (8, 2)
    assert found.extent_m.shape == (3,) and found.num_total == len(cloud)
    assert found.num_kept == np.count_nonzero(mask)
    axes = found.corners_m[1:4] - found.corners_m[0]
    assert np.allclose(np.linalg.norm(axes, axis=1), found.extent_m, atol=1e-9)
    middle = found.corners_m.mean(axis=0)
    assert np.allclose(found.corners_m[[4, 5, 6, 7]], 2 * middle - found.corners_m[:4])
    lengths = sorted(np.linalg.norm(found.corners_m[i] - found.corners_m[j]) for i, j in BOX_EDGES)
    assert np.allclose(lengths, sorted([*found.extent_m] * 4), atol=1e-9)
    height, width = mask.shape
    seen = found.corners_m[:, :2] / found.corners_m[:, 2:] * FOCAL_PX
    assert np.allclose(found.corners_uv, seen / (width, height) + 0.5)
    assert 0.08 < found.extent_m.max() < 0.2
    nothing = np.zeros_like(mask)
    assert asked.refusal("compute_bbox", **{**given, "mask": nothing}) == "no_points"
    asked.refusal("compute_bbox", **{**given, "point_cloud": cloud[:, :2]})
    asked.refusal("compute_bbox", **{**given, "mask": mask[0]})


def check_grasping(asked: Asked) -> None:
    """A rigid pose near the object, five image points, counts that add up."""
    cloud, mask = block_cloud()
    given = {"point_cloud": cloud, "mask": mask, "focal_length_px": FOCAL_PX}
    given["image"] = table_picture()
    found = asked.value(GraspEstimate, "compute_grasp", **given)
    assert found.pose.shape == (4, 4) and np.array_equal(found.pose[3], (0, 0, 0, 1))
    rotation = found.pose[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
    assert np.isclose(np.linalg.det(rotation), 1)
    assert found.keypoints_uv.shape == (5, 2) and 0 <= found.confidence <= 1
    assert found.num_masked == np.count_nonzero(mask) and found.num_total == len(cloud)
    assert 1 <= found.num_collision_free <= found.num_generated
    assert np.linalg.norm(found.pose[:3, 3] - cloud[mask.ravel()].mean(axis=0)) < 0.25
    again = asked.value(GraspEstimate, "compute_grasp", **given)
    assert np.array_equal(found.pose, again.pose)
    nothing = np.zeros_like(mask)
    assert asked.refusal("compute_grasp", **{**given, "mask": nothing}) == "no_points"
    asked.refusal("compute_grasp", **{**given, "point_cloud": cloud[:, :2]})


def check_vision_ops(asked: Asked) -> None:
    """The pixel at a place, the border included."""
    data = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    for u, v, value in ((0.0, 0.0, 1.0), (1.0, 1.0, 12.0), (0.5, 0.34, 7.0)):
        found = asked.value(IndexedValue, "index_at", data=data, u=u, v=v)
        assert found.value == value and found.kind == "array"
    assert asked.value(IndexedValue, "index_at", data=data > 4, u=0.9, v=0.9).value is True
    asked.refusal("index_at", data=data[0], u=0.5, v=0.5)
    asked.refusal("index_at", data=data, u=1.1, v=0.5)


def check_robot(asked: Asked, world: object) -> None:
    """What a camera sees, and actions that say how they went."""
    given = {"world": world}
    assert asked.value(CapturedImage, "capture_image", **given).image.pixels.ndim == 3
    seen = asked.value(DepthEstimate, "get_depth", **given)
    assert seen.depth_m.dtype == np.float32 and seen.source != "estimated"
    check_cloud(asked.value(DepthEstimate, "get_depth_with_pointcloud", **given))
    pose = np.eye(4)
    pose[:3, 3] = (0.0, 0.0, 0.5)
    grasped = asked.value(RobotAction, "execute_grasp", grasp_pose=pose, **given)
    assert grasped.action == "grasp" and type(grasped.success) is bool
    assert grasped.execution_time_s > 0
    middle = Point(u=0.5, v=0.5)
    name = "place_object_at_2d_location"
    placed = asked.value(RobotAction, name, placement_point_2d=middle, **given)
    assert placed.action == "place" and placed.source == grasped.source
    name = "place_object_at_3d_location"
    place = np.array([0.0, 0.0, 0.5])
    assert asked.value(RobotAction, name, placement_point_3d=place, **given).action == "place"


CHECKS: dict[str, Callable[[Asked], None]] = {
    "roborefer": check_pointing,
    "vlm": check_pointing,
    "sam2": check_segmentation,
    "depth_estimator": check_depth,
    "bounding_box": check_boxes,
    "grasp_generator": check_grasping,
    "vision_ops": check_vision_ops,
}


if __name__ == "__main__":
    family, file = sys.argv[1:]
    spec = json.loads(Path(file).read_text())
    CHECKS[family](Asked(family, spec["location"], spec["arguments"]))
    print("kept")
