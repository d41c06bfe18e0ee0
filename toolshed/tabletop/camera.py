"""The pinhole camera of a scene: OpenCV axes, square pixels, principal point at the image centre.

Pixel (i, j) covers [i, i+1) x [j, j+1), its ray passes through its middle, and normalised (u, v) is
pixels over the picture's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Camera:
    position_m: Floats
    """Shape (3,), world."""
    rotation: Floats
    """Shape (3, 3), world from camera: the columns are right, down and forward."""
    focal_length_px: float
    width: int
    height: int

    def to_camera(self, points_m: Floats) -> Floats:
        """World points of shape (..., 3) in the camera frame."""
        return np.asarray((points_m - self.position_m) @ self.rotation, dtype=np.float64)

    def to_world(self, points_m: Floats) -> Floats:
        """Camera points of shape (..., 3) in the world frame."""
        return np.asarray(points_m @ self.rotation.T + self.position_m, dtype=np.float64)

    def pose_to_world(self, pose: Floats) -> Floats:
        """A pose (4, 4) given in the camera frame, in the world frame."""
        return np.asarray(self.pose @ pose, dtype=np.float64)

    def pose_to_camera(self, pose: Floats) -> Floats:
        return np.asarray(np.linalg.inv(self.pose) @ pose, dtype=np.float64)

    @property
    def pose(self) -> Floats:
        """World from camera, shape (4, 4)."""
        pose = np.eye(4)
        pose[:3, :3] = self.rotation
        pose[:3, 3] = self.position_m
        return pose

    def project(self, points_m: Floats) -> Floats:
        """World points of shape (..., 3) as normalised image points of shape (..., 2)."""
        return project(self.to_camera(points_m), self.focal_length_px, self.width, self.height)

    def rays(self) -> Floats:
        """World direction of every pixel, row-major, shape (H*W, 3), z-depth 1 along the axis."""
        return np.asarray(
            pixel_rays(self.width, self.height, self.focal_length_px) @ self.rotation.T,
            dtype=np.float64,
        )


def project(points_m: Floats, focal_length_px: float, width: int, height: int) -> Floats:
    """Camera-frame points of shape (..., 3) as normalised image points of shape (..., 2)."""
    scale = focal_length_px / np.array([width, height], dtype=np.float64)
    return np.asarray(points_m[..., :2] / points_m[..., 2:] * scale + 0.5, dtype=np.float64)


@lru_cache(maxsize=8)
def pixel_rays(width: int, height: int, focal_length_px: float) -> Floats:
    """Camera-frame direction of every pixel's middle, shape (H*W, 3), with z = 1."""
    x = (np.arange(width) + 0.5 - width / 2) / focal_length_px
    y = (np.arange(height) + 0.5 - height / 2) / focal_length_px
    rays = np.empty((height, width, 3))
    rays[..., 0] = x
    rays[..., 1] = y[:, None]
    rays[..., 2] = 1.0
    rays.setflags(write=False)
    return rays.reshape(-1, 3)


def look_at(
    target_m: Floats, *, distance_m: float, azimuth_rad: float, tilt_rad: float, roll_rad: float
) -> Floats:
    """Pose (4, 4) of a camera that looks at a point from a height, ``tilt`` below the horizon."""
    forward = np.array(
        [
            np.cos(tilt_rad) * np.cos(azimuth_rad),
            np.cos(tilt_rad) * np.sin(azimuth_rad),
            -np.sin(tilt_rad),
        ]
    )
    level = np.array([np.sin(azimuth_rad), -np.cos(azimuth_rad), 0.0])
    below = np.cross(forward, level)
    right = np.cos(roll_rad) * level + np.sin(roll_rad) * below
    pose = np.eye(4)
    pose[:3, 0] = right
    pose[:3, 1] = np.cross(forward, right)
    pose[:3, 2] = forward
    pose[:3, 3] = target_m - distance_m * forward
    return pose
