"""Drawings: the right size, on the right place, for every value."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.toolshed import test_replies as values
from toolshed.draw import draw
from toolshed.images import make_image
from toolshed.types import DepthEstimate, Detections, IndexedValue, Point, Segmentation, ToolValue

GREY = make_image(np.full((100, 200, 3), 90, dtype=np.uint8))


@pytest.mark.parametrize(
    "value",
    [
        None,
        values.DETECTED,
        values.MASKED,
        values.BOX,
        values.GRASP,
        values.DROPPED,
        IndexedValue(u=1.0, v=0.0, value=0.5, kind="depth_map"),
        IndexedValue(u=0.0, v=1.0, value=(1.0, 2.0), kind="image"),
        IndexedValue(u=0.5, v=0.5, value=True, kind="mask"),
    ],
)
def test_pictures_are_enlarged_whole_times(value: ToolValue | None) -> None:
    drawn = draw(GREY, value)
    assert drawn.mode == "RGB" and drawn.size == (600, 300)


def test_large_pictures_keep_their_size() -> None:
    assert draw(make_image(np.zeros((10, 500, 3), dtype=np.uint8)), None).size == (500, 10)


def test_points_and_masks_are_where_they_belong() -> None:
    point = Detections(obj_name="x", points=(Point(u=0.25, v=0.5),))
    pixels = np.asarray(draw(GREY, point)).astype(int)
    red, green, _ = pixels[150, 150]
    assert red > 180 and green < 90
    assert (pixels[20, 500] == 90).all()
    mask = np.zeros((100, 200), dtype=bool)
    mask[20:80, 20:180] = True
    tinted = np.asarray(draw(GREY, Segmentation(mask=mask, score=1, points=()))).astype(int)
    red, green, _ = tinted[150, 300]
    assert green > red + 40
    assert (tinted[10, 10] == 90).all()
    assert tinted[60:65, 300].max() > 200


def test_the_picture_itself_is_untouched() -> None:
    before = GREY.pixels.copy()
    draw(GREY, values.BOX)
    np.testing.assert_array_equal(GREY.pixels, before)


def test_depth_has_a_scale_bar_and_survives_odd_maps() -> None:
    drawn = draw(GREY, values.DEPTH)
    assert drawn.width > drawn.height
    for depth_m in (np.zeros((4, 4)), np.full((4, 4), np.nan), np.ones((4, 4))):
        odd = dataclasses.replace(values.DEPTH, depth_m=depth_m.astype(np.float32))
        assert isinstance(odd, DepthEstimate) and draw(GREY, odd).mode == "RGB"
