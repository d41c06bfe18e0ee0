"""Segmentation: from points to the mask of what they lie on."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from toolshed.tool import Family, UnitFloat, tool
from toolshed.types import Point, Segmentation, ToolImage


class SegmentationTool(Family):
    """Cuts out the object under one or several points."""

    name: ClassVar[str] = "sam2"

    @tool
    @abstractmethod
    def segment_from_point(self, image: ToolImage, x: UnitFloat, y: UnitFloat) -> Segmentation:
        """Cut out the object that lies under one point of an image.

        Keeps its mask, true on the object and as large as the image, as $segmentation_mask.

        Args:
            image: Which image of the conversation to look at, counted from 0.
            x: Horizontal position of the point, 0 at the left edge and 1 at the right.
            y: Vertical position of the point, 0 at the top edge and 1 at the bottom.
        """

    @tool
    @abstractmethod
    def segment_from_points(self, image: ToolImage, points: list[Point]) -> Segmentation:
        """Cut out the one object that lies under several points of an image.

        Every point counts as on the object. Keeps its mask as $segmentation_mask.

        Args:
            image: Which image of the conversation to look at, counted from 0.
            points: List of (x, y) points between 0 and 1, or a variable that holds one.
        """
