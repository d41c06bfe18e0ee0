"""The light back-ends: rules of each, and a short form of the bench's figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.bench.light_measures import Tools, hull_iou, measure
from toolshed.backends.light_boxes import LightBoxes, smallest_box, smallest_rectangle
from toolshed.backends.light_depth import LightDepth, fill_holes, unproject
from toolshed.backends.light_grasping import LightGrasping
from toolshed.backends.light_pointing import LightPointing, parse_phrase
from toolshed.backends.light_robot import LightRobot
from toolshed.backends.light_segmentation import LightSegmentation
from toolshed.backends.light_vision_ops import LightVisionOps
from toolshed.errors import ToolRefusal
from toolshed.images import make_image
from toolshed.tabletop.camera import project
from toolshed.tabletop.render import render
from toolshed.tabletop.scene import COLOURS, DEMO, MANIPULATION, NEARER, make_scene
from toolshed.tabletop.shapes import SHAPES, box_corners
from toolshed.tabletop.world import initial_state
from toolshed.types import DepthEstimate, Point, ToolImage

SEEDS = range(800_000, 800_010)


def _picture(seed: int = 0) -> ToolImage:
    return render(make_scene(seed, DEMO)).image()


def _reason(error: pytest.ExceptionInfo[ToolRefusal]) -> str:
    return error.value.reason


def test_figures_of_the_demo_pictures() -> None:
    for style in (DEMO, NEARER):
        figures = measure(Tools(), style, SEEDS)
        assert figures["one_name"] >= 0.93 and figures["one_colour"] == 1.0
        assert figures["one_absent"] == 1.0 and figures["one_leftmost"] == 1.0
        assert figures["all_precision"] >= 0.93 and figures["vlm_recall"] >= 0.9
        assert figures["iou"] >= 0.85 and figures["depth_mm"] <= 3.0
        assert figures["index_near"] >= 0.97 and figures["box_all"] >= 0.6


def test_figures_of_the_manipulation_worlds() -> None:
    figures = measure(Tools(), MANIPULATION, range(800_000, 800_008))
    assert figures["oracle_lift"] >= 0.9 and figures["tool_lift"] >= 0.8
    assert figures["place_2d"] >= 0.7 and figures["place_3d"] >= 0.7
    assert figures["iou"] >= 0.82 and figures["box_all"] >= 0.65 and figures["mace"] >= 0.6
    assert figures["robot_mm"] <= 3.0 and figures["capture"] == 1.0


@pytest.mark.parametrize(
    ("text", "colour", "shape"),
    [
        ("red cube", "red", "cube"),
        ("the Blue balls", "blue", "ball"),
        ("white boxes", "white", "box"),
        ("a black object", "black", None),
    ],
)
def test_phrases_that_are_understood(text: str, colour: str, shape: str | None) -> None:
    phrase = parse_phrase(text)
    assert phrase is not None and (phrase.colour, phrase.shape) == (colour, shape)


@pytest.mark.parametrize(
    "text", ["leftmost object", "cube", "", "red", "grey cube", "big red cube"]
)
def test_other_phrases_find_nothing(text: str) -> None:
    with pytest.raises(ToolRefusal) as error:
        LightPointing().detect_one(_picture(), text)
    assert _reason(error) == "not_found"


def test_a_point_lies_on_the_object_and_only_vlm_announces() -> None:
    scene = make_scene(3, DEMO)
    truth = render(scene)
    for announce in (False, True):
        found = LightPointing(announce=announce).detect_one(truth.image(), scene.objects[0].name)
        assert found.announce is announce and len(found.points) == 1
        row, column = int(found.points[0].v * 224), int(found.points[0].u * 224)
        assert truth.ids[row, column] == 0


def test_permuted_channels_are_other_colour_names() -> None:
    scene = make_scene(8, DEMO)
    image = render(scene).image()
    swapped = make_image(image.pixels[..., [1, 2, 0]].copy())
    names = {value: name for name, value in COLOURS.items()}
    for item in scene.objects:
        red, green, blue = COLOURS[item.colour]
        before = LightPointing().detect_one(image, f"{item.colour} object").points
        after = LightPointing().detect_one(swapped, f"{names[(green, blue, red)]} object").points
        assert before == after


def test_masks_are_eroded_connected_and_refused_outside_the_picture() -> None:
    scene = make_scene(5, DEMO)
    truth = render(scene)
    target = truth.target(0)
    found = LightSegmentation().segment_from_point(truth.image(), target.u, target.v)
    assert found.mask.shape == (224, 224) and 0.5 < found.score <= 1.0
    assert np.count_nonzero(found.mask & ~truth.mask(0)) == 0
    for points in ([], [Point(u=1.2, v=0.5)]):
        with pytest.raises(ToolRefusal):
            LightSegmentation().segment_from_points(truth.image(), points)


def test_depth_needs_a_sensor_image_and_a_focal_length() -> None:
    image = _picture()
    with pytest.raises(ToolRefusal, match="no depth sensor") as error:
        LightDepth().estimate_depth(make_image(image.pixels, None, 250.0))
    assert _reason(error) == "no_depth"
    with pytest.raises(ToolRefusal, match="focal length"):
        LightDepth().estimate_depth(make_image(image.pixels, image.depth_mm))


def test_holes_take_a_neighbour_s_depth_and_big_ones_stay() -> None:
    depth = np.full((20, 20), 1.0, dtype=np.float32)
    depth[:, 10:] = 2.0
    depth[3, 4] = depth[5, 15] = 0.0
    depth[10:18, 2:9] = 0.0
    filled = fill_holes(depth)
    assert filled[3, 4] == 1.0 and filled[5, 15] == 2.0
    assert set(np.unique(filled)) == {0.0, 1.0, 2.0} and filled[14, 5] == 0.0


@settings(deadline=None)
@given(st.floats(50.0, 900.0), st.integers(3, 40), st.integers(3, 40))
def test_unprojected_pixels_project_back_to_their_middles(
    focal: float, width: int, height: int
) -> None:
    depth = np.random.default_rng(0).uniform(0.3, 2.0, (height, width)).astype(np.float32)
    depth[0, 0] = 0.0
    points = unproject(depth, focal)
    assert points.shape == (height * width - 1, 3) and points.dtype == np.float32
    uv = project(points.astype(np.float64), focal, width, height)
    rows, columns = np.nonzero(depth)
    assert np.allclose(uv[:, 0] * width, columns + 0.5, atol=1e-2)
    assert np.allclose(uv[:, 1] * height, rows + 0.5, atol=1e-2)


def test_index_at_reads_pixels_clamps_and_bridges_holes() -> None:
    depth = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    read = LightVisionOps().index_at
    assert read(depth, 0.0, 0.0).value == 1.0 and read(depth, 1.0, 1.0).value == 12.0
    assert read(depth, 0.5, 0.34).value == 7.0
    depth[1, 2] = 0.0
    assert read(depth, 0.5, 0.34).value in {3.0, 6.0, 8.0, 11.0}
    assert read(depth > 4, 0.9, 0.9).value is True
    assert read(np.zeros((2, 2, 3), dtype=np.uint8), 0.1, 0.1).value == (0.0, 0.0, 0.0)
    for data, u in ((depth, 1.01), (np.zeros(3), 0.5), (np.zeros((2, 2)), 0.5)):
        with pytest.raises(ToolRefusal):
            read(data, u, 0.5)


@settings(deadline=None)
@given(st.floats(0.0, 3.0), st.tuples(st.floats(0.02, 0.2), st.floats(0.02, 0.2)))
def test_the_smallest_rectangle_of_a_turned_rectangle(
    yaw: float, sides: tuple[float, float]
) -> None:
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 60), np.linspace(-0.5, 0.5, 60)), axis=-1)
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    points = (grid.reshape(-1, 2) * sides) @ turn.T + [0.3, -0.1]
    centre, _, found = smallest_rectangle(points)
    assert np.allclose(centre, [0.3, -0.1], atol=3e-3)
    assert np.allclose(np.sort(found), np.sort(sides), rtol=0.08)


def test_without_a_support_the_smallest_box_is_found_in_any_direction() -> None:
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    points = rng.uniform(-0.5, 0.5, (4000, 3)) * [0.1, 0.2, 0.05] @ turn.T + [0.0, 0.0, 0.8]
    pose, size = smallest_box(points)
    assert np.prod(size) <= 0.1 * 0.2 * 0.05 * 1.05
    true_pose = np.eye(4)
    true_pose[:3, :3], true_pose[:3, 3] = turn, [0.0, 0.0, 0.8]
    corners = box_corners(true_pose, np.array([0.1, 0.2, 0.05]))
    assert hull_iou(box_corners(pose, size), corners) > 0.9


def test_hull_iou_of_known_boxes() -> None:
    box = box_corners(np.eye(4), np.ones(3))
    assert hull_iou(box, box) == pytest.approx(1.0)
    assert hull_iou(box, box + np.array([0.5, 0.0, 0.0])) == pytest.approx(1 / 3)
    assert hull_iou(box, box + np.array([2.0, 0.0, 0.0])) == 0.0


def test_boxes_and_grasps_refuse_an_empty_mask_and_too_wide_an_object() -> None:
    image = _picture(1)
    cloud = LightDepth().estimate_depth_with_pointcloud(image)
    assert cloud.points is not None
    nothing = np.zeros((224, 224), dtype=bool)
    with pytest.raises(ToolRefusal) as error:
        LightBoxes().compute_bbox(cloud.points, nothing, 250.0)
    assert _reason(error) == "no_points"
    whole = np.zeros((224, 224), dtype=bool)
    whole[60:160, 60:160] = True
    with pytest.raises(ToolRefusal) as error:
        LightGrasping().compute_grasp(cloud.points, whole, 250.0, image)
    assert _reason(error) in {"too_wide", "collision"}


def test_the_robot_answers_from_its_state_alone_and_refuses_nonsense() -> None:
    robot = LightRobot()
    state = initial_state(7)
    first, again = robot.get_depth(state), robot.get_depth(state)
    assert first.world is state
    assert isinstance(first.value, DepthEstimate) and isinstance(again.value, DepthEstimate)
    assert np.array_equal(first.value.depth_m, again.value.depth_m)
    assert first.value.source == "robot"
    with pytest.raises(ToolRefusal):
        robot.execute_grasp(np.eye(3), state)
    with pytest.raises(ToolRefusal):
        robot.place_object_at_3d_location(np.array([0.0, np.nan, 1.0]), state)


def test_every_shape_word_is_known_to_pointing() -> None:
    assert all(parse_phrase(f"{colour} {shape}") for colour in COLOURS for shape in SHAPES)
