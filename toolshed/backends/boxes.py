"""The smallest box in any direction around a mask's points, corners in Open3D's order.

Of the boxes that lie with a face on a face of the convex hull and with an edge along one of its
edges, the smallest; Open3D tries one edge per face, so its box is never smaller. The axes are those
of OpenGL (y up, z back) turned to the camera frame, as in the release.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from toolshed.backends.checkpoints import needed
from toolshed.backends.clouds import Floats, masked_cloud
from toolshed.errors import ConfigError, ToolRefusal
from toolshed.tabletop.camera import project
from toolshed.tabletop.shapes import box_corners
from toolshed.tools.boxes import Boxes
from toolshed.types import OrientedBox

_OPENGL = np.diag([1.0, -1.0, -1.0])
_FLAT_M = 1e-9
"""Points nearer to one plane than this lie in it."""


class MinimalBoxes(Boxes):
    """Minimum oriented boxes by our own search, or by Open3D where it is installed."""

    environment: ClassVar[str] = "bbox"

    def __init__(self, *, solver: str = "own") -> None:
        """``solver``: ``own``, or ``open3d`` for the very library of the release."""
        if solver not in ("own", "open3d"):
            raise ConfigError(f"solver = {solver!r}; write own or open3d")
        self._open3d = needed("open3d", self.environment) if solver == "open3d" else None

    def compute_bbox(
        self,
        point_cloud: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        focal_length_px: float,
    ) -> OrientedBox:
        cloud = masked_cloud(point_cloud, mask, focal_length_px)
        points = cloud.inside_m @ _OPENGL
        pose, extent = (
            minimal_box(points) if self._open3d is None else _by_open3d(points, self._open3d)
        )
        corners = box_corners(pose, extent) @ _OPENGL
        if corners[:, 2].min() <= 0:
            raise ToolRefusal("behind_camera", "the box does not lie in front of the camera")
        height, width = mask.shape
        return OrientedBox(
            corners_m=corners,
            corners_uv=project(corners, focal_length_px, width, height),
            extent_m=extent,
            num_kept=len(cloud.inside_m),
            num_total=cloud.num_total,
        )


def minimal_box(points_m: Floats) -> tuple[Floats, Floats]:
    """Pose (4, 4), right-handed, and extents (3,) of the smallest box around points (N, 3).

    Points in one plane, on one line or in one place get a box without height, width or size.
    """
    centre = points_m.mean(axis=0)
    _, spread, axes = np.linalg.svd(points_m - centre, full_matrices=False)
    scale = np.sqrt(len(points_m))
    rank = int(np.count_nonzero(spread > _FLAT_M * scale))
    frame = _right_handed(_completed(axes[:rank]))
    if rank == 3:
        frames = _hull_frames(points_m)
    elif rank == 2:
        frames = _flat_frames(points_m, frame)
    else:
        frames = frame[None]
    return _smallest(points_m, frames)


def _smallest(points_m: Floats, frames: Floats) -> tuple[Floats, Floats]:
    """The best of frames (F, 3, 3), rows are axes; area decides between boxes of no volume."""
    along = np.einsum("fac,nc->fan", frames, points_m)
    low, high = along.min(axis=2), along.max(axis=2)
    sizes = high - low
    areas = sizes[:, 0] * sizes[:, 1] + sizes[:, 1] * sizes[:, 2] + sizes[:, 2] * sizes[:, 0]
    best = int(np.lexsort((areas, np.prod(sizes, axis=1)))[0])
    pose = np.eye(4)
    pose[:3, :3] = frames[best].T
    pose[:3, 3] = frames[best].T @ ((low[best] + high[best]) / 2)
    return pose, np.asarray(sizes[best], dtype=np.float64)


def _hull_frames(points_m: Floats) -> Floats:
    """An axis along every edge of every hull triangle, one along the triangle's normal."""
    from scipy.spatial import ConvexHull

    # Hulls of rounded points have slivers; a joggle keeps every facet a triangle of some area.
    hull = ConvexHull(points_m, qhull_options="Qt")
    corners = points_m[hull.simplices]
    normals = hull.equations[:, :3]
    found = []
    for first, second in ((0, 1), (1, 2), (2, 0)):
        edges = corners[:, second] - corners[:, first]
        edges -= (edges * normals).sum(axis=1, keepdims=True) * normals
        lengths = np.linalg.norm(edges, axis=1, keepdims=True)
        long = lengths[:, 0] > _FLAT_M
        x, z = edges[long] / lengths[long], normals[long]
        found.append(np.stack([x, np.cross(z, x), z], axis=1))
    frames = np.concatenate(found)
    # Neighbouring triangles of one face bring the same frame again.
    _, unique = np.unique(np.round(frames.reshape(-1, 9), 9), axis=0, return_index=True)
    return np.asarray(frames[np.sort(unique)], dtype=np.float64)


def _flat_frames(points_m: Floats, frame: Floats) -> Floats:
    """Frames in the points' own plane, one per edge of their outline."""
    from scipy.spatial import ConvexHull

    flat = points_m @ frame[:2].T
    outline = flat[ConvexHull(flat).vertices]
    edges = np.roll(outline, -1, axis=0) - outline
    edges /= np.linalg.norm(edges, axis=1, keepdims=True)
    x = edges @ frame[:2]
    z = np.broadcast_to(frame[2], x.shape)
    return np.stack([x, np.cross(z, x), z], axis=1)


def _completed(axes: Floats) -> Floats:
    """Three orthogonal rows that begin with the given ones."""
    found = list(axes)
    for candidate in np.eye(3):
        rest = candidate - sum((axis * (axis @ candidate) for axis in found), np.zeros(3))
        if len(found) < 3 and np.linalg.norm(rest) > 0.5:
            found.append(rest / np.linalg.norm(rest))
    return np.array(found)


def _right_handed(frame: Floats) -> Floats:
    turned = frame.copy()
    turned[2] *= np.sign(np.linalg.det(frame))
    return turned


def _by_open3d(points_m: Floats, open3d: Any) -> tuple[Floats, Floats]:
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points_m))
    try:
        box = cloud.get_minimal_oriented_bounding_box()
    except RuntimeError as error:
        raise ToolRefusal("no_points", f"no box fits around {len(points_m)} points") from error
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = box.R, box.center
    return pose, np.asarray(box.extent, dtype=np.float64)
