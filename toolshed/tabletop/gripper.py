"""The two-finger gripper: its measures, its five image points, and grasps known to be right.

Grasp frame: origin in the middle of the gripper's base, x is the closing direction, z approaches.
The fingers reach from z = 0 to z = FINGER_LENGTH_M.
"""

from __future__ import annotations

import numpy as np

from toolshed.tabletop.camera import Floats, project
from toolshed.tabletop.scene import Scene, SceneObject

FINGER_LENGTH_M = 0.08
DRAWN_WIDTH_M = 0.16
"""Width of the gripper in the five published key points, wider than it opens."""
MAX_OPENING_M = 0.08
FINGER_HALF_M = (0.008, 0.011)
"""Half thickness along x and half width along y."""
PALM_HALF_M = (0.10, 0.032, 0.030)
"""Half extents of the palm block behind the base."""


def key_points_m(pose: Floats) -> Floats:
    """Centre, left base, right base, left tip, right tip, (5, 3), in the frame of ``pose``."""
    half, length = DRAWN_WIDTH_M / 2, FINGER_LENGTH_M
    points = np.array(
        [[0, 0, 0], [-half, 0, 0], [half, 0, 0], [-half, 0, length], [half, 0, length]]
    )
    return np.asarray(points @ pose[:3, :3].T + pose[:3, 3], dtype=np.float64)


def key_points_uv(pose_camera: Floats, focal_length_px: float, width: int, height: int) -> Floats:
    """The five key points of a camera-frame grasp, (5, 2), normalised."""
    return project(key_points_m(pose_camera), focal_length_px, width, height)


def top_down(centre_m: Floats, closing: Floats, up: Floats, top_m: float) -> Floats:
    """Pose (4, 4) of a grasp from above.

    ``centre_m`` is the object's footprint centre on its support, ``closing`` the direction in which
    the fingers close, ``up`` the support's normal, ``top_m`` the object's height over the support.
    """
    tip = float(np.clip(0.5 * top_m - 0.012, 0.008, 0.04))
    # The palm may not press on the object.
    tip = max(tip, top_m + 0.008 - FINGER_LENGTH_M)
    pose = np.eye(4)
    pose[:3, 2] = -up
    pose[:3, 0] = closing
    pose[:3, 1] = np.cross(-up, closing)
    pose[:3, 3] = centre_m + up * (tip + FINGER_LENGTH_M)
    return pose


def oracle_grasp(scene: Scene, index: int) -> Floats:
    """A camera-frame grasp from the exact pose of an object: across its narrow side, from above."""
    item = scene.objects[index]
    up = np.array([0.0, 0.0, 1.0])
    foot = item.pose[:3, 3] + item.pose[:3, 0] * _body_offset_m(item)
    foot[2] = item.plinth_m
    closing = item.pose[:3, 1 if item.size_m[1] <= item.size_m[0] else 0]
    pose = top_down(foot, closing, up, item.size_m[2])
    return scene.camera.pose_to_camera(pose)


def _body_offset_m(item: SceneObject) -> float:
    """Where along x the part stands that fingers should hold: a cup's body beside its handle."""
    return (item.size_m[1] - item.size_m[0]) / 2 if item.shape == "cup" else 0.0
