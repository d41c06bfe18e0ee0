"""What a mask and the shading inside it say about an object's shape.

``doubts`` answers only one question: is this silhouette clearly *not* the named shape? From one
view a box seen along its length is a cube, so anything short of clear counts as possible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

DARK_INSIDE = 0.70
"""A pixel below this share of the object's bright level lies inside a vessel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Silhouette:
    hexagon_gap: float
    """Share of the convex hull that its best six corners leave out: small for boxes."""
    ellipse_gap: float
    """Share by which hull and the ellipse of the same moments differ: small for balls."""
    aspect: float
    """Long over short axis."""
    dark_inside: float
    """Share of pixels much darker than the rest."""


def measure(mask: npt.NDArray[np.bool_], brightness: npt.NDArray[np.float32]) -> Silhouette | None:
    """Measures of a filled mask (h, w) and its grey picture; None when it is too small to tell."""
    rows, columns = np.nonzero(mask)
    if len(rows) < 60:
        return None
    points = np.stack([columns, rows], axis=1).astype(np.float64)
    corners = _row_ends(mask)
    try:
        hull = ConvexHull(corners)
    except QhullError:
        return None
    ring = corners[hull.vertices]
    centred = points - points.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(points) + np.eye(2) / 12)
    inside = ((centred @ vectors) ** 2 / (4 * values)).sum(axis=1) <= 1.0
    return Silhouette(
        hexagon_gap=1.0 - _hexagon_area(ring) / float(hull.volume),
        ellipse_gap=1.0 - float(np.count_nonzero(inside)) / len(points),
        aspect=float(np.sqrt(values[1] / values[0])),
        dark_inside=_dark_share(mask, brightness),
    )


def _row_ends(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Outer corners of the first and last pixel of every row: their hull is the mask's."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1) - 0.5
    last = mask.shape[1] - mask[rows, ::-1].argmax(axis=1) - 0.5
    return np.concatenate(
        [np.stack([x, rows + y], axis=1) for x in (first, last) for y in (-0.5, 0.5)]
    )


def doubts(shape: str, seen: Silhouette, *, dark_object: bool) -> bool:
    """Whether what is seen is clearly no such shape; limits from 2,100 development silhouettes."""
    vessel = seen.dark_inside > 0.05
    match shape:
        case "ball":
            return seen.ellipse_gap > 0.015 or seen.aspect > 1.25 or vessel
        case "cube":
            return seen.hexagon_gap > 0.085 or seen.aspect > 1.5 or vessel
        case "box":
            return seen.hexagon_gap > 0.09 or seen.aspect < 1.08 or vessel
        case "cylinder":
            return seen.hexagon_gap < 0.05 or seen.ellipse_gap < 0.009 or vessel
        case "cup":
            closed = seen.dark_inside < 0.001 and not dark_object
            return seen.hexagon_gap < 0.065 or seen.ellipse_gap < 0.012 or closed
        case _:
            raise ValueError(f"unknown shape {shape!r}")


def _hexagon_area(ring: npt.NDArray[np.float64]) -> float:
    """Area left when the least important corners of a convex ring are cut until six remain."""
    while len(ring) > 6:
        before, after = np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0)
        first, second = ring - before, after - before
        cut = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
        ring = np.delete(ring, int(cut.argmin()), axis=0)
    ahead = np.roll(ring, -1, axis=0)
    return 0.5 * abs(float((ring[:, 0] * ahead[:, 1] - ring[:, 1] * ahead[:, 0]).sum()))


def _dark_share(mask: npt.NDArray[np.bool_], brightness: npt.NDArray[np.float32]) -> float:
    core = ndimage.binary_erosion(mask)
    values = ndimage.uniform_filter(brightness, 3)[core]
    if len(values) < 30:
        return 0.0
    level = float(np.percentile(values, 90))
    return float(np.count_nonzero(values < DARK_INSIDE * level)) / len(values)
