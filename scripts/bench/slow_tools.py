"""A pointing tool that takes half a second: what a real one costs a rollout."""

from __future__ import annotations

import time

from toolshed.types import Detections, Point, ToolImage

SECONDS = 0.5


class SlowPointing:
    """Serves the roborefer family: waits, then points at the middle."""

    def detect_one(self, image: ToolImage, obj_name: str) -> Detections:
        time.sleep(SECONDS)
        return Detections(obj_name=obj_name, points=(Point(u=0.5, v=0.5),))
