"""Small pictures of what tools answered, for a dashboard."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from toolshed.draw import draw
from toolshed.types import (
    CapturedImage,
    DepthEstimate,
    RobotAction,
    Segmentation,
    ToolImage,
    ToolValue,
)

ScalarT = TypeVar("ScalarT", bound=np.generic)
SIDE = 256
"""Pixels of the longer side."""
_QUALITY = 78


def thumbnail(image: ToolImage | None, value: ToolValue | None) -> bytes:
    """A JPEG of the answer drawn on its picture; empty where there is no picture.

    Everything is made small before it is drawn on, so that it takes a hundredth of a second or
    three, whatever its size. ValueError and OverflowError where a value cannot be drawn.
    """
    if isinstance(value, CapturedImage):
        image = value.image
    if isinstance(value, RobotAction) and value.image is not None:
        image = value.image
    if image is None and not isinstance(value, DepthEstimate):
        return b""
    # Depth is drawn on nothing.
    small = ToolImage(pixels=_BLANK, sha256="") if image is None else _small_image(image)
    drawn = draw(small, _small_value(value), quick=True)
    drawn.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    drawn.save(kept, "JPEG", quality=_QUALITY)
    return kept.getvalue()


_BLANK = np.zeros((1, 1, 3), dtype=np.uint8)


def _small_image(image: ToolImage) -> ToolImage:
    picture = Image.fromarray(image.pixels)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return ToolImage(pixels=np.asarray(picture), sha256="")


def _small_value(value: ToolValue | None) -> ToolValue | None:
    match value:
        case DepthEstimate():
            return DepthEstimate(
                depth_m=_thinned(value.depth_m), focal_length_px=value.focal_length_px
            )
        case Segmentation():
            return dataclasses.replace(value, mask=_thinned(value.mask))
        case CapturedImage():
            return CapturedImage(image=_small_image(value.image))
        case RobotAction():
            image = None if value.image is None else _small_image(value.image)
            return dataclasses.replace(value, image=image)
    return value


def _thinned(array: npt.NDArray[ScalarT]) -> npt.NDArray[ScalarT]:
    """Every n-th row and column."""
    step = max(1, math.ceil(max(array.shape) / SIDE))
    return np.ascontiguousarray(array[::step, ::step])
