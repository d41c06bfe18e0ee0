"""Thumbnails: small JPEGs of whatever tools answer."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.toolshed.fake_tools import picture
from toolshed.images import make_image
from toolshed.thumbnails import SIDE, thumbnail
from toolshed.types import (
    CapturedImage,
    DepthEstimate,
    Detections,
    GraspEstimate,
    IndexedValue,
    OrientedBox,
    Point,
    RobotAction,
    Segmentation,
    TextReply,
    ToolValue,
)

WIDE = make_image(np.full((700, 1400, 3), 90, dtype=np.uint8), None, 100.0)
MASK = np.zeros((700, 1400), dtype=np.bool_)
MASK[200:500, 200:900] = True
VALUES: list[ToolValue | None] = [
    None,
    TextReply(text="42"),
    Detections(obj_name="cup", points=(Point(u=0.5, v=0.5), Point(u=1.0, v=0.0))),
    Segmentation(mask=MASK, score=1.0, points=()),
    IndexedValue(u=0.5, v=0.5, value=1.5, kind="depth_map"),
    DepthEstimate(depth_m=np.ones((700, 1400), dtype=np.float32), focal_length_px=1.0),
    OrientedBox(
        corners_m=np.zeros((8, 3)),
        corners_uv=np.random.default_rng(0).random((8, 2)),
        extent_m=np.ones(3),
        num_kept=1,
        num_total=1,
    ),
    GraspEstimate(
        pose=np.eye(4),
        confidence=1.0,
        keypoints_uv=np.random.default_rng(1).random((5, 2)),
        num_masked=1,
        num_total=1,
        num_generated=1,
        num_collision_free=1,
    ),
    CapturedImage(image=picture(9, 600)),
    RobotAction(action="grasp", success=True, execution_time_s=1.0, image=picture(9, 600)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_each_value_has_a_small_picture(value: ToolValue | None) -> None:
    shown = Image.open(io.BytesIO(thumbnail(WIDE, value)))
    assert shown.format == "JPEG"
    assert max(shown.size) == SIDE
    assert len(thumbnail(WIDE, value)) < 60_000


def test_what_was_found_is_drawn() -> None:
    plain, drawn = (
        np.asarray(Image.open(io.BytesIO(thumbnail(WIDE, value))), dtype=int)
        for value in (None, VALUES[3])
    )
    inside, outside = (slice(45, 85), slice(50, 150)), (slice(5, 30), slice(5, 250))
    assert np.abs(drawn[inside] - plain[inside]).mean() > 20
    assert np.abs(drawn[outside] - plain[outside]).mean() < 3


def test_a_call_without_a_picture_has_none() -> None:
    assert thumbnail(None, TextReply(text="42")) == b""
    assert thumbnail(None, None) == b""
    assert thumbnail(None, VALUES[5]) != b""
    assert thumbnail(None, VALUES[8]) != b""
