"""The robot: a camera and an arm in a world that the model can change but not name.

A call receives the world and returns it as it is afterwards, so any replica can serve it; a robot
whose world is no session's to carry returns a value alone. Calls of
a session run in order, and one that has started is never tried again.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolshed.tool import Family, MetricPoint, Pose, tool
from toolshed.types import Point, ToolValue

if TYPE_CHECKING:
    from toolshed.tabletop.state import WorldState


@dataclass(frozen=True, kw_only=True, slots=True)
class RobotReply:
    """What a robot call brought, and the world after it."""

    value: ToolValue
    world: WorldState


class Robot(Family):
    """Sees and moves."""

    name: ClassVar[str] = "robot"
    stateful: ClassVar[bool] = True
    idempotent: ClassVar[bool] = False

    @tool
    @abstractmethod
    def capture_image(self, world: WorldState) -> RobotReply | ToolValue:
        """Take a picture with the robot's camera; it joins the conversation as the next image."""

    @tool
    @abstractmethod
    def get_depth(self, world: WorldState) -> RobotReply | ToolValue:
        """Read the robot's depth camera.

        Keeps the map in metres as $depth_map and the focal length in pixels as $focal_length_px.
        """

    @tool
    @abstractmethod
    def get_depth_with_pointcloud(self, world: WorldState) -> RobotReply | ToolValue:
        """Read the robot's depth camera as a map and as 3D points.

        Keeps $depth_map, $focal_length_px and $point_cloud (rows of x right, y down, z forward).
        """

    @tool
    @abstractmethod
    def execute_grasp(self, grasp_pose: Pose, world: WorldState) -> RobotReply | ToolValue:
        """Move the gripper to a pose, close it and lift; says whether the object was lifted.

        Args:
            grasp_pose: 4x4 pose of the gripper in the camera frame, for example $grasp_pose.
        """

    @tool
    @abstractmethod
    def place_object_at_2d_location(
        self, placement_point_2d: Point, world: WorldState
    ) -> RobotReply | ToolValue:
        """Put the held object down at the place that an image point shows.

        Args:
            placement_point_2d: Point [x, y] between 0 and 1 in the camera's image.
        """

    @tool
    @abstractmethod
    def place_object_at_3d_location(
        self, placement_point_3d: MetricPoint, world: WorldState
    ) -> RobotReply | ToolValue:
        """Put the held object down at a place in space.

        Args:
            placement_point_3d: Point [x, y, z] in metres in the camera frame.
        """
