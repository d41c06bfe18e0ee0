"""From sampled grasps to the one that is returned: from above, free of collisions, most confident.

The numbers are the release's. Its gripper mesh is three boxes here: the hand and two open fingers
of the Franka gripper, in the frame of its grasps (origin at the flange, z approaches, x closes).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from toolshed.backends.clouds import Floats, MaskedCloud, masked_cloud
from toolshed.errors import ConfigError, ToolRefusal
from toolshed.tabletop.camera import project
from toolshed.tools.grasping import Grasping
from toolshed.types import GraspEstimate, ToolImage

DRAWN_WIDTH_M = 0.16
DRAWN_FINGER_M = 0.08
"""Measures of the five points that are told."""
GRIPPER_BOXES_M = (
    ((-0.102, -0.032, 0.0), (0.102, 0.032, 0.066)),
    ((0.040, -0.011, 0.058), (0.062, 0.011, 0.112)),
    ((-0.062, -0.011, 0.058), (-0.040, 0.011, 0.112)),
)
"""Least and greatest corner of hand and fingers."""
Sampled: TypeAlias = tuple[Floats, Floats]
"""Poses (G, 4, 4), camera from grasp, and their confidences (G,)."""


class FilteredGrasping(Grasping):
    """Samples grasps on the masked points and returns the best that may be carried out."""

    def __init__(
        self,
        *,
        num_grasps: int,
        top_grasps: int,
        approach_direction: list[float],
        min_approach_cosine: float,
        clearance_m: float,
        num_scene_points: int,
        seed: int,
    ) -> None:
        direction = np.asarray(approach_direction, dtype=np.float64)
        if direction.shape != (3,) or not np.linalg.norm(direction) > 0:
            raise ConfigError(
                f"approach_direction = {approach_direction!r}; write three numbers, the direction "
                "of gravity in the camera frame"
            )
        self.num_grasps, self.top_grasps, self.seed = num_grasps, top_grasps, seed
        self._approach = direction / np.linalg.norm(direction)
        self._min_cosine = min_approach_cosine
        self._clearance_m = clearance_m
        self._num_scene_points = num_scene_points

    @abstractmethod
    def sampled(self, points_m: npt.NDArray[np.float32]) -> Sampled:
        """Grasps of an object given by its points (N, 3) around their own middle."""

    def compute_grasp(
        self,
        point_cloud: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        focal_length_px: float,
        image: ToolImage,
    ) -> GraspEstimate:
        cloud = masked_cloud(point_cloud, mask, focal_length_px)
        middle = cloud.inside_m.mean(axis=0)
        poses, confidences = self.sampled((cloud.inside_m - middle).astype(np.float32))
        poses = np.array(poses, dtype=np.float64)
        if len(poses) == 0:
            raise ToolRefusal("no_grasp", "No grasps were found on the object.")
        poses[:, :3, 3] += middle
        poses[:, 3] = (0.0, 0.0, 0.0, 1.0)
        steep = poses[:, :3, 2] @ self._approach >= self._min_cosine
        if not steep.any():
            raise ToolRefusal("too_steep", f"Top-down filtering removed all {len(poses)} grasps.")
        scene = self._scene(cloud)
        free = [each for each in np.flatnonzero(steep) if not self._collides(poses[each], scene)]
        if not free:
            raise ToolRefusal(
                "collision", f"All {int(steep.sum())} top-down grasps collide with the scene."
            )
        best = max(free, key=lambda each: float(confidences[each]))
        height, width = mask.shape
        return GraspEstimate(
            pose=poses[best],
            confidence=float(confidences[best]),
            keypoints_uv=project(_key_points_m(poses[best]), focal_length_px, width, height),
            num_masked=len(cloud.inside_m),
            num_total=cloud.num_total,
            num_generated=len(poses),
            num_collision_free=len(free),
        )

    def _scene(self, cloud: MaskedCloud) -> Floats:
        """What a gripper may run into, thinned at random but always in the same way."""
        others = cloud.outside_m
        if len(others) <= self._num_scene_points:
            return others
        chosen = np.random.default_rng(self.seed).permutation(len(others))[: self._num_scene_points]
        return np.asarray(others[chosen], dtype=np.float64)

    def _collides(self, pose: Floats, scene_m: Floats) -> bool:
        """Whether a point of the scene lies in the opened gripper or within the clearance of it."""
        own = (scene_m - pose[:3, 3]) @ pose[:3, :3]
        for low, high in GRIPPER_BOXES_M:
            away = np.maximum(np.maximum(np.array(low) - own, own - np.array(high)), 0.0)
            if ((away**2).sum(axis=1) < self._clearance_m**2).any():
                return True
        return False


def _key_points_m(pose: Floats) -> Floats:
    """Centre, left base, right base, left tip, right tip, (5, 3), in the frame of ``pose``."""
    half, length = DRAWN_WIDTH_M / 2, DRAWN_FINGER_M
    points = np.array(
        [[0, 0, 0], [-half, 0, 0], [half, 0, 0], [-half, 0, length], [half, 0, length]]
    )
    found = points @ pose[:3, :3].T + pose[:3, 3]
    if found[:, 2].min() <= 0:
        raise ToolRefusal("behind_camera", "the gripper does not lie in front of the camera")
    return np.asarray(found, dtype=np.float64)
