"""Calculator, greeting, pictures as variables, and the five vision_ops that a config must list."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolshed.backends.calculator import PlainCalculator
from toolshed.backends.greeting import CountedGreeting
from toolshed.backends.light_vision_ops import LightVisionOps
from toolshed.config import parse_tools
from toolshed.errors import ToolRefusal
from toolshed.images import make_image
from toolshed.registry import contract_of
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.tool import specs_of
from toolshed.toolset import ToolSet
from toolshed.types import Json, Point, ToolCall, ToolImage, ToolResult, Variable

ALL_VISION_OPS = [
    "index_at",
    "point_crop",
    "mask_crop",
    "draw_polygon",
    "project_3d_points_to_2d",
    "project_2d_points_to_3d",
]


@pytest.fixture(scope="module")
def shed() -> Iterator[Toolshed]:
    content: dict[str, Json] = {
        name: {"backend": "light"} for name in ("visual_io", "calculator", "greeting")
    }
    shown: list[Json] = [*ALL_VISION_OPS]
    with Toolshed.open(
        parse_tools({"vision_ops": {"backend": "light", "show": shown}, **content})
    ) as opened:
        yield opened


def ramp(height: int = 10, width: int = 20) -> ToolImage:
    """Red is the column, green the row."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return make_image(pixels, None, 100.0)


@pytest.fixture
def session(shed: Toolshed) -> Session:
    found = shed.session([ramp()])
    mask = np.zeros((10, 20), dtype=np.bool_)
    mask[2:5, 4:12] = True
    mask[3, 5] = False
    corners = np.array([[0.0, 0.0, 1.0], [0.1, -0.2, 2.0]])
    cloud = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    for name, kind, value in (
        ("segmentation_mask", "mask", mask),
        ("obb_corners_3d", "box", corners),
        ("point_cloud", "point_cloud", cloud),
        ("focal_length_px", "number", 100.0),
    ):
        found.variables.keep(Variable(name=name, kind=kind, value=value))
    return found


def ask(session: Session, dotted: str, /, **arguments: Json) -> ToolResult:
    return asyncio.run(session.call(ToolCall(id="id", name=dotted, arguments=arguments)))


# ---- calculator -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "arguments", "text"),
    [
        ("add", {"a": 2, "b": 3}, "2 + 3 = 5"),
        ("add", {"a": 0.1, "b": 0.2}, "0.1 + 0.2 = 0.30000000000000004"),
        ("subtract", {"a": 2, "b": 3.5}, "2 - 3.5 = -1.5"),
        ("multiply", {"a": -4, "b": 0.5}, "-4 × 0.5 = -2.0"),
        ("divide", {"a": 6, "b": 3}, "6 ÷ 3 = 2.0"),
        ("power", {"base": 2, "exponent": 10}, "2^10 = 1024"),
        ("power", {"base": 2, "exponent": -1}, "2^-1 = 0.5"),
        ("modulo", {"a": -7, "b": 3}, "-7 mod 3 = 2"),
    ],
)
def test_calculator_texts(
    session: Session, method: str, arguments: dict[str, Json], text: str
) -> None:
    found = ask(session, f"calculator.{method}", **arguments)
    assert (found.status, found.text) == ("ok", text)


@pytest.mark.parametrize(
    ("method", "arguments", "reason", "words"),
    [
        ("divide", {"a": 1, "b": 0}, "zero_divisor", "1 ÷ 0"),
        ("modulo", {"a": 1, "b": 0.0}, "zero_divisor", "1 mod 0"),
        ("power", {"base": 0, "exponent": -1}, "zero_divisor", "0^-1"),
        ("power", {"base": 10, "exponent": 400}, "overflow", "10^400"),
        ("power", {"base": 9, "exponent": 1e300}, "overflow", "9^1e+300"),
        ("multiply", {"a": 1e200, "b": 1e200}, "overflow", "1e+200 × 1e+200"),
        ("power", {"base": -8, "exponent": 0.5}, "no_real_value", "-8^0.5"),
        ("add", {"a": "1", "b": 2}, "bad_argument", "a: got"),
        ("add", {"a": True, "b": 2}, "bad_argument", "a: got"),
        ("add", {"a": 10**400, "b": 2}, "bad_argument", "about 400 digits"),
        ("add", {"a": math.inf, "b": 2}, "bad_argument", "a: got"),
    ],
)
def test_calculator_refusals(
    session: Session, method: str, arguments: dict[str, Json], reason: str, words: str
) -> None:
    found = ask(session, f"calculator.{method}", **arguments)
    assert (found.status, found.reason) == ("refused", reason) and words in found.text


