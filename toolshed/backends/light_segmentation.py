"""Segmentation by growing a region of one colour from points, checked against depth where known.

Shading changes a surface's brightness and not its hue, so hue is compared tightly and brightness
loosely. Like the published tool, masks are eroded; by the picture's width, because a small object
in a small picture would vanish.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from toolshed.backends.erosion import segmentation
from toolshed.errors import ToolRefusal
from toolshed.tools.segmentation import SegmentationTool
from toolshed.types import Point, Segmentation, ToolImage

Bools = npt.NDArray[np.bool_]

EROSION_SHARE = 0.005
MAX_EROSION_PX = 3
HUE_TOLERANCE = 0.16
"""Between unit colour vectors."""
MIN_CHROMA = 45.0
DARK_LEVEL = 50.0
DARK_TOLERANCE = 22.0
BRIGHTNESS_RATIO = 0.70
BRIGHTER = 1.14
"""Than the picture's median, where a grey surface counts as white."""
COLOUR_RATIO = 0.42
"""Of coloured surfaces, where hue already tells the object from a grey table."""
DEPTH_STEP_M = 0.05


class LightSegmentation(SegmentationTool):
    def segment_from_point(self, image: ToolImage, x: float, y: float) -> Segmentation:
        return self.segment_from_points(image, [Point(u=x, v=y)])

    def segment_from_points(self, image: ToolImage, points: list[Point]) -> Segmentation:
        if not points:
            raise ToolRefusal("no_points", "segmentation needs at least one point")
        seeds = [_pixel(point, image) for point in points]
        mask = _grow_all(image, seeds, looseness=1.0)
        tight = _grow_all(image, seeds, looseness=0.8)
        either = int(np.count_nonzero(mask | tight))
        score = int(np.count_nonzero(mask & tight)) / max(1, either)
        return segmentation(mask, _eroded(mask), score, tuple(points))


def _pixel(point: Point, image: ToolImage) -> tuple[int, int]:
    for name, value in (("x", point.u), ("y", point.v)):
        if not 0.0 <= value <= 1.0:
            raise ToolRefusal("out_of_range", f"{name} = {value} is outside [0, 1]")
    row = min(int(point.v * image.height), image.height - 1)
    return row, min(int(point.u * image.width), image.width - 1)


def _grow_all(image: ToolImage, seeds: Sequence[tuple[int, int]], *, looseness: float) -> Bools:
    grown = [_grow(image, seed, seeds, looseness=looseness) for seed in seeds]
    return np.asarray(np.any(grown, axis=0))


def _grow(
    image: ToolImage,
    seed: tuple[int, int],
    seeds: Sequence[tuple[int, int]],
    *,
    looseness: float,
) -> Bools:
    """The connected region around ``seed`` that looks like it, holes filled."""
    row, column = seed
    near = image.pixels[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    colour = np.median(near.reshape(-1, 3), axis=0)
    alike = _alike(image.pixels, colour, looseness)
    for each in seeds:
        alike[each] = True
    labels, _ = ndimage.label(_within_depth(alike, image))
    label = labels[seed]
    if label == 0:
        labels, _ = ndimage.label(alike)
        label = labels[seed]
    place = ndimage.find_objects(labels, max_label=label)[label - 1]
    region = np.zeros(alike.shape, dtype=bool)
    opened = ndimage.binary_fill_holes(np.pad(labels[place] == label, 1))[1:-1, 1:-1]
    region[place] = opened
    return region


def _alike(
    pixels: npt.NDArray[np.uint8], colour: npt.NDArray[np.float64], looseness: float
) -> Bools:
    values = pixels.astype(np.float32)
    level = float(colour.mean())
    levels = values.mean(axis=2)
    chroma = float(colour.max() - colour.min())
    if chroma > MIN_CHROMA:
        norms = np.sqrt(np.einsum("hwc,hwc->hw", values, values)) + 1e-3
        cosine = values @ (colour / np.linalg.norm(colour)).astype(np.float32) / norms
        limit = 1.0 - (HUE_TOLERANCE * looseness) ** 2 / 2
        ratio = COLOUR_RATIO + (1.0 - looseness) * 0.3
        return np.asarray((cosine > limit) & (levels > ratio * level) & (levels < level / ratio))
    grey = (values.max(axis=2) - values.min(axis=2)) < MIN_CHROMA
    if level < DARK_LEVEL:
        return np.asarray(grey & (np.abs(levels - level) < DARK_TOLERANCE * looseness))
    surround = float(np.median(levels))
    if level > BRIGHTER * surround:
        # A white cup is darker inside: brighter than the table is all its parts have in common.
        limit = 1.0 + (BRIGHTER - 1.0) * (2.0 - looseness) * 0.85
        return np.asarray(grey & (levels > limit * surround))
    ratio = 1.0 - (1.0 - BRIGHTNESS_RATIO) * looseness
    return np.asarray(grey & (levels > ratio * level) & (levels < level / ratio))


def _within_depth(alike: Bools, image: ToolImage) -> Bools:
    """Cut the region where the depth sensor sees a step between neighbours of one colour."""
    if image.depth_mm is None:
        return alike
    depth = image.depth_mm.astype(np.int32)
    step = int(DEPTH_STEP_M * 1000)
    cut = np.zeros(alike.shape, dtype=bool)
    known = depth > 0
    across = (np.abs(np.diff(depth, axis=1)) > step) & known[:, 1:] & known[:, :-1]
    down = (np.abs(np.diff(depth, axis=0)) > step) & known[1:] & known[:-1]
    nearer = np.diff(depth, axis=1) > 0
    # The farther side of a step belongs to something behind.
    cut[:, 1:] |= across & nearer
    cut[:, :-1] |= across & ~nearer
    nearer = np.diff(depth, axis=0) > 0
    cut[1:] |= down & nearer
    cut[:-1] |= down & ~nearer
    return np.asarray(alike & ~cut)


def _eroded(mask: Bools) -> Bools:
    """Erode by a disc, equally far in every direction."""
    reach = min(MAX_EROSION_PX, EROSION_SHARE * mask.shape[1])
    span = np.arange(-int(reach), int(reach) + 1)
    disc = span[:, None] ** 2 + span**2 <= reach**2
    return np.asarray(ndimage.binary_erosion(mask, disc))
