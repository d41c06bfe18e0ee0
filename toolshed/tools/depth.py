"""Depth: how far away everything in a picture is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from toolshed.tool import Family, tool
from toolshed.types import DepthEstimate, ToolImage


class Depth(Family):
    """Metric depth of a picture, as a map and as a cloud."""

    name: ClassVar[str] = "depth_estimator"

    @tool
    @abstractmethod
    def estimate_depth(self, image: ToolImage) -> DepthEstimate:
        """Measure how far away every pixel of an image is, in metres.

        Keeps the map as $depth_map and the camera's focal length in pixels as $focal_length_px.

        Args:
            image: Which image of the conversation to look at, counted from 0.
        """

    @tool
    @abstractmethod
    def estimate_depth_with_pointcloud(self, image: ToolImage) -> DepthEstimate:
        """Measure depth and turn every pixel into a 3D point in front of the camera.

        Keeps $depth_map, $focal_length_px and $point_cloud (rows of x right, y down, z forward).

        Args:
            image: Which image of the conversation to look at, counted from 0.
        """
