"""What stands on what, from a cloud: the dominant plane, and an object's points above it.

Clouds arrive without their pixel grid, so they are projected back into the mask's picture first:
there, noise can be averaged and the rim that a mask's erosion took can be regained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from toolshed.errors import ToolRefusal
from toolshed.tool import FARTHEST_M

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NEAREST_M = 1e-3
"""A depth below this is none: dividing by it leads nowhere."""
PLANE_BAND_M = 0.008
MIN_PLANE_SHARE = 0.30
"""Of the cloud's points, for a plane to count as the support."""
NUM_TRIALS = 80
NUM_SAMPLES = 1500
NUM_REFINED = 20_000
CLEAR_OF_PLANE_M = 0.009
"""Three times the sensor's noise."""
OBSTACLE_M = 0.012
"""Height over the support from which something is in a gripper's way."""
REGAIN_SHARE = 0.007
"""Of the width: a little more than segmentation erodes."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Support:
    """A plane whose frame has its origin below the camera and z up, towards the camera's side."""

    rotation: Floats
    """Shape (3, 3), camera from plane; columns are two directions in the plane and its normal."""
    origin_m: Floats

    def to_plane(self, points_m: Floats) -> Floats:
        return np.asarray((points_m - self.origin_m) @ self.rotation, dtype=np.float64)

    def to_camera(self, points_m: Floats) -> Floats:
        return np.asarray(points_m @ self.rotation.T + self.origin_m, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class ObjectPoints:
    """Points of a masked object in the camera frame, and everything else of the scene."""

    masked_m: Floats
    """Shape (N, 3): exactly the cloud's points whose pixel the mask covers."""
    smooth_m: Floats
    """Shape (M, 3): noise averaged, rim regained when there is a support."""
    others_m: Floats
    """What stands clear of the support without belonging to the object; all else without one."""
    num_total: int
    support: Support | None


def object_points(
    point_cloud: npt.NDArray[np.floating], mask: Bools, focal_length_px: float
) -> ObjectPoints:
    """Split a cloud by a mask; refuses with a reason when nothing lies under it."""
    if point_cloud.ndim != 2 or point_cloud.shape[1] != 3:
        raise ToolRefusal("bad_cloud", f"point_cloud has shape {point_cloud.shape}, not (N, 3)")
    if mask.ndim != 2:
        raise ToolRefusal("bad_mask", f"mask has shape {mask.shape}, not (H, W)")
    cloud = np.asarray(point_cloud, dtype=np.float64)
    # Neither infinite points nor those that are not a number lie within anything.
    cloud = cloud[(np.abs(cloud) <= FARTHEST_M).all(axis=1) & (cloud[:, 2] >= NEAREST_M)]
    rows, columns, seen = _pixels(cloud, mask.shape, focal_length_px)
    inside = np.zeros(len(cloud), dtype=bool)
    inside[seen] = mask[rows, columns]
    if not inside.any():
        raise ToolRefusal(
            "no_points", f"none of the {len(point_cloud)} points lies inside the mask"
        )
    depth = np.zeros(mask.shape)
    depth[rows, columns] = cloud[seen, 2]
    support = find_support(cloud)
    whole = _regain(mask, depth, support, focal_length_px)
    covered = np.zeros(len(cloud), dtype=bool)
    covered[seen] = whole[rows, columns]
    others = cloud[~covered]
    if support is not None:
        others = others[support.to_plane(others)[:, 2] > OBSTACLE_M]
    return ObjectPoints(
        masked_m=cloud[inside],
        smooth_m=_smoothed(whole, depth, focal_length_px),
        others_m=others,
        num_total=len(point_cloud),
        support=support,
    )


def check_before_camera(points_m: Floats, what: str) -> None:
    """Refuse what cannot be projected because a part of it is not in front of the camera."""
    if not (np.isfinite(points_m).all() and points_m[:, 2].min() >= NEAREST_M):
        raise ToolRefusal("behind_camera", f"the {what} does not lie in front of the camera")


def find_support(cloud_m: Floats) -> Support | None:
    """The dominant plane of a cloud by consensus, or None when no plane dominates."""
    rng = np.random.default_rng(0)
    sample = cloud_m[rng.integers(len(cloud_m), size=min(NUM_SAMPLES, len(cloud_m)))]
    corners = sample[rng.integers(len(sample), size=(NUM_TRIALS, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    normals, corners = normals[lengths > 1e-9], corners[lengths > 1e-9]
    if len(normals) == 0:
        return None
    normals /= lengths[lengths > 1e-9][:, None]
    heights = sample @ normals.T - np.einsum("tc,tc->t", normals, corners[:, 0])
    best = int((np.abs(heights) < PLANE_BAND_M).sum(axis=0).argmax())
    normal, centre = normals[best], corners[best, 0]
    dense = cloud_m[:: max(1, len(cloud_m) // NUM_REFINED)]
    for _ in range(3):
        near = dense[np.abs((dense - centre) @ normal) < PLANE_BAND_M]
        if len(near) < MIN_PLANE_SHARE * len(dense):
            return None
        centre = near.mean(axis=0)
        normal = np.linalg.eigh((near - centre).T @ (near - centre))[1][:, 0]
    normal = normal if centre @ normal < 0 else -normal
    side = np.cross(normal, [0.0, 0.0, 1.0])
    if np.linalg.norm(side) < 1e-6:
        side = np.array([1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    rotation = np.stack([side, np.cross(normal, side), normal], axis=1)
    return Support(rotation=rotation, origin_m=centre)


def _pixels(
    cloud_m: Floats, shape: tuple[int, ...], focal_length_px: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Row, column and index of every point that projects into the picture."""
    height, width = shape[0], shape[1]
    columns = np.floor(cloud_m[:, 0] / cloud_m[:, 2] * focal_length_px + width / 2 + 1e-3)
    rows = np.floor(cloud_m[:, 1] / cloud_m[:, 2] * focal_length_px + height / 2 + 1e-3)
    seen = np.flatnonzero((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height))
    return rows[seen].astype(np.intp), columns[seen].astype(np.intp), seen


def _regain(mask: Bools, depth: Floats, support: Support | None, focal_length_px: float) -> Bools:
    """The mask and its neighbours that stand clear of the plane and near it in depth."""
    if support is None:
        return mask
    reach = max(1, round(REGAIN_SHARE * mask.shape[1]))
    around = ndimage.binary_dilation(mask, iterations=reach) & (depth > 0)
    rows, columns = np.nonzero(around)
    points = _unproject(rows, columns, depth, focal_length_px)
    own = depth[mask & (depth > 0)]
    near = (points[:, 2] > own.min() - 0.02) & (points[:, 2] < own.max() + 0.02)
    clear = support.to_plane(points)[:, 2] > CLEAR_OF_PLANE_M
    whole = np.zeros(mask.shape, dtype=bool)
    whole[rows[clear & near], columns[clear & near]] = True
    # A mask of the table itself leaves nothing clear of it.
    return whole if np.count_nonzero(whole) >= 0.5 * np.count_nonzero(mask) else mask


def _smoothed(mask: Bools, depth: Floats, focal_length_px: float) -> Floats:
    """Points of the mask with the depth averaged over each pixel's masked neighbours."""
    known = mask & (depth > 0)
    weights = ndimage.uniform_filter(known.astype(np.float64), 3)
    sums = ndimage.uniform_filter(np.where(known, depth, 0.0), 3)
    rows, columns = np.nonzero(known)
    smooth = np.zeros(depth.shape)
    smooth[rows, columns] = sums[rows, columns] / weights[rows, columns]
    # Across a depth step an average lies in the air, so keep what was measured there.
    step = np.abs(smooth - depth) > 0.012
    smooth[step] = depth[step]
    return _unproject(rows, columns, smooth, focal_length_px)


def _unproject(
    rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], depth: Floats, focal_px: float
) -> Floats:
    z = depth[rows, columns]
    x = (columns + 0.5 - depth.shape[1] / 2) / focal_px * z
    y = (rows + 0.5 - depth.shape[0] / 2) / focal_px * z
    return np.stack([x, y, z], axis=1)
