"""Grasping: where and how a two-finger gripper should close on an object."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from toolshed.tool import Family, FocalLength, Mask, PointCloud, tool
from toolshed.types import GraspEstimate, ToolImage


class Grasping(Family):
    """Plans grasps on masked point clouds."""

    name: ClassVar[str] = "grasp_generator"

    @tool
    @abstractmethod
    def compute_grasp(
        self,
        point_cloud: PointCloud,
        mask: Mask,
        focal_length_px: FocalLength,
        image: ToolImage,
    ) -> GraspEstimate:
        """Plan a two-finger grasp of the object under a mask that touches nothing else.

        Replies with the gripper's centre, finger bases and finger tips as five image points.
        Keeps the 4x4 pose of the gripper in the camera frame as $grasp_pose.

        Args:
            point_cloud: The cloud of the whole scene, for example $point_cloud.
            mask: The mask of the object to grasp, for example $segmentation_mask.
            focal_length_px: Focal length of the camera in pixels, for example $focal_length_px.
            image: Which image of the conversation the mask belongs to, counted from 0.
        """
