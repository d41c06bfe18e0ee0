"""Back-ends that answer from ground truth: they know every picture that was shown to them.

`remember` tells them a scene's picture; the robot tells them its own. A mask that one of them
handed out is known again by its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl.tabletop import wording
from rl.tabletop.kinds import Shot, free_region
from toolshed.backends.light_depth import unproject
from toolshed.backends.light_robot import LightRobot
from toolshed.backends.light_vision_ops import LightVisionOps
from toolshed.errors import ToolRefusal
from toolshed.tabletop.gripper import key_points_uv, oracle_grasp
from toolshed.tabletop.scene import Scene
from toolshed.tabletop.state import WorldState
from toolshed.tabletop.world import World
from toolshed.tools.boxes import Boxes
from toolshed.tools.depth import Depth
from toolshed.tools.grasping import Grasping
from toolshed.tools.pointing import Pointing
from toolshed.tools.robot import RobotReply
from toolshed.tools.segmentation import SegmentationTool
from toolshed.types import (
    CapturedImage,
    DepthEstimate,
    Detections,
    GraspEstimate,
    IndexedValue,
    OrientedBox,
    Point,
    Segmentation,
    ToolImage,
)

Mask = npt.NDArray[np.bool_]
Cloud = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Object:
    scene: Scene
    index: int


_shots: dict[str, Shot] = {}
_masks: dict[bytes, _Object] = {}


def remember(image: ToolImage, shot: Shot) -> None:
    _shots[image.sha256] = shot


def _object_under(mask: Mask) -> _Object:
    return _masks[np.packbits(mask).tobytes()]


class OraclePointing(Pointing):
    def detect_all(self, image: ToolImage, obj_name: str) -> Detections:
        return self.detect_one(image, obj_name)

    def detect_one(self, image: ToolImage, obj_name: str) -> Detections:
        shot = _shots[image.sha256]
        for index, item in enumerate(shot.scene.objects):
            if obj_name in (item.name, wording.object_of(item.colour)):
                return Detections(obj_name=obj_name, points=(shot.rendering.target(index),))
            for direction in wording.DIRECTIONS:
                if obj_name == wording.free_phrase(item.name, direction):
                    return Detections(obj_name=obj_name, points=(_beside(shot, index, direction),))
        raise ToolRefusal("not_found", f"not found: {obj_name}")


def _beside(shot: Shot, index: int, direction: wording.Direction) -> Point:
    region = free_region(shot, index, direction)
    if region is None:
        raise ToolRefusal("not_found", "no free space there")
    rows, columns = np.nonzero(region)
    height, width = region.shape
    return Point(u=float(columns.mean() + 0.5) / width, v=float(rows.mean() + 0.5) / height)


class OracleSegmentation(SegmentationTool):
    def segment_from_point(self, image: ToolImage, x: float, y: float) -> Segmentation:
        return self.segment_from_points(image, [Point(u=x, v=y)])

    def segment_from_points(self, image: ToolImage, points: list[Point]) -> Segmentation:
        shot = _shots[image.sha256]
        height, width = shot.rendering.ids.shape
        index = int(shot.rendering.ids[int(points[0].v * height), int(points[0].u * width)])
        if index < 0:
            raise ToolRefusal("empty", "nothing there")
        mask = shot.rendering.mask(index)
        _masks[np.packbits(mask).tobytes()] = _Object(scene=shot.scene, index=index)
        return Segmentation(mask=mask, score=1.0, points=tuple(points))


class OracleDepth(Depth):
    def estimate_depth(self, image: ToolImage) -> DepthEstimate:
        rendering = _shots[image.sha256].rendering
        return DepthEstimate(depth_m=rendering.depth_m, focal_length_px=rendering.focal_length_px)

    def estimate_depth_with_pointcloud(self, image: ToolImage) -> DepthEstimate:
        rendering = _shots[image.sha256].rendering
        focal = rendering.focal_length_px
        points = unproject(rendering.depth_m, focal)
        return DepthEstimate(depth_m=rendering.depth_m, focal_length_px=focal, points=points)


class OracleBoxes(Boxes):
    def compute_bbox(self, point_cloud: Cloud, mask: Mask, focal_length_px: float) -> OrientedBox:
        found = _object_under(mask)
        return OrientedBox(
            corners_m=found.scene.corners_camera_m(found.index),
            corners_uv=found.scene.corners_uv(found.index),
            extent_m=np.array(found.scene.objects[found.index].size_m),
            num_kept=int(mask.sum()),
            num_total=len(point_cloud),
        )


class OracleVisionOps(LightVisionOps):
    def index_at(self, data: npt.NDArray[np.generic], u: float, v: float) -> IndexedValue:
        height, width = data.shape[:2]
        value = float(data[min(int(v * height), height - 1), min(int(u * width), width - 1)])
        return IndexedValue(u=u, v=v, value=value, kind="")


class OracleGrasping(Grasping):
    def compute_grasp(
        self, point_cloud: Cloud, mask: Mask, focal_length_px: float, image: ToolImage
    ) -> GraspEstimate:
        found = _object_under(mask)
        pose = oracle_grasp(found.scene, found.index)
        return GraspEstimate(
            pose=pose,
            confidence=1.0,
            keypoints_uv=key_points_uv(pose, focal_length_px, image.width, image.height),
            num_masked=int(mask.sum()),
            num_total=len(point_cloud),
            num_generated=1,
            num_collision_free=1,
        )


class OracleRobot(LightRobot):
    def capture_image(self, world: WorldState) -> RobotReply:
        rendering = World.from_state(world).capture()
        image = rendering.image()
        remember(image, Shot(scene=world.scene(), rendering=rendering))
        return RobotReply(value=CapturedImage(image=image), world=world)
