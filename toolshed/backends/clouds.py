"""The points of a cloud that a mask covers, found through the pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolshed.errors import ToolRefusal
from toolshed.tool import FARTHEST_M

Floats = npt.NDArray[np.float64]
NEAREST_M = 1e-6
"""A depth below this is none: dividing by it leads nowhere."""
_ROUNDING_PX = 1e-3
"""A cloud in 32 bits may miss its pixel's border by so much."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class MaskedCloud:
    """A cloud in two parts, both in the camera frame."""

    inside_m: Floats
    """Shape (N, 3)."""
    outside_m: Floats
    """Shape (M, 3), what lies outside the picture included."""
    num_total: int
    """Of the cloud that was given."""


def masked_cloud(
    point_cloud: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_], focal_length_px: float
) -> MaskedCloud:
    """Split a cloud (N, 3) by a mask (H, W); refuses where a shape is wrong or nothing is inside.

    A point belongs to the pixel that its projection lies in, rounded down: what projects to
    (-1, 0) is outside the picture.
    """
    if point_cloud.ndim != 2 or point_cloud.shape[1] != 3:
        raise ToolRefusal("bad_cloud", f"point_cloud has shape {point_cloud.shape}, not (N, 3)")
    if mask.ndim != 2:
        raise ToolRefusal("bad_mask", f"mask has shape {mask.shape}, not (H, W)")
    cloud = np.asarray(point_cloud, dtype=np.float64)
    # Neither infinite points nor those that are not a number lie within anything.
    cloud = cloud[(np.abs(cloud) <= FARTHEST_M).all(axis=1)]
    height, width = mask.shape
    before = cloud[:, 2] >= NEAREST_M
    depth = np.where(before, cloud[:, 2], 1.0)
    columns = np.floor(cloud[:, 0] / depth * focal_length_px + width / 2 + _ROUNDING_PX)
    rows = np.floor(cloud[:, 1] / depth * focal_length_px + height / 2 + _ROUNDING_PX)
    seen = before & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    inside = np.zeros(len(cloud), dtype=bool)
    inside[seen] = mask[rows[seen].astype(np.intp), columns[seen].astype(np.intp)]
    if not inside.any():
        raise ToolRefusal(
            "no_points", f"none of the {len(point_cloud)} points lies inside the mask"
        )
    return MaskedCloud(inside_m=cloud[inside], outside_m=cloud[~inside], num_total=len(point_cloud))
