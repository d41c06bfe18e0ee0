"""Test-only back-ends: a pointer and a map reader that take their time, differently per call."""

from __future__ import annotations

import time

import numpy as np

from toolshed.tools.depth import Depth
from toolshed.tools.pointing import Pointing
from toolshed.types import DepthEstimate, Detections, Point, ToolImage


class SlowPointing(Pointing):
    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s

    def detect_one(self, image: ToolImage, obj_name: str) -> Detections:
        time.sleep(self.delay_s * (len(obj_name) % 4))
        return Detections(obj_name=obj_name, points=(Point(u=0.43, v=0.57),))

    def detect_all(self, image: ToolImage, obj_name: str) -> Detections:
        return self.detect_one(image, obj_name)


class FlatDepth(Depth):
    def estimate_depth(self, image: ToolImage) -> DepthEstimate:
        depth = np.full((image.height, image.width), 0.5, dtype=np.float32)
        return DepthEstimate(depth_m=depth, focal_length_px=100.0)

    def estimate_depth_with_pointcloud(self, image: ToolImage) -> DepthEstimate:
        return self.estimate_depth(image)
