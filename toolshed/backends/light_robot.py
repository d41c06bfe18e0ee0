"""The robot of the embedded world: world state in, world state out, nothing kept between calls.

Its camera has the noise of the other pictures, and its depth is the sensor's; a place given in the
picture is found in that depth.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from toolshed.backends.light_depth import sensed_depth, unproject
from toolshed.backends.light_vision_ops import LightVisionOps
from toolshed.errors import ToolRefusal
from toolshed.tabletop.world import Outcome, World, WorldState
from toolshed.tool import FARTHEST_M
from toolshed.tools.robot import Robot, RobotReply
from toolshed.types import CapturedImage, DepthEstimate, Point, RobotAction


class LightRobot(Robot):
    def capture_image(self, world: WorldState) -> RobotReply:
        image = World.from_state(world).capture().image()
        return RobotReply(value=CapturedImage(image=image), world=world)

    def get_depth(self, world: WorldState) -> RobotReply:
        depth, focal = sensed_depth(World.from_state(world).capture().image())
        value = DepthEstimate(depth_m=depth, focal_length_px=focal, source="robot")
        return RobotReply(value=value, world=world)

    def get_depth_with_pointcloud(self, world: WorldState) -> RobotReply:
        depth, focal = sensed_depth(World.from_state(world).capture().image())
        value = DepthEstimate(
            depth_m=depth, focal_length_px=focal, points=unproject(depth, focal), source="robot"
        )
        return RobotReply(value=value, world=world)

    def execute_grasp(self, grasp_pose: npt.NDArray[np.float64], world: WorldState) -> RobotReply:
        if grasp_pose.shape != (4, 4) or not _is_metric(grasp_pose):
            raise ToolRefusal(
                "bad_pose",
                f"grasp_pose has shape {grasp_pose.shape}; (4, 4) is needed, "
                f"no number beyond {FARTHEST_M:g}",
            )
        body = World.from_state(world)
        return _reply("grasp", body, body.execute_grasp(grasp_pose))

    def place_object_at_2d_location(
        self, placement_point_2d: Point, world: WorldState
    ) -> RobotReply:
        body = World.from_state(world)
        depth, focal = sensed_depth(body.capture().image())
        u, v = placement_point_2d.u, placement_point_2d.v
        read = LightVisionOps().index_at(depth, u, v).value
        assert isinstance(read, float)
        height, width = depth.shape
        x, y = (u - 0.5) * width / focal * read, (v - 0.5) * height / focal * read
        return _reply("place", body, body.place(np.array([x, y, read])))

    def place_object_at_3d_location(
        self, placement_point_3d: npt.NDArray[np.float64], world: WorldState
    ) -> RobotReply:
        if placement_point_3d.shape != (3,) or not _is_metric(placement_point_3d):
            raise ToolRefusal(
                "bad_point",
                f"placement_point_3d must be three numbers, none beyond {FARTHEST_M:g}",
            )
        body = World.from_state(world)
        return _reply("place", body, body.place(placement_point_3d))


def _is_metric(array: npt.NDArray[np.float64]) -> bool:
    return bool((np.abs(array) <= FARTHEST_M).all())


def _reply(action: Literal["grasp", "place"], body: World, outcome: Outcome) -> RobotReply:
    value = RobotAction(
        action=action,
        success=outcome.success,
        execution_time_s=outcome.execution_time_s,
        image=body.capture().image(),
    )
    return RobotReply(value=value, world=outcome.state)
