"""The smallest turned box of an object, completed down to what the object stands on.

One view shows the top and the near sides. When the cloud has a dominant plane, the box is upright
on it; a ball is recognised by its curvature, because half of it is hidden. Without a plane, the
smallest box in any direction around the visible points is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.transform import Rotation

from toolshed.backends.supports import (
    Floats,
    ObjectPoints,
    Support,
    check_before_camera,
    object_points,
)
from toolshed.errors import ToolRefusal
from toolshed.tabletop.camera import project
from toolshed.tabletop.shapes import box_corners
from toolshed.tools.boxes import Boxes
from toolshed.types import OrientedBox

STANDS_BELOW_M = 0.025
"""An object whose lowest visible point is nearer the plane than this stands on it."""
BALL_MISFIT = 0.04
"""Largest median distance of a ball's points from its sphere, in radii; other shapes show 0.07."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class UprightBox:
    """A box that stands upright on a support, in the support's frame."""

    centre_m: Floats
    yaw_rad: float
    """Direction of the first side."""
    size_m: Floats

    @property
    def pose(self) -> Floats:
        cosine, sine = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        pose = np.eye(4)
        pose[:2, :2] = [[cosine, -sine], [sine, cosine]]
        pose[:3, 3] = self.centre_m
        return pose


class LightBoxes(Boxes):
    def compute_bbox(
        self,
        point_cloud: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        focal_length_px: float,
    ) -> OrientedBox:
        seen = object_points(point_cloud, mask, focal_length_px)
        if len(seen.smooth_m) < 8:
            raise ToolRefusal("no_points", f"{len(seen.smooth_m)} points are too few for a box")
        pose, size = _fit(seen)
        corners = box_corners(pose, size)
        check_before_camera(corners, "box")
        height, width = mask.shape
        return OrientedBox(
            corners_m=corners,
            corners_uv=project(corners, focal_length_px, width, height),
            extent_m=size,
            num_kept=len(seen.masked_m),
            num_total=seen.num_total,
        )


def _fit(seen: ObjectPoints) -> tuple[Floats, Floats]:
    """Camera-frame pose (4, 4) and extents (3,)."""
    if seen.support is None:
        return smallest_box(seen.smooth_m)
    box = upright_box(seen.smooth_m, seen.support)
    pose = np.eye(4)
    pose[:3, :3] = seen.support.rotation
    pose[:3, 3] = seen.support.origin_m
    return np.asarray(pose @ box.pose), box.size_m


def upright_box(points_m: Floats, support: Support) -> UprightBox:
    """The upright box of camera-frame points, with what one view hides filled in."""
    points = support.to_plane(points_m)
    ball = _ball(points)
    if ball is not None:
        side = 2 * float(ball[3])
        return UprightBox(centre_m=ball[:3], yaw_rad=0.0, size_m=np.full(3, side))
    bottom, top = np.percentile(points[:, 2], [2, 98])
    if bottom < STANDS_BELOW_M or top - bottom < 0.012:
        bottom = 0.0
    centre, yaw, sides = smallest_rectangle(points[:, :2])
    return UprightBox(
        centre_m=np.array([*centre, (bottom + top) / 2]),
        yaw_rad=yaw,
        size_m=np.array([*sides, max(top - bottom, 1e-3)]),
    )


def smallest_rectangle(points_m: Floats) -> tuple[Floats, float, Floats]:
    """Centre (2,), direction of the first side and sides (2,) of the smallest turned rectangle.

    One point in 150 may stay outside at each side, because sensors have outliers.
    """

    def measure(angles: Floats) -> tuple[Floats, Floats]:
        axes = np.stack([np.cos(angles), np.sin(angles)])
        across = np.stack([-np.sin(angles), np.cos(angles)])
        ends = [np.percentile(points_m @ each, [0.7, 99.3], axis=0) for each in (axes, across)]
        return np.asarray(ends[0]), np.asarray(ends[1])

    angles = np.radians(np.arange(0.0, 90.0, 3.0))
    for step in (1.0, 0.25):
        first, second = measure(angles)
        best = angles[int(((first[1] - first[0]) * (second[1] - second[0])).argmin())]
        angles = best + np.radians(np.arange(-3, 4) * step)
    first, second = measure(np.array([best]))
    middle = np.array([first.mean(), second.mean()])
    turn = np.array([[np.cos(best), -np.sin(best)], [np.sin(best), np.cos(best)]])
    sides = np.array([first[1, 0] - first[0, 0], second[1, 0] - second[0, 0]])
    return turn @ middle, float(best), np.maximum(sides, 1e-3)


def smallest_box(points_m: Floats) -> tuple[Floats, Floats]:
    """Pose (4, 4) and extents of the smallest box in any direction, from several starts."""
    try:
        corners = points_m[ConvexHull(points_m).vertices]
    except QhullError:
        corners = points_m
    start = np.linalg.eigh(np.cov(corners.T))[1]
    start[:, 0] *= np.sign(np.linalg.det(start))

    def volume(turn: Floats) -> float:
        turned = corners @ start @ Rotation.from_rotvec(turn).as_matrix()
        return float(np.prod(np.ptp(turned, axis=0) + 1e-6))

    angles = [-0.6, 0.0, 0.6]
    starts = [np.array([x, y, z]) for x in angles for y in angles for z in angles]
    starts.sort(key=volume)
    found = min(
        (
            minimize(volume, each, method="Nelder-Mead", options={"maxiter": 120})
            for each in starts[:3]
        ),
        key=lambda result: float(result.fun),
    )
    rotation = start @ Rotation.from_rotvec(found.x).as_matrix()
    turned = corners @ rotation
    low, high = turned.min(axis=0), turned.max(axis=0)
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = rotation @ ((low + high) / 2)
    return pose, np.maximum(high - low, 1e-3)


def _ball(points: Floats) -> Floats | None:
    """Centre and radius (4,) of the sphere through points, or None when they lie on no sphere."""
    system = np.column_stack([2 * points, np.ones(len(points))])
    solution, *_ = np.linalg.lstsq(system, (points**2).sum(axis=1), rcond=None)
    square = solution[3] + (solution[:3] ** 2).sum()
    if square <= 0:
        return None
    radius = float(np.sqrt(square))
    misfit = np.abs(np.linalg.norm(points - solution[:3], axis=1) - radius)
    spread = np.ptp(points, axis=0).max()
    if np.median(misfit) > BALL_MISFIT * radius or not 0.4 * spread < radius < 0.75 * spread:
        return None
    return np.array([*solution[:3], radius])
