"""Small operations on what other tools have kept."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from toolshed.tool import (
    ArrayOf,
    Family,
    FocalLength,
    Mask,
    PixelData,
    UnitFloat,
    Within,
    listed_tool,
    tool,
)
from toolshed.types import IndexedValue, Point, TextReply, ToolImage

Pixels = Annotated[int, Within(1, 20_000)]
Points3D = Annotated[npt.NDArray[np.float64], ArrayOf(("point_cloud", "box"), (None, 3))]
PixelPoints = Annotated[npt.NDArray[np.float64], ArrayOf((), (None, 2))]
Depths = Annotated[npt.NDArray[np.float64], ArrayOf((), (None,))]


class VisionOps(Family):
    """Reads arrays that are laid out like a picture, cuts pictures, and projects points.

    All but ``index_at`` are shown only by a config that lists them.
    """

    name: ClassVar[str] = "vision_ops"

    @tool
    @abstractmethod
    def index_at(self, data: PixelData, u: UnitFloat, v: UnitFloat) -> IndexedValue:
        """Read one pixel of a depth map, a mask or another array laid out like an image.

        Args:
            data: The array to read, for example $depth_map.
            u: Horizontal position, 0 at the left edge and 1 at the right.
            v: Vertical position, 0 at the top edge and 1 at the bottom.
        """

    @listed_tool
    @abstractmethod
    def point_crop(self, image: ToolImage, points: list[Point]) -> TextReply:
        """Cut out the smallest part of an image that holds all points.

        It joins the conversation as the next image and is kept as $cropped_image.

        Args:
            image: Which image of the conversation to cut, counted from 0.
            points: List of (x, y) points between 0 and 1, or a variable that holds one.
        """

    @listed_tool
    @abstractmethod
    def mask_crop(self, image: ToolImage, mask: Mask) -> TextReply:
        """Cut out what a mask covers; everything else becomes white.

        It joins the conversation as the next image and is kept as $masked_crop.

        Args:
            image: Which image of the conversation to cut, counted from 0.
            mask: Mask as large as the image, for example $segmentation_mask.
        """

    @listed_tool
    @abstractmethod
    def draw_polygon(self, image: ToolImage, points: list[Point]) -> TextReply:
        """Draw the closed outline through points on a copy of an image, in red.

        It joins the conversation as the next image and is kept as $drawn_polygon.

        Args:
            image: Which image of the conversation to draw on, counted from 0.
            points: List of (x, y) points between 0 and 1, or a variable that holds one.
        """

    @listed_tool
    @abstractmethod
    def project_3d_points_to_2d(
        self, points: Points3D, focal_length_px: FocalLength, width: Pixels, height: Pixels
    ) -> TextReply:
        """Find the pixels at which a camera sees 3D points.

        Keeps them as $projected_2d_points, one row (x, y) in pixels per point.

        Args:
            points: Rows (x, y, z) in metres in the camera frame, for example $obb_corners_3d.
            focal_length_px: Focal length in pixels, for example $focal_length_px.
            width: Width of the image in pixels.
            height: Height of the image in pixels.
        """

    @listed_tool
    @abstractmethod
    def project_2d_points_to_3d(
        self,
        points: PixelPoints,
        point_depth: Depths,
        focal_length_px: FocalLength,
        width: Pixels,
        height: Pixels,
    ) -> TextReply:
        """Find the 3D points that a camera sees at pixels, from their depths.

        Keeps them as $projected_3d_points, one row (x, y, z) in metres per point.

        Args:
            points: Rows (x, y) in pixels.
            point_depth: Depth of each point in metres.
            focal_length_px: Focal length in pixels, for example $focal_length_px.
            width: Width of the image in pixels.
            height: Height of the image in pixels.
        """
