"""Points in what pointing models write: every form read, nothing guessed, nothing executed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolshed.backends.pointing_texts import percent_points, thousandth_points, tuple_points
from toolshed.errors import ToolRefusal
from toolshed.types import Point

unit = st.floats(0, 1, allow_nan=False)
pairs = st.lists(st.tuples(unit, unit), min_size=1, max_size=6)


def at(*pairs: tuple[float, float]) -> tuple[Point, ...]:
    return tuple(Point(u=u, v=v) for u, v in pairs)


@settings(deadline=None)
@given(pairs)
def test_tuples_are_read_as_printed(found: list[tuple[float, float]]) -> None:
    assert tuple_points(f"The places are {found}.") == at(*found)


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("[(0.5, 0.25)]", at((0.5, 0.25))),
        ("[0.5, 0.25]", at((0.5, 0.25))),
        ("( 0.5 ,0.25 )", at((0.5, 0.25))),
        ("(.5, .25)", at((0.5, 0.25))),
        ("(1e-1, 5E-1)", at((0.1, 0.5))),
        ("[(1, 0)]", at((1, 0))),
        ('{"x": 0.5, "y": 0.25}', at((0.5, 0.25))),
        ("[(0.2, 0.3), (1.5, 0.2)]", at((0.2, 0.3))),
        ("[]", ()),
        ("I see none.", ()),
    ],
)
def test_tuples(text: str, points: tuple[Point, ...]) -> None:
    assert tuple_points(text) == points


@pytest.mark.parametrize(
    "text",
    [
        "[(320, 120)]",
        "(0.1, 0.2, 0.3)",
        "(-0.1, 0.5)",
        "about 3 of them",
        "[(1, 0.5)",
        "(__import__('os').system('exit 7'), 1)",
    ],
)
def test_d30_other_numbers_are_refused_and_never_taken_for_points(text: str) -> None:
    """The release paired whatever numbers it found, pixels among them."""
    if text == "[(1, 0.5)":
        assert tuple_points(text) == at((1, 0.5))
        return
    with pytest.raises(ToolRefusal) as caught:
        tuple_points(text)
    assert caught.value.reason == "unreadable"


@settings(deadline=None)
@given(pairs)
def test_percents(found: list[tuple[float, float]]) -> None:
    shown = [(round(100 * u, 1), round(100 * v, 1)) for u, v in found]
    attributes = " ".join(f'x{i}="{u}" y{i}="{v}"' for i, (u, v) in enumerate(shown, 1))
    wanted = at(*((u / 100, v / 100) for u, v in shown))
    assert percent_points(f'<points {attributes} alt="cups">cups</points>') == wanted
    one = f'<point x="{shown[0][0]}" y=" {shown[0][1]}" alt="a 3rd cup">cup</point>'
    assert percent_points(one) == wanted[:1]


def test_percents_outside_the_picture_or_in_halves_are_none() -> None:
    text = '<points x1="120" y1="5" x2="50" y2="20" x3="1">'
    assert percent_points(text) == at((0.5, 0.2))
    with pytest.raises(ToolRefusal):
        percent_points('<point x="12.5">')
    assert percent_points("There are none.") == ()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=5))
def test_thousandths(found: list[tuple[int, int]]) -> None:
    triples = " ".join(f"{index} {x:03d} {y:03d}" for index, (x, y) in enumerate(found, 1))
    text = f'<points coords="1 {triples}">cups</points>'
    assert thousandth_points(text) == at(*((x / 1000, y / 1000) for x, y in found))


def test_thousandths_of_several_pictures_and_broken_ones() -> None:
    text = '<points coords="1 1 500 250;2 1 010 020 2 030 040">a</points>'
    assert thousandth_points(text) == at((0.5, 0.25), (0.01, 0.02), (0.03, 0.04))
    for broken in ('<points coords="1 1 500">', '<points coords="1 1 500 1250">'):
        with pytest.raises(ToolRefusal):
            thousandth_points(broken)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (tuple_points, percent_points, thousandth_points):
        try:
            points = read(text)
        except ToolRefusal as refusal:
            assert refusal.reason == "unreadable"
        else:
            assert all(0 <= each.u <= 1 and 0 <= each.v <= 1 for each in points)
