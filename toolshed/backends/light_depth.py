"""Depth from the picture's depth sensor image: dropouts filled, metres, nothing estimated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolshed.errors import ToolRefusal
from toolshed.tools.depth import Depth
from toolshed.types import DepthEstimate, ToolImage

FAR_M = 100.0
"""Cloud points are kept when 0 < z < FAR_M, as the published tool does."""


class LightDepth(Depth):
    def estimate_depth(self, image: ToolImage) -> DepthEstimate:
        depth, focal = sensed_depth(image)
        return DepthEstimate(depth_m=depth, focal_length_px=focal)

    def estimate_depth_with_pointcloud(self, image: ToolImage) -> DepthEstimate:
        depth, focal = sensed_depth(image)
        return DepthEstimate(depth_m=depth, focal_length_px=focal, points=unproject(depth, focal))


def sensed_depth(image: ToolImage) -> tuple[npt.NDArray[np.float32], float]:
    """Depth in metres with small holes filled, and the focal length in pixels."""
    if image.depth_mm is None:
        raise ToolRefusal(
            "no_depth", "This picture has no depth sensor image, so its depth cannot be read."
        )
    if image.focal_length_px is None:
        raise ToolRefusal(
            "no_focal_length", "The focal length of this picture's camera is not known."
        )
    return fill_holes(image.depth_mm.astype(np.float32) / 1000.0), image.focal_length_px


def fill_holes(depth_m: npt.NDArray[np.float32], *, reach_px: int = 2) -> npt.NDArray[np.float32]:
    """Give unknown pixels (0 or less) the median of the known ones around; big holes stay open."""
    filled = depth_m.copy()
    for reach in range(1, reach_px + 1):
        padded = np.pad(filled, reach)
        rows, columns = np.nonzero(filled <= 0)
        span = np.arange(2 * reach + 1)
        around = padded[rows[:, None, None] + span[:, None], columns[:, None, None] + span]
        around = around.reshape(len(rows), len(span) ** 2)
        known = np.count_nonzero(around > 0, axis=1)
        around[around <= 0] = np.inf
        around.sort(axis=1)
        # A pixel of the picture, never a mean: between two surfaces there is no third.
        middle = around[np.arange(len(rows)), np.maximum(known - 1, 0) // 2]
        enough = known >= 3
        filled[rows[enough], columns[enough]] = middle[enough]
    return filled


def unproject(depth_m: npt.NDArray[np.float32], focal_length_px: float) -> npt.NDArray[np.float32]:
    """Row-major camera-frame cloud (N, 3) of the pixels with a depth, through pixel middles."""
    height, width = depth_m.shape
    points = np.empty((height, width, 3), dtype=np.float32)
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / np.float32(focal_length_px)
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / np.float32(focal_length_px)
    np.multiply(depth_m, x, out=points[..., 0])
    np.multiply(depth_m, y[:, None], out=points[..., 1])
    points[..., 2] = depth_m
    return points[(depth_m > 0) & (depth_m < FAR_M)]
