"""Boxes: the smallest turned box around an object's visible points."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from toolshed.tool import Family, FocalLength, Mask, PointCloud, tool
from toolshed.types import OrientedBox


class Boxes(Family):
    """Fits boxes to masked point clouds."""

    name: ClassVar[str] = "bounding_box"

    @tool
    @abstractmethod
    def compute_bbox(
        self, point_cloud: PointCloud, mask: Mask, focal_length_px: FocalLength
    ) -> OrientedBox:
        """Fit the smallest oriented 3D box around the points of a cloud that a mask covers.

        Replies with its eight corners in metres and in the image, its edges, extent and volume.
        Keeps $obb_corners_3d, $obb_corners_2d, $edges and $extent.

        Args:
            point_cloud: The cloud of the whole scene, for example $point_cloud.
            mask: The mask of the object, for example $segmentation_mask.
            focal_length_px: Focal length of the camera in pixels, for example $focal_length_px.
        """
