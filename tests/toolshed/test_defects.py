"""Defects of the release that do not exist here; each test is named after one.

Others are held where they belong: D23 and D30 in test_http_tools.py, D27's pixel in
test_minimal_boxes.py, D28 in test_grasp_filters.py, D30's numbers in test_pointing_texts.py, D31 in
test_molmo_remote_code.py.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from tests.toolshed.contracts import table_picture
from tests.toolshed.stub_stacks import write_llava
from tests.toolshed.test_published_tools import V2
from toolshed.backends.erosion import erode_square, segmentation
from toolshed.backends.roborefer import RoboRefer
from toolshed.config import load_tools, parse_tools
from toolshed.draw import draw
from toolshed.errors import ConfigError
from toolshed.replies import BOX_EDGES, render, variables
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.tabletop.shapes import CORNER_SIGNS, box_corners
from toolshed.toolset import ToolSet
from toolshed.types import (
    DepthEstimate,
    IndexedValue,
    Json,
    OrientedBox,
    Point,
    Segmentation,
    ToolCall,
    ToolResult,
)


def play(session: Session, name: str, **arguments: Json) -> ToolResult:
    return asyncio.run(session.call(ToolCall(id="1", name=name, arguments=arguments)))


@settings(deadline=None)
@given(st.permutations(list(load_tools("v2").families)))
def test_d9_tools_are_shown_in_the_order_of_the_file_whatever_is_ready_first(
    families: list[str],
) -> None:
    config = load_tools("v2")
    turned = config.model_copy(
        update={"families": {each: config.families[each] for each in families}}
    )
    wanted = [name for family in families for name in V2 if name.startswith(f"{family}.")]
    assert [spec.name for spec in ToolSet.of(turned).specs] == wanted


def test_d16_a_simulated_robot_sees_what_the_session_hands_to_it() -> None:
    """In the release nothing ever handed over the picture, so its sensing always failed."""
    with Toolshed.open(parse_tools({"robot": {"backend": "mock"}})) as shed:
        session = shed.session([table_picture()])
        assert play(session, "robot.capture_image").text == "Captured image: 80×64 pixels."
        assert play(session, "robot.get_depth").text.startswith("Retrieved depth map for 80x64")
        cloud = play(session, "robot.get_depth_with_pointcloud")
        assert cloud.text.startswith("Retrieved depth map and generated 5,120 3D points. ")
        pose: Json = [[float(i == j) for j in range(4)] for i in range(4)]
        assert play(session, "robot.execute_grasp", grasp_pose=pose).text == (
            "Grasp execution succeeded."
        )
        place: Json = [0.5, 0.5]
        placed = play(session, "robot.place_object_at_2d_location", placement_point_2d=place)
        assert placed.text == "Placement succeeded."
        blind = play(shed.session(), "robot.capture_image")
        assert (blind.status, blind.reason) == ("refused", "no_world")


def test_d24_the_far_border_is_the_last_pixel() -> None:
    with Toolshed.open(parse_tools({"vision_ops": {"backend": "real"}})) as shed:
        found = play(shed.session(), "vision_ops.index_at", data=[[1, 2], [3, 4]], u=1.0, v=1.0)
    assert isinstance(found.value, IndexedValue) and found.value.value == 4


def test_d25_nothing_draws_with_matplotlib() -> None:
    """The release called a function of it that newer versions lack, so every depth image failed."""
    sources = Path(__file__).resolve().parents[2] / "toolshed"
    imports = re.compile(r"^\s*(from|import) matplotlib", re.MULTILINE)
    assert not [path for path in sources.rglob("*.py") if imports.search(path.read_text())]


@pytest.mark.parametrize("depth_m", [0.0, 1.0, np.nan])
def test_d26_a_constant_depth_map_can_be_drawn(depth_m: float) -> None:
    """The release divided by its range."""
    flat = DepthEstimate(depth_m=np.full((8, 8), depth_m, np.float32), focal_length_px=9.0)
    assert draw(table_picture(), flat).size[0] >= 8


def test_d27_edges_join_neighbours_and_the_extent_is_kept() -> None:
    turned = np.eye(4)
    corners = box_corners(turned, np.array([0.1, 0.2, 0.3]))
    box = OrientedBox(
        corners_m=corners,
        corners_uv=corners[:, :2],
        extent_m=np.array([0.1, 0.2, 0.3]),
        num_kept=1,
        num_total=1,
    )
    differing = [int((CORNER_SIGNS[i] != CORNER_SIGNS[j]).sum()) for i, j in BOX_EDGES]
    assert differing == [1] * 12
    kept = {each.name: each.value for each in variables(box)}
    assert kept["edges"] == BOX_EDGES and np.array_equal(kept["extent"], box.extent_m)  # type: ignore[arg-type]
    before = {each.name: each.value for each in variables(box, "released")}
    assert before["edges"] != BOX_EDGES and "extent" not in before
    assert f"Edges: {list(BOX_EDGES)}" not in render(box, "released", "released")


masks = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@settings(deadline=None)
@given(masks, st.sampled_from([1, 3, 7]))
def test_d29_erosion_is_that_of_a_square_and_the_border_takes_nothing(
    mask: np.ndarray, size: int
) -> None:
    wanted = ndimage.binary_erosion(mask, np.ones((size, size), dtype=bool), border_value=1)
    assert np.array_equal(erode_square(mask, size), wanted)


def test_d29_a_mask_that_would_vanish_stays_whole_and_says_so() -> None:
    thin = np.zeros((40, 40), dtype=bool)
    thin[10:30, 10:14] = True
    points = (Point(u=0.3, v=0.5),)
    found = segmentation(thin, erode_square(thin, 7), 0.9, points)
    assert np.array_equal(found.mask, thin) and found.score == 0.9 and found.too_thin
    assert "with IoU score: 0.900. The object is thin, so its mask was not eroded. Kept for" in (
        render(found, "released", method="segment_from_point")
    )
    # What released policies saw: an empty mask, without a word.
    (before,) = variables(found, "released")
    assert not np.asarray(before.value).any()
    assert "thin" not in render(found, "released", "released")


def test_d29_the_score_is_that_of_the_mask_that_is_returned() -> None:
    wide = np.zeros((40, 40), dtype=bool)
    wide[10:30, 10:30] = True
    found = segmentation(wide, erode_square(wide, 7), 0.9, (Point(u=0.5, v=0.5),))
    assert np.count_nonzero(found.mask) == 14 * 14
    assert found.score == pytest.approx(0.9 * 196 / 400) and found.whole_score == 0.9
    assert "IoU score: 0.441." in render(found, "released")
    assert "IoU score: 0.900." in render(found, "released", "released")


@pytest.mark.parametrize(
    "points", [[[0.3, 0.4]], "[[0.3, 0.4]]", "[(0.3, 0.4)]", "$red_object_detections"]
)
def test_d32_points_are_a_list_its_text_or_a_variable(points: Json) -> None:
    """The release declared a string and then read it letter by letter."""
    light = parse_tools({"sam2": {"backend": "light"}, "vlm": {"backend": "light"}})
    with Toolshed.open(light) as shed:
        session = shed.session([table_picture()])
        play(session, "vlm.detect_all", obj_name="red object", image_index=0)
        found = play(session, "sam2.segment_from_points", points=points, image_index=0)
    assert found.status == "ok" and isinstance(found.value, Segmentation)
    assert len(found.value.points) == 1


def test_d30_roborefer_takes_dtypes_as_words_and_keeps_variables_if_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.syspath_prepend(tmp_path)
    write_llava(tmp_path)
    for word, wanted in (
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("float32", torch.float32),
    ):
        tool = RoboRefer(model_path=str(tmp_path), dtype=word, announce=True)
        assert tool._model.dtype is wanted
        found = tool.detect_all(table_picture(), "cup")
        assert found.points == (Point(u=0.25, v=0.5), Point(u=0.75, v=0.125)) and found.announce
    with pytest.raises(ConfigError, match="write one of float16"):
        RoboRefer(model_path=str(tmp_path), dtype="int8")
    with pytest.raises(ConfigError, match="is no folder"):
        RoboRefer(model_path=str(tmp_path / "absent"))
