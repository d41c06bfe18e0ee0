"""A mask made smaller from its border, as the published segmentation does to every mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolshed.types import Point, Segmentation

Bools = npt.NDArray[np.bool_]


def erode_square(mask: Bools, size_px: int) -> Bools:
    """Keep the pixels whose square of ``size_px`` is all set; the picture's border takes none."""
    reach = size_px // 2
    kept = np.pad(mask, reach, constant_values=True)
    for axis in (0, 1):
        length = mask.shape[axis]
        shifted = [kept.take(range(each, each + length), axis) for each in range(size_px)]
        kept = np.logical_and.reduce(shifted)
    return np.asarray(kept, dtype=np.bool_)


def segmentation(
    whole: Bools, kept: Bools, score: float, points: tuple[Point, ...]
) -> Segmentation:
    """What erosion left of a mask that is not empty, with the score of the mask that is returned.

    If the whole mask were right, the IoU of the eroded one would be the share that is left, so
    ``score`` (predicted IoU of the whole one) is multiplied by it. A mask that would vanish stays
    whole.
    """
    left = int(np.count_nonzero(kept))
    if left == 0:
        return Segmentation(mask=whole, score=score, points=points, too_thin=True)
    share = left / int(np.count_nonzero(whole))
    return Segmentation(mask=kept, score=score * share, whole_score=score, points=points)