NUMBERS = st.floats(-1e308, 1e308) | st.integers(-(2**53), 2**53).map(float)


@given(NUMBERS, NUMBERS)
def test_calculator_never_says_what_is_no_number(a: float, b: float) -> None:
    tool = PlainCalculator()
    for method in (tool.add, tool.subtract, tool.multiply, tool.divide, tool.power, tool.modulo):
        try:
            text = method(a, b).text
        except ToolRefusal as refusal:
            text = refusal.text
            assert refusal.reason in ("zero_divisor", "overflow", "no_real_value")
        else:
            assert math.isfinite(float(text.rpartition(" = ")[2]))
        assert len(text) < 200


# ---- greeting ---------------------------------------------------------------------------------


def test_greetings_are_counted_from_one() -> None:
    tool = CountedGreeting()
    assert tool.greet("Ada").text == "Hello, Ada! (Greeting #1)"
    assert tool.formal_greet("Ada").text == "Good day, Mr./Ms. Ada. (Greeting #2)"
    assert tool.slow_greet("Ada", 0.0).text == "Hello at last, Ada! (Greeting #3)"


def test_greetings_through_a_session(session: Session) -> None:
    first = ask(session, "greeting.formal_greet", name="Ada", title="Dr.")
    second = ask(session, "greeting.formal_greet", name="Ada", title="Dr.")
    assert first.text.startswith("Good day, Dr. Ada. (Greeting #")
    assert first.text != second.text, "an answer that counts is never remembered"
    late = ask(session, "greeting.slow_greet", name="Ada", delay=61)
    assert late.reason == "bad_argument" and "0 to 60" in late.text


def test_optional_arguments_are_not_required() -> None:
    (spec,) = specs_of(contract_of("greeting", "light"), ["formal_greet"])
    assert spec.parameters["required"] == ["name"]


# ---- visual_io --------------------------------------------------------------------------------


def test_a_picture_is_stored_and_shown_by_its_name(session: Session) -> None:
    stored = ask(session, "visual_io.store_image", image=0, name="before")
    assert stored.text == "Stored the image as $before." and stored.images == ()
    shown = ask(session, "visual_io.view_image", image="$before")
    assert shown.text == "Displaying image."
    assert shown.images == (session.images[0],) and len(session.images) == 2
    again = ask(session, "visual_io.view_image", image=1)
    assert again.status == "ok" and len(session.images) == 3
    unnamed = ask(session, "visual_io.store_image", image=0)
    assert unnamed.text == f"Stored the image as $var_image_{session.images[0].sha256[:8]}."


@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        ({"image": 1}, "bad_image_index", "image=1 but only 1 images"),
        ({"image": "0"}, "bad_argument", 'image: got "0"'),
        ({"image": "$nothing"}, "unknown_variable", "$segmentation_mask"),
        ({"image": "$segmentation_mask"}, "wrong_kind", "allowed: image"),
        ({"image": 0, "name": "_world"}, "bad_argument", "name: got '_world'"),
        ({"image": 0, "name": "a b"}, "bad_argument", "name"),
        ({"image": 0, "name": "x" * 65}, "bad_argument", "name"),
    ],
)
def test_pictures_that_cannot_be_stored(
    session: Session, arguments: dict[str, Json], reason: str, words: str
) -> None:
    found = ask(session, "visual_io.store_image", **arguments)
    assert (found.status, found.reason) == ("refused", reason) and words in found.text


# ---- vision_ops -------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["v1", "v2", "light", "demo"])
def test_published_sets_keep_their_functions(word: str) -> None:
    shown = [spec.method for spec in ToolSet.named(word).specs if spec.family == "vision_ops"]
    assert shown == ["index_at"]
    default = ToolSet.of(parse_tools({"vision_ops": {"backend": "light"}}))
    assert [spec.name for spec in default.specs] == ["vision_ops.index_at"]


def test_the_far_edge_counts_as_the_last_pixel() -> None:
    read = LightVisionOps().index_at(np.arange(6.0).reshape(2, 3) + 1, 1.0, 1.0)
    assert read.value == 6.0


def test_point_crop(session: Session) -> None:
    found = ask(
        session, "vision_ops.point_crop", image_index=0, points=[[0.25, 0.2], [1, 1], [0.5, 0.9]]
    )
    assert found.text == (
        "Cropped image from (5, 2) to (20, 10) [size: 15x8] to encompass 3 points. "
        "Kept for later calls: $cropped_image (image, 15x8)."
    )
    (cut,) = found.images
    assert cut.pixels[0, 0].tolist() == [5, 2, 0] and (cut.height, cut.width) == (8, 15)
    assert session.variables["cropped_image"].value is cut
    thin = ask(session, "vision_ops.point_crop", image_index=0, points=[[0.1, 0.1], [0.9, 0.1]])
    assert thin.reason == "empty_crop" and "16 x 0 pixels" in thin.text


