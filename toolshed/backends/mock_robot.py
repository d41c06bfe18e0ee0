"""A robot that is not there: it sees the question's picture, and everything it does succeeds.

For questions about pictures of real scenes, which cannot be acted in. The picture is handed over by
the session, in the place of a world.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolshed.backends.light_depth import sensed_depth, unproject
from toolshed.errors import ToolRefusal
from toolshed.tools.robot import Robot
from toolshed.types import CapturedImage, DepthEstimate, Point, RobotAction, ToolImage

GRASP_S = 2.5
PLACE_S = 1.8


class MockRobot(Robot):
    """Looks at ``world``, which is the question's first picture, and pretends to move."""

    def capture_image(self, world: object) -> CapturedImage:
        return CapturedImage(image=_picture(world))

    def get_depth(self, world: object) -> DepthEstimate:
        return _depth(_picture(world), cloud=False)

    def get_depth_with_pointcloud(self, world: object) -> DepthEstimate:
        return _depth(_picture(world), cloud=True)

    def execute_grasp(self, grasp_pose: npt.NDArray[np.float64], world: object) -> RobotAction:
        return RobotAction(action="grasp", success=True, execution_time_s=GRASP_S)

    def place_object_at_2d_location(self, placement_point_2d: Point, world: object) -> RobotAction:
        return RobotAction(action="place", success=True, execution_time_s=PLACE_S)

    def place_object_at_3d_location(
        self, placement_point_3d: npt.NDArray[np.float64], world: object
    ) -> RobotAction:
        return RobotAction(action="place", success=True, execution_time_s=PLACE_S)


def _picture(world: object) -> ToolImage:
    if not isinstance(world, ToolImage):
        raise ToolRefusal("no_image", "there is no picture for the robot to see")
    return world


def _depth(image: ToolImage, *, cloud: bool) -> DepthEstimate:
    depth_m, focal_length_px = sensed_depth(image)
    points = unproject(depth_m, focal_length_px) if cloud else None
    return DepthEstimate(
        depth_m=depth_m, focal_length_px=focal_length_px, points=points, source="robot"
    )
