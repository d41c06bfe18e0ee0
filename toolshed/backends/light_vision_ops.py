"""Reading, cutting and projecting what other tools returned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolshed.errors import ToolRefusal
from toolshed.replies import hint_of
from toolshed.tools.vision_ops import VisionOps
from toolshed.types import IndexedValue, Point, TextReply, ToolImage, Variable


class LightVisionOps(VisionOps):
    def index_at(self, data: npt.NDArray[np.generic], u: float, v: float) -> IndexedValue:
        """Value at normalised (u, v); the far border counts as the last pixel.

        A depth map with a hole at the place gives its nearest known depth.
        """
        if data.ndim not in (2, 3) or 0 in data.shape:
            raise ToolRefusal(
                "bad_data",
                f"data has shape {data.shape}; a map of shape (H, W) or (H, W, C) is needed",
            )
        for name, value in (("u", u), ("v", v)):
            if not 0.0 <= value <= 1.0:
                raise ToolRefusal("out_of_range", f"{name} = {value} is outside [0, 1]")
        height, width = data.shape[:2]
        row, column = min(int(v * height), height - 1), min(int(u * width), width - 1)
        return IndexedValue(u=u, v=v, value=_read(data, row, column), kind="")

    def point_crop(self, image: ToolImage, points: list[Point]) -> TextReply:
        """The part between the outermost points, their pixels truncated; its far ends excluded."""
        columns = [int(each.u * image.width) for each in points]
        rows = [int(each.v * image.height) for each in points]
        left, top, right, bottom = min(columns), min(rows), max(columns), max(rows)
        if left == right or top == bottom:
            raise ToolRefusal(
                "empty_crop",
                f"points span {right - left} x {bottom - top} pixels; at least 1 x 1 is needed",
            )
        cut = image.pixels[top:bottom, left:right]
        told = (
            f"Cropped image from ({left}, {top}) to ({right}, {bottom}) "
            f"[size: {right - left}x{bottom - top}] to encompass {len(points)} points."
        )
        return _edited(told, "cropped_image", cut)

    def mask_crop(self, image: ToolImage, mask: npt.NDArray[np.bool_]) -> TextReply:
        """The mask's bounding box, white outside of the mask; coverage is its share of the
        picture."""
        if mask.shape != (image.height, image.width):
            raise ToolRefusal(
                "bad_mask",
                f"mask has shape {mask.shape}, the image ({image.height}, {image.width}); "
                "they must agree",
            )
        rows, columns = np.nonzero(mask)
        if len(rows) == 0:
            raise ToolRefusal("empty_mask", "mask covers nothing")
        top, bottom = int(rows.min()), int(rows.max()) + 1
        left, right = int(columns.min()), int(columns.max()) + 1
        inside = mask[top:bottom, left:right, None]
        cut = np.where(inside, image.pixels[top:bottom, left:right], np.uint8(255))
        told = (
            f"Cropped masked region from ({left}, {top}) to ({right}, {bottom}) "
            f"[size: {right - left}x{bottom - top}] mask coverage: {100 * mask.mean():.1f}%."
        )
        return _edited(told, "masked_crop", cut)

    def draw_polygon(self, image: ToolImage, points: list[Point]) -> TextReply:
        from PIL import Image, ImageDraw

        drawn = Image.fromarray(image.pixels.copy())
        corners = [(each.u * image.width, each.v * image.height) for each in points]
        ImageDraw.Draw(drawn).line([*corners, corners[0]], fill=(255, 0, 0), width=2)
        told = f"Drawn polygon on image from {len(points)} points."
        return _edited(told, "drawn_polygon", np.asarray(drawn))

    def project_3d_points_to_2d(
        self, points: npt.NDArray[np.float64], focal_length_px: float, width: int, height: int
    ) -> TextReply:
        points = np.asarray(points, dtype=np.float64)
        if not np.isfinite(points).all() or not (points[:, 2] > 0).all():
            raise ToolRefusal("bad_depth", "points: every z must be positive, and all be numbers")
        centre = np.array([width / 2, height / 2])
        pixels = focal_length_px * points[:, :2] / points[:, 2:] + centre
        if not np.isfinite(pixels).all():
            raise ToolRefusal("bad_depth", "points: some lie too near to the camera to be seen")
        told = f"Projected {len(points)} 3D points to 2D pixel coordinates."
        return _projected(told, "projected_2d_points", pixels)

    def project_2d_points_to_3d(
        self,
        points: npt.NDArray[np.float64],
        point_depth: npt.NDArray[np.float64],
        focal_length_px: float,
        width: int,
        height: int,
    ) -> TextReply:
        if len(points) != len(point_depth):
            raise ToolRefusal(
                "bad_depth", f"point_depth: {len(point_depth)} depths for {len(points)} points"
            )
        if not (point_depth > 0).all():
            raise ToolRefusal("bad_depth", "point_depth: every depth must be positive")
        centre = np.array([width / 2, height / 2])
        sideways = (points - centre) / focal_length_px * point_depth[:, None]
        told = f"Projected {len(points)} 2D points to 3D coordinates."
        return _projected(told, "projected_3d_points", np.column_stack([sideways, point_depth]))


def _edited(told: str, name: str, pixels: npt.NDArray[np.uint8]) -> TextReply:
    from toolshed.images import make_image

    image = make_image(np.ascontiguousarray(pixels))
    kept = Variable(name=name, kind="image", value=image)
    clause = hint_of(f"${name} (image, {image.width}x{image.height})")
    return TextReply(text=f"{told} {clause}", variables=(kept,), images=(image,))


def _projected(told: str, name: str, points: npt.NDArray[np.float64]) -> TextReply:
    kept = Variable(name=name, kind="array", value=points)
    clause = hint_of(f"${name} (numpy array, {points.shape[0]}x{points.shape[1]})")
    return TextReply(text=f"{told} {clause}", variables=(kept,))


def _read(data: npt.NDArray[np.generic], row: int, column: int) -> float | bool | tuple[float, ...]:
    found = data[row, column]
    if data.ndim == 3:
        values: list[float] = np.asarray(found).tolist()
        return tuple(values)
    if data.dtype == np.bool_:
        return bool(found)
    value = float(np.asarray(found, dtype=np.float64))
    if np.issubdtype(data.dtype, np.floating) and not (np.isfinite(value) and value > 0):
        return _nearest_known(np.asarray(data, dtype=np.float64), row, column)
    return value


def _nearest_known(data: npt.NDArray[np.float64], row: int, column: int) -> float:
    rows, columns = np.nonzero(np.isfinite(data) & (data > 0))
    if len(rows) == 0:
        raise ToolRefusal("no_value", "the map holds no valid value anywhere")
    nearest = int(((rows - row) ** 2 + (columns - column) ** 2).argmin())
    return float(data[rows[nearest], columns[nearest]])