def test_mask_crop(session: Session) -> None:
    found = ask(session, "vision_ops.mask_crop", image_index=0, mask="$segmentation_mask")
    assert found.text == (
        "Cropped masked region from (4, 2) to (12, 5) [size: 8x3] mask coverage: 11.5%. "
        "Kept for later calls: $masked_crop (image, 8x3)."
    )
    (cut,) = found.images
    assert cut.pixels[0, 0].tolist() == [4, 2, 0]
    assert cut.pixels[1, 1].tolist() == [255, 255, 255], "outside of the mask it is white"
    empty: Json = [[False] * 20] * 10
    none = ask(session, "vision_ops.mask_crop", image_index=0, mask=empty)
    assert none.reason == "empty_mask"
    small = ask(session, "vision_ops.mask_crop", image_index=0, mask=[[True]])
    assert small.reason == "bad_mask" and "(1, 1)" in small.text and "(10, 20)" in small.text


def test_draw_polygon_leaves_its_picture_alone(session: Session) -> None:
    before = session.images[0].pixels.copy()
    found = ask(
        session,
        "vision_ops.draw_polygon",
        image_index=0,
        points=[[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]],
    )
    assert found.text == (
        "Drawn polygon on image from 3 points. Kept for later calls: $drawn_polygon (image, 20x10)."
    )
    (drawn,) = found.images
    red = (drawn.pixels == [255, 0, 0]).all(axis=2)
    assert red[2, 10] and not red[8, 2] and red.sum() > 20
    np.testing.assert_array_equal(session.images[0].pixels, before)


def test_projection_to_pixels_has_a_row_per_point(session: Session) -> None:
    sizes: dict[str, Json] = {"focal_length_px": "$focal_length_px", "width": 640, "height": 480}
    found = ask(session, "vision_ops.project_3d_points_to_2d", points="$obb_corners_3d", **sizes)
    assert found.text == (
        "Projected 2 3D points to 2D pixel coordinates. "
        "Kept for later calls: $projected_2d_points (numpy array, 2x2)."
    )
    kept = session.variables["projected_2d_points"].value
    np.testing.assert_allclose(np.asarray(kept), [[320, 240], [325, 230]])
    back = ask(
        session,
        "vision_ops.project_2d_points_to_3d",
        points="$projected_2d_points",
        point_depth=[1, 2],
        **sizes,
    )
    assert back.text == (
        "Projected 2 2D points to 3D coordinates. "
        "Kept for later calls: $projected_3d_points (numpy array, 2x3)."
    )
    corners = session.variables["obb_corners_3d"].value
    np.testing.assert_allclose(
        np.asarray(session.variables["projected_3d_points"].value), np.asarray(corners)
    )


def test_projections_refuse_what_no_camera_sees(session: Session) -> None:
    sizes: dict[str, Json] = {"focal_length_px": 100, "width": 640, "height": 480}
    to_2d, to_3d = "vision_ops.project_3d_points_to_2d", "vision_ops.project_2d_points_to_3d"
    assert ask(session, to_2d, points="$point_cloud", **sizes).reason == "bad_depth"
    behind = ask(session, to_3d, points=[[1, 2]], point_depth=[-1], **sizes)
    assert behind.reason == "bad_depth" and "positive" in behind.text
    fewer = ask(session, to_3d, points=[[1, 2], [3, 4]], point_depth=[1], **sizes)
    assert "1 depths for 2 points" in fewer.text
    odd = ask(session, to_2d, points="$obb_corners_3d", focal_length_px=100, width=6.5, height=4)
    assert odd.reason == "bad_argument" and "width: got 6.5; allowed: an integer" in odd.text


@given(
    st.integers(2, 40),
    st.integers(2, 40),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
)
def test_any_crop_lies_in_its_picture(
    height: int, width: int, pairs: list[tuple[float, float]]
) -> None:
    image = ramp(height, width)
    try:
        found = LightVisionOps().point_crop(image, [Point(u=u, v=v) for u, v in pairs])
    except ToolRefusal as refusal:
        assert refusal.reason == "empty_crop"
        return
    (cut,) = found.images
    left, top = int(cut.pixels[0, 0, 0]), int(cut.pixels[0, 0, 1])
    expected = image.pixels[top : top + cut.height, left : left + cut.width]
    np.testing.assert_array_equal(cut.pixels, expected)
