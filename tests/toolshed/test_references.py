"""``$name[3]`` and ``$name.field``: what can be named, what cannot, and what the refusal says."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolshed.fake_tools import picture
from toolshed.arguments import check_arguments
from toolshed.errors import ToolRefusal
from toolshed.references import is_reference, parse_reference, resolve
from toolshed.registry import contract_of
from toolshed.tool import Method, methods_of
from toolshed.types import Json, Point, StoredArray, Variable


def method(dotted: str) -> Method:
    family, _, name = dotted.partition(".")
    return methods_of(contract_of(family, "light"))[name]


class Elsewhere(StoredArray):
    """An array that counts how often it is fetched."""

    def __init__(self, array: np.ndarray) -> None:
        self.num_fetched = 0
        self.dtype, self.shape, self.key = array.dtype.str, array.shape, "key"
        self._array = array

    def fetch(self) -> np.ndarray:
        self.num_fetched += 1
        return self._array


FAR = Elsewhere(np.arange(12.0).reshape(4, 3))
VARIABLES = {
    each.name: each
    for each in (
        Variable(name="detections", kind="points", value=(Point(u=0.25, v=0.5), Point(u=1, v=0))),
        Variable(name="obb_corners_3d", kind="box", value=np.arange(24.0).reshape(8, 3)),
        Variable(name="focal_length_px", kind="number", value=200.0),
        Variable(name="edges", kind="box", value=((0, 1), (0, 2))),
        Variable(name="captured_image", kind="image", value=picture()),
        Variable(name="far", kind="point_cloud", value=FAR),
        Variable(name="mask", kind="mask", value=np.ones((2, 2), dtype=bool)),
        Variable(name="_world", kind="world", value=object()),
    )
}


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("$detections[0]", "points", (Point(u=0.25, v=0.5),)),
        ("$detections[0].u", "number", 0.25),
        ("$detections[1].v", "number", 0),
        ("$obb_corners_3d[7][2]", "number", 23.0),
        ("$edges[1]", "list", [0, 2]),
        ("$captured_image.width", "number", 8),
        ("$captured_image.focal_length_px", "number", 100.0),
        ("$far[3][0]", "number", 9.0),
        ("$mask[0][1]", "boolean", True),
    ],
)
def test_parts_of_variables(text: str, kind: str, value: object) -> None:
    found = resolve("field", text, VARIABLES)
    assert (found.kind, found.value) == (kind, value)


def test_rows_are_arrays_and_fetched_only_where_they_are_read() -> None:
    row = resolve("field", "$obb_corners_3d[3]", VARIABLES)
    assert row.kind == "array"
    np.testing.assert_array_equal(np.asarray(row.value), [9, 10, 11])
    before = FAR.num_fetched
    assert resolve("field", "$far", VARIABLES).value is FAR and FAR.num_fetched == before
    resolve("field", "$far[0]", VARIABLES)
    assert FAR.num_fetched == before + 1


def test_parts_go_where_literals_of_their_form_go() -> None:
    def taken(dotted: str, **arguments: Json) -> dict[str, object]:
        return check_arguments(method(dotted), arguments, images=[picture()], variables=VARIABLES)

    place = taken("robot.place_object_at_3d_location", placement_point_3d="$far[2]")
    np.testing.assert_array_equal(np.asarray(place["placement_point_3d"]), [6, 7, 8])
    point = taken("robot.place_object_at_2d_location", placement_point_2d="$detections[0]")
    assert point == {"placement_point_2d": Point(u=0.25, v=0.5)}
    cut = taken(
        "sam2.segment_from_point", x="$detections[0].u", y="$detections[0].v", image_index=0
    )
    assert (cut["x"], cut["y"]) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$nothing", ["$detections, $obb_corners_3d", "no variable"]),
        ("$nothing[0].u", ["no variable"]),
        ("$_world", ["no variable"]),
        ("$detections[2]", ["$detections has no entry [2]", "[0] to [1]"]),
        ("$detections[0].w", ["$detections[0] has no field 'w'", "fields: u, v"]),
        ("$detections.u", ["$detections has no field 'u'", "fields: none"]),
        ("$detections[0].__class__", ["no variable"]),
        ("$captured_image.pixels", ["fields: width, height, focal_length_px"]),
        ("$obb_corners_3d.shape", ["fields: none"]),
        ("$focal_length_px[0]", ["$focal_length_px has no entries"]),
        ("$detections[-1]", ["no variable"]),
        ("$detections[0:1]", ["no variable"]),
        ("$detections[999999999999]", ["no variable"]),
        ("$detections [0]", ["no variable"]),
        ("$" + "a" * 500, ["no variable", "..."]),
        ("$detections" + "[0]" * 9, ["no variable"]),
    ],
)
def test_references_that_lead_nowhere_say_what_there_is(text: str, words: list[str]) -> None:
    with pytest.raises(ToolRefusal) as caught:
        resolve("data", text, VARIABLES)
    assert caught.value.reason == "unknown_variable" and caught.value.text.startswith("data: ")
    assert all(word in caught.value.text for word in words), caught.value.text
    assert "_world" not in caught.value.text.partition("variables:")[2]


STEPS = st.lists(
    st.integers(0, 10**6) | st.text(string.ascii_letters, min_size=1, max_size=6), max_size=6
)


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True), STEPS)
def test_references_read_back(name: str, steps: list[int | str]) -> None:
    text = f"${name}" + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)
    found = parse_reference(text)
    assert is_reference(text) and found is not None
    assert (found.name, found.steps) == (name, tuple(steps))


@settings(max_examples=300)
@given(st.text(st.sampled_from("$abuvdetions_[]().0123456789 -:'\"{}"), max_size=40))
def test_any_text_is_resolved_or_refused(text: str) -> None:
    for written in (text, f"$detections{text}", f"$captured_image{text}", f"$far{text}"):
        try:
            found = resolve("field", written, VARIABLES)
        except ToolRefusal as refused:
            assert len(refused.text) < 400
        else:
            assert found.kind in ("points", "number", "array", "image", "point_cloud")
