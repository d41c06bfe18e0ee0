"""Questions read back as themselves, and the demo's sentences stay what its tokenizer knows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rl.rewards import answer as read
from rl.tabletop import wording

names = st.sampled_from(wording.NAMES)
directions = st.sampled_from(wording.DIRECTIONS)


@given(names, names, directions)
def test_every_template_reads_back(first: str, second: str, direction: wording.Direction) -> None:
    written = {
        "point": wording.point_question(first),
        "depth": wording.depth_question(first),
        "leftmost": wording.leftmost_question(),
        "nearer": wording.nearer_question(first, second),
        "choice": wording.choice_question(first, second),
        "yesno": wording.yesno_question(first, direction, second),
        "number": wording.number_question(first),
        "point_object": wording.point_object_question(first),
        "point_free": wording.point_free_question(first, direction),
        "pose": wording.pose_question(first),
        "grasp": wording.grasp_question(first),
        "pick": wording.pick_question(first),
        "place": wording.place_question(first, 0.25, 0.5),
    }
    assert written.keys() == wording.TEMPLATES.keys()
    for kind, text in written.items():
        asked = wording.asked("<image>" + text)
        assert asked is not None and asked.kind == kind
        assert asked.names[:1] == (() if kind == "leftmost" else (first,))
        if "{b}" in wording.TEMPLATES[kind]:
            assert asked.names[1] == second
        if "{direction}" in wording.TEMPLATES[kind]:
            assert asked.direction == direction


@given(st.text())
def test_other_texts_are_no_questions(text: str) -> None:
    assert wording.asked(text + "!") is None


def test_demo_wording() -> None:
    assert wording.point_question("red cube") == "Where is the red cube?"
    assert wording.depth_question("red cube") == "How far from the camera is the red cube?"
    assert wording.leftmost_question() == "How far from the camera is the leftmost object?"
    assert wording.nearer_question("red cube", "blue ball") == (
        "Which is nearer, the red cube or the blue ball?"
    )
    assert wording.point_answer("0.43", "0.57") == "<answer>[(0.43, 0.57)]</answer>"
    assert wording.depth_answer(0.8712) == '<answer>{"depth": 0.87}</answer>'
    assert wording.name_answer("red cube") == "<answer>red cube</answer>"
    assert wording.leftmost_thought("red") == "The leftmost object is the red object."
    assert wording.found_thought("red cube", "0.87", "blue ball") == (
        "red cube: 0.87; find the blue ball."
    )
    assert wording.compared_thought("blue ball", "0.91", True) == (
        "blue ball: 0.91; first is nearer."
    )


def test_place_keeps_the_coordinates_as_written() -> None:
    asked = wording.asked(wording.place_question("red cube", 0.1234, 0.5))
    assert asked is not None and asked.point == ("0.123", "0.500")


def test_answers_are_what_the_parsers_read() -> None:
    pairs = [(f"0.{digit}", "0.5") for digit in range(1, 6)]
    assert len(read.grasp_points(wording.grasp_text(pairs))) == 5
    assert [point.u for point in read.points(wording.points_answer(pairs))] == [
        0.1, 0.2, 0.3, 0.4, 0.5,
    ]  # fmt: skip
    assert len(wording.NAMES) == 40
