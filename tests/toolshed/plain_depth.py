"""Test-only: a depth tool that needs nothing but numpy, for environments that have nothing else."""

from __future__ import annotations

import numpy as np

from toolshed.tools.depth import Depth
from toolshed.types import DepthEstimate, ToolImage


class PlainDepth(Depth):
    """Depth is one metre plus the row."""

    def estimate_depth(self, image: ToolImage) -> DepthEstimate:
        rows = np.arange(image.height, dtype=np.float32)[:, None]
        depth_m = (1 + rows).repeat(image.width, axis=1)
        return DepthEstimate(depth_m=depth_m, focal_length_px=float(np.__version__[0]))

    def estimate_depth_with_pointcloud(self, image: ToolImage) -> DepthEstimate:
        raise NotImplementedError
